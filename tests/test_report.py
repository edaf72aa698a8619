"""The page over run folders that are whole, unfinished or damaged."""

import csv
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure

from gibbsnet.__main__ import main
from gibbsnet.plots import RULE, save
from gibbsnet.report import report
from gibbsnet.report.charts import colours, memory, over_steps, recorded
from gibbsnet.report.runs import Run, command, differences, find, read
from gibbsnet.report.scores import Comparison, best, compare, references, rows, spreads
from gibbsnet.report.summary import findings


def metrics(ratio, probe=0.9, latent="z", N=2):
    """metrics.json as `evaluate` lays it out."""
    steps = {
        str(i): {"class_score": 8.0, "class_frechet_ratio": ratio + i / 1000, "classes": 10} for i in (0, 10, 1000, N)
    }
    return {
        "samples": {"class_score": 8.0, "class_score_std": 0.1, "class_frechet_ratio": ratio, "class_kid": None},
        "chain": {**steps, "switch_rate": 0.4},
        "latent": {latent: {"probe_accuracy": probe}},
        "reconstruction": {latent: {"mse": 0.03}},
        "reference": {
            "test": {
                "class_score": 9.0,
                "class_frechet_ratio": 0.05,
                "joint_distance": 0.01,
                "joint_distance_shuffled": 0.2,
            },
            "untrained_encoder": {"z": {"probe_accuracy": 0.85}, "z1": {"probe_accuracy": 0.86}},
        },
    }


