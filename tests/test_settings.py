"""benchmarks.settings: two models at the same random settings."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks import compare, runs, settings
from gibbsnet.config import differences, load
from gibbsnet.sweep.file import Range, read
from gibbsnet.sweep.search import Search

REPOSITORY = Path(__file__).parents[1]
RATE = "chain/switch_rate"


def trial(distance, share, kept=0.5, penalty="0.1", band=0.15):
    scores = {settings.LATE: distance, "chain/3/share": share, "reconstruction/z/same_class": kept}
    return {"params": {"penalty.x": penalty}, **scores, RATE: 0.5, "train/steps": 9, settings.BAND: band}


MODELS = {
    "ali": [trial(0.1, 0.5), trial(0.2, 0.5, penalty="0.01"), trial(0.3, 0.5, kept=0.7)],
    "gibbsnet": [trial(0.2, 0.9, band=0.25), trial(0.1, 0.4, penalty="0.01", band=0.25), trial(0.1, 0.5, band=0.25)],
}
COLLAPSED = {**MODELS, "gibbsnet": [*MODELS["gibbsnet"][:2], {n: v for n, v in trial(0.1, 0.5).items() if n != RATE}]}


def width(space):
    return math.log(space.high / space.low) if space.log else space.high - space.low


@pytest.mark.parametrize("data", settings.PLANS)
def test_a_plan_draws_the_same_settings_for_every_model_and_stops_none(tmp_path, data):
    plan, searched = read(REPOSITORY / settings.PLANS[data]), read(REPOSITORY / "sweeps" / "tuning.yaml")
    assert (plan.method, plan.early, plan.space.keys()) == ("random", {}, searched.space.keys())
    if data == "mnist":  # about other rates and penalties, in ranges as wide
        ranges = {key: space for key, space in plan.space.items() if isinstance(space, Range)}
        assert {k: width(s) for k, s in ranges.items()} == pytest.approx({k: width(searched.space[k]) for k in ranges})
        assert ranges.keys() == plan.space.keys() - {"seed"} and plan.cap == 8
    else:
        assert (plan.space, plan.cap) == (searched.space, searched.cap)
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        search = Search(plan, tmp_path / name, [f"model={name}"])
        for value in (1.0, 2.0, 3.0):
            asked, params = search.ask()
            drawn.append(params)
            search.tell(asked, [value if name == "a" else -value], stopped=False, error=None)
    assert drawn[:3] == drawn[3:], "whatever came of those before"
    assert len({p["optim.lr"] for p in drawn}) == 3


@pytest.mark.parametrize("data", settings.MODELS)
def test_both_are_trained_as_the_contenders_of_the_comparison_are(data):
    for model, contender in (("ali", "ali"), ("gibbsnet", "gibbsnet_short")):
        here, there = load(settings.MODELS[data][model]), load(compare.settings(data, contender))
        entailed = {"steps", "size.floor", "size.floor_swept", "graph.z.floor", "experiment"}  # floors are drawn
        half, whole = data == "mnist", compare.STEPS[data][contender]
        assert set(differences(here, there)) <= entailed | ({"evaluation.samples"} if half else set())
        assert here["steps"] == (whole // 200 * 100 if half else whole)


def test_a_chart_is_of_what_is_recorded_and_coloured_by_what_is_drawn_at_random():
    record = recorded()
    assert settings.CHARTS.keys() == settings.MODELS.keys() == record.keys()
    assert all(read(REPOSITORY / plan).space[settings.COLOUR].log for plan in settings.PLANS.values())
    for data, models in record.items():
        assert all(
            settings.CHARTS[data].drawn.keys() <= trial.keys() for found in models.values() for trial in found
        ), data


def test_more_is_better_of_shares_less_of_distances_and_of_some_scores_neither():
    assert settings.ahead(MODELS, "chain/3/share") == (1, 1), "level is neither"
    assert settings.ahead(MODELS, settings.LATE) == (2, 1)
    assert settings.ahead(MODELS, "reconstruction/z/same_class") == (0, 1)
    assert settings.ahead(MODELS, settings.BAND) == settings.ahead(COLLAPSED, RATE) == (0, 0)


def test_a_page_counts_settings_and_names_the_nearest():
    text = "\n".join(settings.section("ring", COLLAPSED))
    assert "`python -m benchmarks.settings ring`" in text
    assert "| chain/1000/joint_distance | 0.2 [0.1 .. 0.3] | 0.1 [0.1 .. 0.2] | 2 : 1 |" in text
    assert "| chain/switch_rate | 0.5 | 0.5 (2) | 0 : 0 |" in text and "| train/steps | 9 | 9 | - |" in text
    rows = [line for line in text.split("\n") if line.startswith(("| ali (", "| gibbsnet ("))]
    assert rows[:2] == ["| ali (0) | 0.1 | 0.1 | 0.5 | 0.5 |", "| ali (1) | 0.01 | 0.2 | 0.5 | 0.5 |"]
    assert rows[3].startswith("| gibbsnet (1) | 0.01 | 0.1 |")


def test_a_figure_has_a_dot_for_each_setting_and_says_which_side_is_whose():
    late, share, _ = settings.draw(MODELS, settings.CHARTS["ring"]).axes[:3]
    dots = late.collections[0]
    assert dots.get_offsets().tolist() == [[0.1, 0.2], [0.2, 0.1], [0.3, 0.1]] and list(dots.get_array()) == [
        0.1,
        0.01,
        0.1,
    ]
    upright, flat = late.lines[1:]
    assert (
        list(upright.get_xdata()) == [0.15, 0.15] and list(flat.get_ydata()) == [0.25, 0.25] and len(share.lines) == 1
    )
    assert late.get_xscale() == "log" and late.get_xlim() == late.get_ylim()
    far = {m: [{**t, settings.LATE: 9.0} for t in trials] for m, trials in MODELS.items()}
    assert settings.draw(far, settings.CHARTS["ring"]).axes[0].get_xlim()[0] < 0.15, (
        "the band is seen wherever the dots are"
    )
    assert "gibbsnet ahead in 2 of 3: below the line" in late.get_title(loc="left")
    assert "ahead in 1 of 3: above the line" in share.get_title(loc="left")


@pytest.mark.parametrize("data", settings.CHARTS)
def test_the_numbers_at_a_figure_s_axes_are_apart_and_more_than_one(data):
    figure = settings.draw(recorded()[data], settings.CHARTS[data])
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes[:-1]:
        inside = [t for t in axes.get_xticklabels() if axes.get_xlim()[0] <= t.get_position()[0] <= axes.get_xlim()[1]]
        boxes = [label.get_window_extent() for label in inside]
        assert len(boxes) > 1 and all(a.x1 < b.x0 for a, b in pairwise(boxes)), [t.get_text() for t in inside]


def swept(folder, trials):
    """What a finished sweep leaves, with scores."""
    for n, t in enumerate(trials):
        run = folder / str(n)
        run.mkdir(parents=True)
        (run / "train.json").write_text('{"steps": 9}')
        scores = {name: value for name, value in t.items() if name not in ("params", "train/steps")}
        (run / "metrics_validation.json").write_text(json.dumps(runs.nested(scores)))
    states = [{"number": n, "state": "complete", "params": t["params"], "error": None} for n, t in enumerate(trials)]
    (folder / "sweep.json").write_text(json.dumps({"trials": states}))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of two finished sweeps, which are not run again, and what was asked of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    asked = []
    monkeypatch.setattr(settings, "sweep", asked.append)
    for m, trials in MODELS.items():
        swept(tmp_path / "runs" / "sweeps" / f"random_ring_{m}", trials)
    return tmp_path, asked


def test_what_was_found_is_written_of_both_and_of_one_nothing(place, capsys):
    folder, asked = place
    settings.main(["models=gibbsnet"])
    assert "gibbsnet: trained and scored; the command without models= writes" in capsys.readouterr().out
    assert not list((folder / "docs").iterdir())
    alone, out = ["trainer.threads=1", "tracking.mode=disabled"], "out=runs/sweeps/random_ring_gibbsnet"
    assert asked == [["sweeps/random.yaml", "experiment=ring_stable", "steps=7400", *alone, out]]
    settings.main(["ring"])
    record = json.loads((folder / "docs" / "settings.json").read_text())
    assert record == {"ring": MODELS} and list(record["ring"]) == ["ali", "gibbsnet"]
    assert "ahead : behind" in (folder / "docs" / "settings.md").read_text()
    assert (folder / "docs" / "figures" / "settings_ring.png").stat().st_size > 1000


def test_a_trial_without_scores_is_scored_on_the_validation_split(place, monkeypatch):
    folder, _ = place
    run = folder / "runs" / "sweeps" / "random_ring_ali" / "1"
    (run / "config.yaml").write_text(json.dumps(load(["experiment=ring", f"run={run}"])))
    scores, asked = (run / "metrics_validation.json").read_text(), []
    (run / "metrics_validation.json").unlink()

    def evaluate(config):
        asked.append((config["run"], config["evaluation"]["split"]))
        (run / "metrics_validation.json").write_text(scores)

    monkeypatch.setattr(settings, "evaluate", evaluate)
    settings.main([])
    assert asked == [("runs/sweeps/random_ring_ali/1", "validation")]
    assert json.loads((folder / "docs" / "settings.json").read_text()) == {"ring": MODELS}


def test_other_settings_failed_trials_and_scores_that_are_missing_are_refused_and_nothing_is_written(place):
    folder, _ = place
    sweep = folder / "runs" / "sweeps" / "random_ring_gibbsnet"
    content = json.loads((sweep / "sweep.json").read_text())
    content["trials"][1]["params"]["penalty.x"] = "0.2"
    (sweep / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="gibbsnet and ali have not the same trials"):
        settings.main([])
    scores = json.loads((sweep / "1" / "metrics_validation.json").read_text())
    scores["chain"]["1000"]["joint_distance"] = None
    (sweep / "1" / "metrics_validation.json").write_text(json.dumps(scores))
    with pytest.raises(SystemExit, match="random_ring_gibbsnet/1: expected a finite chain/1000/joint_distance"):
        settings.main([])
    content["trials"][2] |= {"state": "failed", "error": "exit code 1: diverged"}
    (sweep / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="random_ring_gibbsnet/2: failed, exit code 1: diverged"):
        settings.main([])
    assert not list((folder / "docs").iterdir())


@pytest.mark.parametrize(
    "words, said",
    [
        (["grid"], "which data. One of ring"),
        (["models=hali"], "models=hali: expected some of ali, gibbsnet"),
        (["trials=12"], "trials=12: expected models=NAMES alone"),
        (["ring", "models"], "models: expected models=VALUE"),
    ],
)
def test_what_is_not_known_is_one_line(words, said):
    with pytest.raises(SystemExit, match=said):
        settings.main(words)


def recorded():
    return json.loads((REPOSITORY / "docs" / "settings.json").read_text())


def test_the_page_of_settings_is_that_of_the_record():
    record = recorded()
    assert "\n".join(settings.page(record)) == (REPOSITORY / "docs" / "settings.md").read_text()
    for data, models in record.items():
        assert len(settings.same_settings(models)) == read(REPOSITORY / settings.PLANS[data]).cap


# Kind of best -> the metric of a data set's chart, and whether less of it is better.
BEST = {"nearest": lambda data: (settings.CHARTS[data].late, 1), "surest": lambda _: ("chain/3/class_score", -1)}


@pytest.mark.parametrize(
    "data, best", [("ring", "nearest"), ("digits", "nearest"), ("digits", "surest"), ("mnist", "surest")]
)
@pytest.mark.parametrize("model, floor", [("ali", "size.floor"), ("gibbsnet", "size.floor_swept")])
def test_contenders_have_the_setting_that_was_best_of_the_record(model, floor, data, best):
    metric, sign = BEST[best](data)
    chosen = min(recorded()[data][model], key=lambda trial: sign * trial[metric])["params"]
    said = dict(word.split("=") for word in compare.tuned(data, f"{model}_{best}"))
    said["graph.z.floor"] = said.pop(floor)
    assert {k: float(v) for k, v in said.items()} == pytest.approx({k: float(v) for k, v in chosen.items()}, rel=5e-3)
