"""benchmarks.settings: two models at the same random settings."""

import json
from pathlib import Path

import pytest

from benchmarks import compare, settings
from gibbsnet.config import differences, load
from gibbsnet.sweep.file import read
from gibbsnet.sweep.search import Search

REPOSITORY = Path(__file__).parents[1]


def trial(distance, share, kept=0.5, penalty="0.1"):
    scores = {settings.LATE: distance, "chain/3/share": share, "reconstruction/z/same_class": kept}
    return {"params": {"penalty.x": penalty}, **scores, "chain/switch_rate": 0.5, "train/steps": 9, settings.BAND: 0.15}


MODELS = {
    "ali": [trial(0.1, 0.5), trial(0.2, 0.5, penalty="0.01"), trial(0.3, 0.5, kept=0.7)],
    "gibbsnet": [trial(0.2, 0.9), trial(0.1, 0.4, penalty="0.01"), trial(0.1, 0.5)],
}
FOUND = {"settings": [], "models": MODELS}


def test_a_plan_draws_the_same_settings_for_every_model_and_stops_none(tmp_path):
    plan, searched = read(REPOSITORY / settings.PLAN), read(REPOSITORY / "sweeps" / "tuning.yaml")
    assert (plan.method, plan.early, plan.space, plan.cap) == ("random", {}, searched.space, searched.cap)
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


def test_both_are_trained_as_the_contenders_of_the_comparison_are():
    for model, contender in (("ali", "ali"), ("gibbsnet", "gibbsnet_short")):
        here, there = load(settings.MODELS["ring"][model]), load(compare.settings("ring", contender))
        entailed = {"steps", "size.floor", "size.floor_swept", "graph.z.floor", "experiment"}  # floors are drawn
        assert set(differences(here, there)) <= entailed
        assert here["steps"] == compare.STEPS["ring"][contender]


def test_more_is_better_of_shares_and_less_of_distances():
    assert settings.counts(MODELS, "chain/3/share") == 1, "level is not ahead"
    assert settings.counts(MODELS, settings.LATE) == 2
    assert settings.better("reconstruction/z/same_class", 0.9, 0.8) and settings.better(
        "reconstruction/z/mse", 0.8, 0.9
    )


def test_a_page_counts_settings_and_names_the_nearest():
    text = "\n".join(settings.section("ring", FOUND))
    assert "`python -m benchmarks.settings ring`" in text
    assert "| chain/1000/joint_distance | 0.2 [0.1 .. 0.3] | 0.1 [0.1 .. 0.2] | 2 |" in text
    assert "| chain/switch_rate | 0.5 | 0.5 | - |" in text and "| train/steps | 9 | 9 | - |" in text
    rows = [line for line in text.split("\n") if line.startswith(("| ali (", "| gibbsnet ("))]
    assert rows[:2] == ["| ali (0) | 0.1 | 0.1 | 0.5 | 0.5 |", "| ali (1) | 0.01 | 0.2 | 0.5 | 0.5 |"]
    assert rows[3].startswith("| gibbsnet (1) | 0.01 | 0.1 |")


def test_a_figure_has_a_dot_for_each_setting_and_says_which_side_is_whose():
    late, share, _ = settings.draw("ring", FOUND).axes[:3]
    assert late.collections[0].get_offsets().tolist() == [[0.1, 0.2], [0.2, 0.1], [0.3, 0.1]]
    assert (
        [line.get_xdata()[0] for line in late.lines[1:2]] == [line.get_ydata()[0] for line in late.lines[2:]] == [0.15]
    )
    assert late.get_xscale() == "log" and late.get_xlim() == late.get_ylim()
    assert "gibbsnet ahead in 2 of 3: below the line" in late.get_title(loc="left")
    assert "ahead in 1 of 3: above the line" in share.get_title(loc="left")


def swept(folder, trials):
    """What a finished sweep leaves, with scores."""
    for n, t in enumerate(trials):
        run = folder / str(n)
        run.mkdir(parents=True)
        (run / "train.json").write_text('{"steps": 9}')
        scores = {
            "chain": {
                "1000": {"joint_distance": t[settings.LATE]},
                "3": {"share": t["chain/3/share"]},
                "switch_rate": 0.5,
            }
        }
        scores["reference"] = {"test": {"joint_distance": t[settings.BAND]}}
        scores["reconstruction"] = {"z": {"same_class": t["reconstruction/z/same_class"]}}
        (run / "metrics_validation.json").write_text(json.dumps(scores))
    states = [{"number": n, "state": "complete", "params": t["params"], "error": None} for n, t in enumerate(trials)]
    (folder / "sweep.json").write_text(json.dumps({"trials": states}))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of two finished sweeps, which are not run again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    asked = []
    monkeypatch.setattr(settings, "sweep", asked.append)
    for m, trials in MODELS.items():
        swept(tmp_path / "runs" / "sweeps" / f"random_ring_{m}", trials)
    return tmp_path, asked


def test_what_was_found_is_written_once_both_are_there(place, capsys):
    folder, asked = place
    settings.main(["models=gibbsnet", "trainer.threads=1"])
    assert "nothing is written before ali has been" in capsys.readouterr().out and not list((folder / "docs").iterdir())
    out = "out=runs/sweeps/random_ring_gibbsnet"
    assert asked == [["sweeps/random.yaml", "experiment=ring_stable", "steps=7400", "trainer.threads=1", out]]
    settings.main(["ring", "trainer.threads=1"])
    record = json.loads((folder / "docs" / "settings.json").read_text())
    assert record == {"ring": {"settings": [], "models": MODELS}}
    assert "ahead in" in (folder / "docs" / "settings.md").read_text()
    assert (folder / "docs" / "figures" / "settings_ring.png").stat().st_size > 1000


def test_other_settings_and_failed_trials_are_refused_and_nothing_is_written(place):
    folder, _ = place
    path = folder / "runs" / "sweeps" / "random_ring_gibbsnet" / "sweep.json"
    content = json.loads(path.read_text())
    content["trials"][1]["params"]["penalty.x"] = "0.2"
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="gibbsnet and ali have not the same trials"):
        settings.main([])
    content["trials"][2] |= {"state": "failed", "error": "exit code 1: diverged"}
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="random_ring_gibbsnet/2: failed, exit code 1: diverged"):
        settings.main([])
    assert not list((folder / "docs").iterdir())


@pytest.mark.parametrize(
    "words, said",
    [(["grid"], "which data. One of ring"), (["models=hali"], "models=hali: expected some of ali, gibbsnet")],
)
def test_what_is_not_known_is_one_line(words, said):
    with pytest.raises(SystemExit, match=said):
        settings.main(words)


def test_the_page_of_settings_is_that_of_the_record():
    record = json.loads((REPOSITORY / "docs" / "settings.json").read_text())
    assert "\n".join(settings.page(record)) == (REPOSITORY / "docs" / "settings.md").read_text()
    for found in record.values():
        assert len(settings.together(found["models"])) == read(REPOSITORY / settings.PLAN).cap