def make(root, model, seed, values=None, experiment="default", data="digits", **config):
    """A finished run folder."""
    folder = root / experiment / data / model / str(seed)
    folder.mkdir(parents=True)
    config = {"experiment": experiment, "seed": seed, "steps": 20, **config}
    config |= {"model": {"name": model, "width": 8}, "data": {"name": data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(values or metrics(0.3)))
    (folder / "train.json").write_text(json.dumps({"steps": 20, "images_per_second": 1234.5}))
    lines = [{"step": t, "images_seen": 100 * t, "train/loss": 1 / t, "grad": None} for t in range(1, 20)]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save(Figure((1, 1)), folder / "figures" / "samples.png")
    return folder


@pytest.fixture
def root(tmp_path):
    """ALI and GibbsNet with three seeds each, HALI with one."""
    for seed, shift in ((1, 0), (2, 0.01), (3, -0.02)):
        make(tmp_path / "runs", "ali", seed, metrics(0.4 + shift, N=0))
        make(tmp_path / "runs", "gibbsnet", seed, metrics(0.3 + shift, probe=0.8))
    make(tmp_path / "runs", "hali", 1, metrics(0.5, probe=0.95, latent="z1", N=0))
    return tmp_path / "runs"


def html_of(root, **options):
    return report(root, root.parent / "reports", **options).read_text()


def text_of(html):
    return " ".join(re.sub(r"<(style|title)>.*?</\1>|<[^>]+>", " ", html, flags=re.S).split())


class Balanced(HTMLParser):
    """Raises where tags do not nest; collects links, ids and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs["src"]] if "src" in attrs else []
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_sound_and_needs_nothing_else(root):
    html = html_of(root)
    page = Balanced()
    page.feed(html)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert page.links and all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert len(page.sources) == 5 and all(source.startswith("data:image/") for source in page.sources)
    assert "http" not in re.sub(r'"data:[^"]*"', "", html) and "<script" not in html and "url(" not in html


def test_seeds_become_a_median_and_a_range(root):
    comparison = compare([read(folder) for folder in find(root)])[0]
    spread = spreads(comparison, ("samples", "class_frechet_ratio"))["ali"]
    assert spread == (0.4, 0.38, pytest.approx(0.41), 3)
    html = html_of(root)
    assert "seeds 1, 2, 3" in html and "0.400<small>[0.380, 0.410]</small>" in html


def test_the_best_of_each_row_is_marked_in_its_direction(root):
    comparison = compare([read(folder) for folder in find(root)])[0]
    won = best(comparison, rows(comparison))
    assert (("samples", "class_frechet_ratio"), "gibbsnet") in won  # lower is better
    assert (("latent", "z1", "probe_accuracy"), "hali") in won  # higher is better, among all latents
    assert {model for row, model in won if row[-1] == "probe_accuracy"} == {"hali"}
    assert not any(row[-1] in ("switch_rate", "class_score") for row, _ in won)  # all equal: nobody wins
    cell = re.search(r'<td class="best">([^<]*)', html_of(root))
    assert cell.group(1) == "0.300"


def test_a_model_alone_wins_nothing(root):
    comparison = compare([read(root / "default/digits/hali/1")])[0]
    assert best(comparison, rows(comparison)) == set()


def test_what_was_not_finite_is_shown_and_never_best(root):
    (root / "default/digits/hali/1/metrics.json").write_text(
        json.dumps(metrics(0.1) | {"samples": {"class_frechet_ratio": None}})
    )
    comparison = compare([read(folder) for folder in find(root)])[0]
    assert (("samples", "class_frechet_ratio"), "gibbsnet") in best(comparison, rows(comparison))
    assert ">nan<" in html_of(root)


def test_references_stand_beside_the_score_they_belong_to(root):
    run = read(root / "default/digits/hali/1")
    assert references(run, ("latent", "z1", "probe_accuracy")) == {"untrained_encoder": 0.86}
    assert references(run, ("latent", "z2", "probe_accuracy")) == {}
    assert references(run, ("chain", "10", "class_frechet_ratio")) == {"test": 0.05}
    assert references(run, ("chain", "10", "joint_distance")) == {"test": 0.01, "shuffled_z": 0.2}


def test_the_summary_is_computed_from_the_numbers(root):
    found = {f.ranking[0].row: f for f in findings(compare([read(folder) for folder in find(root)])[0])}
    at_N = found["samples", "class_frechet_ratio"]
    assert [entry.model for entry in at_N.ranking] == ["gibbsnet", "ali", "hali"] and at_N.notes == []
    assert found["chain", "1000", "class_frechet_ratio"].ranking[0].spread.median == pytest.approx(1.3)
    probe = found["latent", "z1", "probe_accuracy"]
    assert probe.beside["untrained_encoder"].median == 0.86
    said = text_of(html_of(root))
    assert "Samples at i = N: gibbsnet 0.300 [0.280, 0.310], then ali 0.400, hali 0.500" in said


def test_a_model_ranks_once_by_its_best_latent(root):
    values = metrics(0.5, probe=0.95, latent="z1")
    values["latent"]["z2"] = {"probe_accuracy": 0.7}
    (root / "default/digits/hali/1/metrics.json").write_text(json.dumps(values))
    found = {f.ranking[0].row: f for f in findings(compare([read(folder) for folder in find(root)])[0])}
    ranking = found["latent", "z1", "probe_accuracy"].ranking
    assert [(e.model, e.spread.median) for e in ranking] == [("hali", 0.95), ("ali", 0.9), ("gibbsnet", 0.8)]


def test_the_summary_admits_weak_evidence(root):
    for seed in (1, 2, 3):
        folder = root / f"default/digits/gibbsnet/{seed}"
        (folder / "metrics.json").write_text(json.dumps(metrics(0.39, probe=0.8)))
    runs = [read(folder) for folder in find(root) if "hali" not in str(folder)]
    found = {f.ranking[0].row[-1]: f.notes for f in findings(compare(runs)[0])}
    assert found["class_frechet_ratio"] == ["the seeds of gibbsnet and ali overlap"]
    worst = Comparison("default", "digits", {"gibbsnet": [runs[-1]]})
    notes = {f.ranking[0].row[-1]: f.notes for f in findings(worst)}
    assert notes["probe_accuracy"] == ["no better than an untrained encoder"]


def test_equal_seeds_are_called_level_and_not_overlapping(root):
    runs = [read(root / f"default/digits/{model}/1") for model in ("ali", "gibbsnet")]
    for run in runs:
        run.metrics["samples"]["class_frechet_ratio"] = 0.25
    found = {
        f.ranking[0].row: f.notes
        for f in findings(Comparison("default", "digits", dict(ali=runs[:1], gibbsnet=runs[1:])))
    }
    assert found["samples", "class_frechet_ratio"] == ["ali and gibbsnet are level"]


def test_one_bad_start_does_not_hide_what_differs_later(root):
    path = root / "default/digits/gibbsnet/1/metrics.json"
    found = json.loads(path.read_text())
    for i, value in zip(sorted(found["chain"].keys() - {"switch_rate"}, key=int), (2.0, 0.02, 0.05, 0.1), strict=False):
        found["chain"][i]["joint_distance"] = value
    path.write_text(json.dumps(found))
    figure = over_steps(Comparison("default", "digits", {"gibbsnet": [read(path.parent)]}), {"gibbsnet": "red"})
    panel = next(p for p in figure.axes if p.get_title("left").startswith("joint_distance"))
    heights = [panel.transAxes.inverted().transform(panel.transData.transform((0, y)))[1] for y in (0.02, 0.05, 2.0)]
    assert heights[1] - heights[0] > 0.1 and heights[0] > 0 and heights[2] < 1


@pytest.mark.parametrize(
    "test, curve, said, lowest",
    [
        (0.05, 0.3, "test", 0.0),
        (0.001, 0.3, "below: test 0.001", 0.03),
        (0.0, 0.3, "below: test 0", 0.03),
        (0.001, 0.0, "below: test 0.001", 0.03),  # a curve's 0 cannot be shown and sets no edge
        (0.001, math.nan, "below: test 0.001", 0.03),
    ],
)
def test_a_reference_far_below_every_curve_is_named_at_the_edge(root, test, curve, said, lowest):
    path = root / "default/digits/gibbsnet/1/metrics.json"
    found = json.loads(path.read_text())
    found["reference"]["test"]["class_frechet_ratio"] = test
    found["chain"]["10"]["class_frechet_ratio"] = curve
    path.write_text(json.dumps(found))
    figure = over_steps(Comparison("default", "digits", {"gibbsnet": [read(path.parent)]}), {"gibbsnet": "red"})
    panel = next(p for p in figure.axes if p.get_title("left").startswith("class_frechet_ratio"))
    (text,) = panel.texts
    assert text.get_text() == said and panel.get_ylim()[0] >= lowest
    figure.canvas.draw()
    assert panel.bbox.y0 <= text.get_window_extent().y0 and text.get_window_extent().y1 <= panel.bbox.y1


def steps_and_references(name, curve, **references):
    """The panel of one run's score at steps 0, 1, 10 and 1000, its curve as it is drawn, and the references' names."""
    drawn = {str(i): {name: value} for i, value in zip((0, 1, 10, 1000), curve, strict=True)}
    known = {reference: {name: value} for reference, value in references.items()}
    runs = {"m": [Run(Path(), metrics={"chain": drawn, "reference": known})]}
    figure = over_steps(Comparison("", "digits", runs), {"m": "red"})
    panel = figure.axes[0]
    figure.canvas.draw()
    (line,) = (line for line in panel.lines if line.get_marker() == "o")
    return panel, panel.transData.transform_path(line.get_path()).interpolated(50).vertices, panel.texts


@pytest.mark.parametrize(
    "curve, at, va",
    [
        ((3, 5, 5, 5), 0, "bottom"),  # nothing is in the way: names' usual ends take turns, and "low" has the right one
        ((2.2, 5, 5, 5), 1, "bottom"),
        ((2.2, 5, 5, 2.2), 0.5, "bottom"),
        ((2.05, 2.05, 2.05, 2.05), 0, "top"),
    ],
)
def test_a_reference_is_named_where_no_curve_runs(curve, at, va):
    _, passed, (low, name) = steps_and_references("class_score", curve, low=0.5, test=2.0)
    assert (low.get_text(), name.get_text()) == ("low", "test")
    assert name.get_window_extent().count_contains(passed) == 0
    assert (name.xy, name.get_va()) == ((at, 2.0), va)


@pytest.mark.parametrize(
    "curve", [(5, 4.5, 3, 2.3), (2.3, 3, 4.5, 5), (3, 2.3, 2.3, 3), (2.3,) * 4, (1.7, 3, 1.7, 1.7)]
)
def test_of_two_references_each_is_named_at_its_own_line(curve):
    """They lie so near to each other that a name above the lower one would stand on the upper one, or the other way round."""
    panel, _, (_, *names) = steps_and_references("class_score", curve, low=0.5, test=2.0, gaussian=2.1)
    boxes = [name.get_window_extent() for name in names]
    assert [name.get_text() for name in names] == ["test", "gaussian"] and not boxes[0].overlaps(boxes[1])
    heights = [panel.transData.transform((0, y))[1] for y in (2.0, 2.1)]
    assert 0 < heights[1] - heights[0] < boxes[0].height
    assert not any(box.y0 < height < box.y1 for box in boxes for height in heights)


def test_on_a_logarithmic_axis_a_curve_runs_as_it_is_drawn():
    """Straight between two steps there, which is no straight line between their values."""
    _, passed, names = steps_and_references(
        "class_frechet_ratio", (1.703, 0.163, 0.3, 0.987), test=0.396, gaussian=0.806
    )
    assert [name.get_window_extent().count_contains(passed) for name in names] == [0, 0]


def test_a_distance_s_axis_has_labels_within_a_decade(root):
    runs = {"gibbsnet": [read(root / "default/digits/gibbsnet/1")]}  # ratios of .3 to 1.3, the reference at .05
    runs["gibbsnet"][0].metrics["reference"]["test"]["class_frechet_ratio"] = 0.001
    panel = over_steps(Comparison("default", "digits", runs), {"gibbsnet": "red"}).axes[0]
    low, high = panel.get_ylim()
    assert high < 10 * low and sum(low <= tick <= high for tick in panel.get_yticks()) >= 3


def crowd(names, seeds=2):
    """Models of these names, each with seeds; no two have one median, and the two scores lie far apart."""

    def run(k, seed):
        value = 0.1 * 2**k * (1 + 0.1 * seed)
        chain = {str(i): {"joint_distance": value, "share": 0.01 * (k + 1 + 0.1 * seed)} for i in (0, 1, 10)}
        return Run(Path(), metrics={"chain": chain})

    return {name: [run(k, seed) for seed in range(seeds)] for k, name in enumerate(names)}


@pytest.mark.parametrize("n, rows", [(2, [2]), (6, [6]), (7, [3, 4]), (11, [3, 4, 4])])
def test_of_a_crowd_every_row_shows_a_few_models_before_the_others_in_grey(n, rows):
    models = crowd([f"model_{k:02}" for k in reversed(range(n))])
    palette = {model: colours(list(models))[model] for model in models}  # not in the order of the names
    figure = over_steps(Comparison("default", "ring", models), palette)
    assert len(figure.axes) == 2 * len(rows)
    named = []
    for k, panel in enumerate(figure.axes):
        assert panel.get_title("left").startswith(("joint_distance", "share")[k % 2])
        few = [line for line in panel.lines if line.get_color() != RULE]
        behind = [line for line in panel.lines if line.get_color() == RULE]
        assert (len(few), len(behind)) == (rows[k // 2], n - rows[k // 2]) and len(panel.collections) == len(few)
        assert max([line.zorder for line in behind], default=0) < min(line.zorder for line in few)
        assert panel.get_ylim() == figure.axes[k % 2].get_ylim(), "rows are read against each other"
        if legend := panel.get_legend():
            assert k % 2 == 1, "at the end of its row"
            shown = [text.get_text() for text in legend.get_texts()]
            assert {palette[name] for name in shown} == {line.get_color() for line in few}
            named += shown
    assert figure.axes[0].get_ylim() != figure.axes[1].get_ylim()
    assert named == (list(models) if len(rows) > 1 else []), "in the palette's order"


@pytest.mark.parametrize("n, grey", [(6, False), (7, True)])
def test_a_page_explains_grey_lines_where_there_are_some(tmp_path, n, grey):
    for k in range(n):
        make(tmp_path / "runs", f"model_{k}", 1, metrics(0.1 * (k + 1), N=0))
    html = html_of(tmp_path / "runs")
    (legend,) = re.findall(r"<h3>Along the chain(.*?)</h3>", html)
    assert ("the others in grey" in html) is grey and legend.count("model_") == (0 if grey else n)


def test_every_row_of_a_crowd_shows_the_base():
    models = crowd("abcdefghi")
    figure = over_steps(Comparison("default", "ring", models), colours(list(models)), base="h")
    legends = [[text.get_text() for text in panel.get_legend().get_texts()] for panel in figure.axes[1::2]]
    assert legends == [["h", "a", "b", "c", "d"], ["h", "e", "f", "g", "i"]]


@pytest.mark.parametrize("n", [2, 7])
def test_a_legend_takes_names_as_they_are(n):
    """A dollar begins no formula, and two long names that differ at their end are told apart."""
    names = ["$\\x$", *(f"a name that is longer than forty letters, of seed {k}" for k in range(n - 1))]
    models = crowd(names)
    figure = over_steps(Comparison("default", "ring", models), colours(names), named=True)
    figure.canvas.draw()
    legends = [*figure.legends, *(panel.get_legend() for panel in figure.axes if panel.get_legend())]
    shown = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert len(set(shown)) == n and "$\\x$" in shown and max(map(len, shown)) == 40


@pytest.mark.parametrize(
    "at, written",
    [
        ((0, 1, 3, 10, 100, 1000), ["0", "1", "3", "10", "100", "1000"]),
        ((0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), ["0", "1", "10", "100", "1000"]),
        ((0, 2, 4), ["0", "2", "4"]),
        ((0, 1, 3, 6, 10, 100, 1000, 2000), ["0", "1", "3", "10", "100", "2000"]),
    ],
)
def test_steps_are_written_where_they_stand_clear_of_each_other(at, written):
    run = Run(Path(), metrics={"chain": {str(i): {"joint_distance": 0.1} for i in at}})
    (panel,) = [p for p in over_steps(Comparison("", "ring", {"m": [run]}), {"m": "red"}).axes if p.get_visible()]
    assert [label.get_text() for label in panel.get_xticklabels()] == written


def remembering(distance, far=None, **kept):
    """A run that keeps the class in so many reconstructions from each latent; where its chain is, and after 1000 sweeps."""
    chain = {"1": {"class_frechet_ratio": distance}, "1000": {"class_frechet_ratio": far}}
    return Run(Path(), metrics={"chain": chain, "reconstruction": {z: {"same_class": k} for z, k in kept.items()}})


def memories(**models):
    return memory(Comparison("default", "digits", models), dict.fromkeys(models, "red"))


def dots(panel):
    return [tuple(dot) for drawn in panel.collections for dot in drawn.get_offsets().tolist()]


def test_memory_and_drift_has_a_dot_for_each_run_and_a_name_for_each_model():
    runs = [remembering(0.1, 0.2, z=0.6), remembering(0.2, 0.3, z=0.7)]
    figure = memories(ali=runs, hali=[remembering(0.3, 0.4, z1=0.9, z2=0.4)])
    assert dots(figure.axes[0]) == [(0.6, 0.1), (0.7, 0.2), (0.9, 0.3)]
    assert dots(figure.axes[1]) == [(0.6, 0.2), (0.7, 0.3), (0.9, 0.4)]
    assert [sorted(name.get_text() for name in panel.texts) for panel in figure.axes] == [["ali", "hali"]] * 2


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, 0.0, -1.0])
def test_runs_without_numbers_have_no_dot(bad):
    """A chain that diverged, a score that is missing: no axis can show it, and the others are shown all the same."""
    whole = {
        "ali": [remembering(0.1, 0.2, z=0.6)],
        "hali": [remembering(0.3, 0.4, z1=None, z2=0.9), remembering(bad, bad, z=0.5)],
    }
    figure = memories(**whole, untied=[remembering(bad, bad, z=0.5)], gibbsnet=[remembering(bad, bad, z=0.5)])
    assert dots(figure.axes[0]) == [(0.6, 0.1), (0.9, 0.3)]
    assert memories(ali=whole["ali"], hali=[remembering(0.3, bad, z=0.9)]) is None, (
        "one model alone compares with nobody"
    )
    assert memories(ali=whole["ali"], hali=[remembering(0.3, 0.4, z=None)]) is None
    assert memories(ali=whole["ali"], hali=[Run(Path())]) is None


def test_names_stand_apart_and_under_the_dots():
    """Placed after the layout, and in no loop: many models in one place are no matter of time."""
    many = {
        f"{name}_{k}": [remembering(0.1, 0.2, z=0.6)] for name in ("ali", "gibbsnet", "hali", "$\\x$") for k in range(3)
    }
    figure = memories(**many)
    figure.canvas.draw()
    for panel in figure.axes:
        places = [name.get_window_extent() for name in panel.texts]
        assert len(places) == 12 and not any(a.overlaps(b) for a, b in combinations(places, 2))
        assert all(name.zorder < drawn.zorder for name in panel.texts for drawn in panel.collections)
    few = memories(**{name: many[name] for name in ("ali_0", "hali_0")})
    assert few.get_figheight() == 4 < figure.get_figheight(), "the names of many have more room"


def test_a_hairline_leads_from_a_name_to_its_dots_where_it_stands_off():
    models = {f"gibbsnet_{k}": [remembering(0.1, 0.2, z=0.6)] for k in range(12)} | {
        "ali": [remembering(0.4, 0.4, z=0.3)]
    }
    figure = memory(Comparison("default", "digits", models), colours(list(models)))
    figure.canvas.draw()
    for panel, middle in zip(figure.axes, ((0.6, 0.1), (0.6, 0.2)), strict=True):
        place = panel.transData.transform(middle)
        boxes = {name.get_color(): name.get_window_extent() for name in panel.texts if name.get_text() != "ali"}
        gaps = {c: np.hypot(*(place - np.clip(place, box.min, box.max))) for c, box in boxes.items()}
        lines = {line.get_color(): line.get_xydata() for line in panel.lines}
        off = {c for c, gap in gaps.items() if gap > 20}
        assert len(off) >= 5 and off <= lines.keys() and not lines.keys() & {c for c, gap in gaps.items() if gap < 10}
        for c, (start, end) in lines.items():
            assert end == pytest.approx(middle)
            assert boxes[c].padded(5).contains(*panel.transData.transform(start)), "from its own name"
    apart = memories(ali=[remembering(0.1, 0.2, z=0.2)], hali=[remembering(0.3, 0.4, z=0.9)])
    assert not any(panel.lines for panel in apart.axes)


def test_a_name_ends_within_its_panel_as_it_is_drawn():
    """With a halo letters are drawn without hinting, and wider than matplotlib says they are."""
    figure = memories(ali=[remembering(0.1, 0.2, z=0.2)], gibbsnet_persistent=[remembering(0.3, 0.4, z=0.9)])
    canvas = figure.canvas
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].min(axis=-1) < 230
    for panel in figure.axes:
        box = panel.get_window_extent()
        rows = slice(int(figure.bbox.height - box.y1) + 3, int(figure.bbox.height - box.y0) - 3)
        assert drawn[rows, int(box.x1) - 20 : int(box.x1)].any(), (
            "the name is at the edge, so this test shows something"
        )
        assert not drawn[rows, int(box.x1) + 1 : int(box.x1) + 8].any(), "and does not run over it"


def test_a_name_lies_on_no_dot_where_there_is_room():
    """Here one model's dot is just above the middle of the other's, where its name would stand."""
    figure = memories(
        ali=[remembering(d, d, z=0.6) for d in (0.1, 0.12, 0.14)], hali=[remembering(0.126, 0.126, z=0.6)]
    )
    figure.canvas.draw()
    for panel in figure.axes:
        places = panel.transData.transform(dots(panel))
        for name in panel.texts:
            box = name.get_window_extent()
            assert not any(box.contains(*place) for place in places), name.get_text()


def test_a_long_name_stays_within_its_panel():
    figure = memories(ali=[remembering(0.1, 0.2, z=0.0)], gibbsnet_of_a_long_name=[remembering(0.3, 0.4, z=1.0)])
    for panel in figure.axes:
        for name in panel.texts:
            place, frame = name.get_window_extent(), panel.get_window_extent()
            assert frame.x0 - 1 <= place.x0 and place.x1 <= frame.x1 + 1, name.get_text()


def test_axes_are_wider_than_two_seeds():
    panel = memories(ali=[remembering(0.1, 0.1, z=0.6)], hali=[remembering(0.101, 0.1, z=0.601)]).axes[0]
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    assert right - left > 0.25 and high > 3.99 * low


def test_the_page_with_memory_and_drift_is_the_same_twice(root):
    for path in sorted(root.rglob("metrics.json")):
        found = json.loads(path.read_text())
        found["chain"]["1"] = {"class_frechet_ratio": 0.2}
        found["reconstruction"] = {z: {**v, "same_class": 0.7} for z, v in found["reconstruction"].items()}
        path.write_text(json.dumps(found))
    page = html_of(root)
    assert "Memory and drift" in page and html_of(root) == page


def scored(folder, **conditions):
    told = {"judge": "1e1e9e31" * 8, "data": "2785", "samples": 5000, "seed": 0, "device": "cpu"}
    told["metrics"] = hashlib.sha256((folder / "metrics.json").read_bytes()).hexdigest()
    (folder / "scored.json").write_text(json.dumps(told | conditions))


@pytest.mark.parametrize(
    "other, said",
    [
        ({}, None),
        ({"device": "NVIDIA H200", "seed": 1, "samples": 5000.0}, None),
        ({"judge": "52873fa3" * 8}, "Scored by different judges (1e1e9e311e1e: ali 1; 52873fa35287: gibbsnet 1)"),
        ({"samples": 2000}, "Scored by different numbers of samples (5000: ali 1; 2000: gibbsnet 1)"),
        ({"data": "abcd"}, "Scored on different data (2785: ali 1; abcd: gibbsnet 1)"),
    ],
)
def test_scores_that_do_not_compare_are_named(root, other, said):
    """Runs that do not say how they were scored, by an earlier version, count for nothing."""
    scored(root / "default/digits/ali/1")
    scored(root / "default/digits/gibbsnet/1", **other)
    text = text_of(html_of(root))
    assert ("these do not compare" in text) == bool(said) and (said or "") in text
    assert "5000" not in text or said, "how they were scored is no table of a benchmark's"


@pytest.mark.parametrize("broken", ["", "[1]", '{"judge": ', '{"judge": ["a"]}', '{"seed": 1}'])
def test_a_run_that_does_not_say_how_it_was_scored_is_shown(root, broken):
    scored(root / "default/digits/ali/1")
    (root / "default/digits/gibbsnet/1/scored.json").write_text(broken)
    text = text_of(html_of(root))
    assert "these do not compare" not in text and "gibbsnet seeds 1, 2, 3" in text


@pytest.mark.parametrize("then", [lambda path: path.unlink(), lambda path: path.write_text(json.dumps(metrics(0.2)))])
def test_words_about_other_scores_are_not_believed(root, then):
    """An `evaluate` that was killed before it could say how it scored, or scores that were put there by hand."""
    scored(root / "default/digits/ali/1")
    scored(root / "default/digits/gibbsnet/1", judge="52873fa3" * 8)
    assert "these do not compare" in text_of(html_of(root))
    then(root / "default/digits/gibbsnet/1/metrics.json")
    assert "these do not compare" not in text_of(html_of(root))


@pytest.mark.parametrize("then, said", [(b"old", False), (b"new", True), (None, False)])
def test_scores_of_weights_that_a_run_no_longer_has_are_named(root, then, said):
    """A training that went on after `evaluate`; where the checkpoint is not at hand there is nothing to hold them against."""
    folder = root / "default/digits/gibbsnet/1"
    scored(folder, checkpoint=hashlib.sha256(b"old").hexdigest())
    if then is not None:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.ckpt").write_bytes(then)
    text = text_of(html_of(root))
    assert text.count("its scores are of other weights than it has now: evaluate again") == 2 * said
    assert ("gibbsnet 1: its scores are" in text) == said


def test_a_checkpoint_that_cannot_be_read_is_named(root):
    folder = root / "default/digits/gibbsnet/1"
    scored(folder, checkpoint="1e1e")
    (folder / "checkpoints" / "best.ckpt").mkdir(parents=True)
    assert "gibbsnet 1: best.ckpt: [Errno 21] Is a directory" in text_of(html_of(root))


def test_a_training_that_stopped_before_its_end_is_named(root):
    (root / "default/digits/ali/1/train.json").unlink()
    assert "ali 1: its training has not ended." in text_of(html_of(root))
    (root / "default/digits/hali/1/train.json").write_text(json.dumps({"steps": 7, "images_per_second": 1234.5}))
    text = text_of(html_of(root))
    assert "hali 1: its training stopped at step 7 of 20." in text
    assert "hali/1 its training stopped at step 7 of 20" in text and text.count("its training stopped") == 2


def test_unfinished_runs_are_listed_with_what_is_missing(root):
    folder = root / "default/digits/gibbsnet/2"
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "figures")
    said = text_of(html_of(root))
    assert "gibbsnet/2 unfinished, without metrics.json, figures" in said
    assert "gibbsnet seeds 1, 3" in said


def test_what_benchmarks_and_sample_left_in_a_run_is_shown(root):
    folder = root / "default" / "digits" / "gibbsnet" / "1"
    (folder / "fill.json").write_text(
        json.dumps({"left": {"ridge": {"mse": 0.0425, "class_kept": 0.81}}, "note": "text"})
    )
    edits = {"loop": {"model": {"changed": 0.386}, "nearest": {"changed": 0.944}}}
    (folder / "labels.json").write_text(json.dumps({"classified": {"model": 0.967, "nearest": 0.981}, "edits": edits}))
    distance = {"learned": [0.5 / (i + 1) for i in range(20)]}
    (folder / "approach.json").write_text(
        json.dumps(
            {
                "second": 0.9125,
                "half_life": None,
                "pi": [0.7, 0.3],
                "distance": distance,
                "names": {"a": ["b"], "c": []},
            }
        )
    )
    save(Figure((1, 1)), folder / "samples" / "daydreaming.png")
    bare, said = text_of(html_of(root, runs=[root / "default" / "digits" / "ali"])), text_of(html_of(root))
    for words in (
        "gibbsnet · daydreaming · seed 1",
        "Filling in what is missing",
        "left mse class kept ridge 0.0425 0.81",
        "classified model nearest 0.967 0.981",
        "edits changed loop / model 0.386 loop / nearest 0.944",
        "second 0.912 distance",
        "distance i = 0 i = 1 i = 3 i = 10 learned 0.5 0.25 0.125 0.0455",
    ):
        assert words in said and words not in bare
    assert "names" not in said, "words are no numbers"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("metrics.json", '{"samples": ', "metrics.json: Expecting value"),
        ("metrics.json", "[1]", "metrics.json holds no object"),
        ("history.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n', "history.jsonl, line 2: "),
        ("config.yaml", "seed: 1", "config.yaml has no model.name"),
        ("config.yaml", "a: [", "config.yaml: "),
        ("figures/samples.png", "GIF", "figures/samples.png is no PNG"),
        ("figures/gone.png", None, "figures/gone.png: [Errno 2] No such file or directory"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_shown(root, file, content, reason):
    path = root / "default/digits/gibbsnet/2" / file
    path.symlink_to("collected") if content is None else path.write_text(content)
    said = text_of(html_of(root))
    assert f"gibbsnet/2 damaged, not used: {reason}" in said
    assert "gibbsnet seeds 1, 3" in said and "ali seeds 1, 2, 3" in said


def test_a_line_cut_off_by_a_crash_is_no_damage(root):
    path = root / "default/digits/ali/1/history.jsonl"
    rows_before = len(read(path.parent).history)
    path.write_text(path.read_text() + '{"step": 21, "ima')
    run = read(path.parent)
    assert not run.damage and len(run.history) == rows_before == 19


def test_nothing_in_a_run_becomes_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    folder = make(tmp_path / "runs", 'ali" onfocus="x', 1, experiment="a&b", note=evil)
    (folder / "metrics.json").write_text(json.dumps({"samples": {evil: 1.0}, "reference": {evil: {evil: 2}}}))
    html = html_of(tmp_path / "runs")
    assert 'onfocus="x' not in html and "onfocus=&quot;x" in html
    assert "<script" not in html and html.count("&lt;script&gt;") >= 3 and "a&amp;b" in html


def test_equal_runs_make_equal_bytes(root):
    first, table = html_of(root), (root.parent / "reports/metrics.csv").read_text()
    assert html_of(root) == first and (root.parent / "reports/metrics.csv").read_text() == table
    assert sorted(path.name for path in (root.parent / "reports").iterdir()) == ["index.html", "metrics.csv"]


def test_the_table_is_written_in_full(root):
    html_of(root)
    with (root.parent / "reports/metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = [v for v in lines if v["name"] == "ali" and v["metric"] == "samples/class_frechet_ratio"]
    assert (line["seeds"], line["median"], line["lowest"]) == ("3", "0.4", "0.38")
    assert {v["kind"] for v in lines} == {"model", "reference"}


def test_no_run_is_a_one_line_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: `python -m gibbsnet train .*` makes one$") as caught:
        report(tmp_path / "nowhere", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_runs_can_be_listed_and_may_lack_everything(root):
    mine = [root / "default/digits/ali/1", str(root / "default/digits/hali/1"), root / "default/digits/ghost/1"]
    said = text_of(html_of(root, runs=mine))
    assert "3 runs" in said and "gibbsnet seeds" not in said
    assert "ghost/1 damaged, not used: config.yaml is missing" in said


def test_configurations_inside_of_a_run_are_no_runs(root):
    for inner in ("wandb/run-1/files", "checkpoints"):
        folder = root / "default/digits/ali/1" / inner
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("a: 1")
    assert len(find(root)) == 7


def test_listed_folders_may_lie_above_runs(root):
    assert "6 runs" in text_of(html_of(root, runs=[root / "default/digits/ali", root / "default/digits/gibbsnet"]))


def test_a_seed_that_differs_in_more_is_pointed_out(root):
    make(root, "ali", 4, lr=0.1)
    assert differences([read(root / f"default/digits/ali/{seed}") for seed in (1, 2, 3)]) == {}
    assert "The runs of ali differ in more than their seed: lr (0.1 / None)." in text_of(html_of(root))
    make(root, "gibbsnet", 4, run="elsewhere", command="other words", trainer={"devices": 2})
    assert differences([read(root / f"default/digits/gibbsnet/{seed}") for seed in (1, 4)]) == {}


def test_a_seed_that_is_there_twice_is_pointed_out(root):
    assert "several runs of seed" not in text_of(html_of(root))
    shutil.copytree(root / "default/digits/ali/1", root / "copy")
    assert "ali has several runs of seed 1: a run counted twice is no repetition" in text_of(html_of(root))


def test_runs_behind_a_link_are_found_and_a_circle_ends(root, tmp_path):
    (tmp_path / "linked").symlink_to(root)
    (root / "default" / "round").symlink_to(root)
    assert len(find(tmp_path / "linked")) == 7


def test_a_folder_s_name_may_look_like_a_setting(root, tmp_path, monkeypatch):
    root.rename(tmp_path / "ring_game.lazy=2")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "ring_game.lazy=2", "out=there"]) == 0 and (tmp_path / "there" / "index.html").exists()


def test_a_command_is_the_recorded_one_or_rebuilt_from_the_configuration(tmp_path):
    folder = make(tmp_path, "ali", 5, betas=[0.5, 0.9], title="a b", network={"name": "mlp", "width": 9})
    line, recorded_line = command(read(folder))
    assert line.startswith("python -m gibbsnet train ") and not recorded_line
    for word in (
        "model=ali",
        "data=digits",
        "seed=5",
        "steps=20",
        "network=mlp",
        "'betas=[0.5, 0.9]'",
        "'title=a b'",
        f"run={folder}",
    ):
        assert word in line
    folder = make(tmp_path, "hali", 5, command=["python", "-m", "gibbsnet", "train", "seed=5"])
    assert command(read(folder)) == ("python -m gibbsnet train seed=5", True)


def test_what_training_follows_is_drawn_once():
    """On images val/distance is val/class_frechet; of toys it is another score, and both are drawn."""

    def run(**other):
        rows = [{"images_seen": t, "val/class_frechet": 1 / t, "val/distance": 1 / t, "train/slope": 0} for t in (1, 2)]
        return Run(Path(), history=[row | {"train/r1": 0} | other for row in rows])

    assert recorded([run()]) == ["val/class_frechet", "train/r1", "train/slope"], "two that are equal by chance stay"
    assert recorded([run(), run(**{"val/distance": 0.5})])[:2] == ["val/class_frechet", "val/distance"]
    assert recorded([Run(Path(), history=[{"images_seen": t, "val/distance": t} for t in (1, 2)])]) == ["val/distance"]


def test_curves_skip_what_is_no_number(root):
    runs = [read(folder) for folder in find(root)]
    assert recorded(runs) == ["train/loss"]


def test_experiments_and_data_sets_stand_apart(root):
    make(root, "ali", 1, experiment="toys", data="ring", values={"samples": {"share": 0.9, "oddity": 1}})
    html = html_of(root)
    assert '<section id="toys-ring"><h2>ring · toys</h2>' in html and '<section id="default-digits">' in html
    assert "oddity" in html.split('<section id="toys-ring">')[1]
