r"""The aim at a glance: python -m benchmarks.aim

Is GibbsNet's chain nearer to the data than ALI's after a thousand sweeps, are its samples surer, does its z keep more?  Each row
holds an ALI against a GibbsNet of docs/comparison.json, at equal time and, but where it names two, under one floor of q's scale;
each measure counts the seeds in which GibbsNet is ahead.  Writes docs/figures/aim.png and, between their marks, the table in
docs/findings.md, above it in how many rows who is ahead, and a few rows with their medians in README.md, from the record alone:
nothing is run.  CIFAR-10 is not in it: the record holds a start, where neither has learned (docs/cifar10.json has more, of one
seed).
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.results import between
from gibbsnet import plots
from gibbsnet.plots import INK, MUTED, RULE
from gibbsnet.report.charts import COLOURS

RECORD, FIGURE = Path("docs/comparison.json"), Path("docs/figures/aim.png")
PAGE, BRIEF = Path("docs/findings.md"), Path("README.md")
# Definitions that nothing refers to: no reader of Markdown shows them, the report neither, which shows HTML as text.
MARKS = ("[//]: # (aim: written by python -m benchmarks.aim)", "[//]: # (end of aim)")
TALLY = ("[//]: # (rows of the aim: written by python -m benchmarks.aim)", "[//]: # (end of the rows of the aim)")
AHEAD, BEHIND = COLOURS[:2]


class Row(NamedTuple):
    """words: the setting; table: of docs/comparison.json, where ali and gibbsnet are two of the models."""

    words: str
    table: str
    ali: str
    gibbsnet: str


class Measure(NamedTuple):
    """words: what GibbsNet is ahead in; scores: score -> what one unit of it is worth, of which a table has one at most; factor:
    whether it is a distance, of which GibbsNet's goes into ALI's, or else a score, of which ALI's is taken off."""

    words: str
    scores: Mapping[str, float]
    factor: bool = False


# All GibbsNets of digits, MNIST and the ring have N in 0..1 and half of their chains persistent, if nothing else is said.
ROWS = {
    "MNIST": (
        Row("half an hour, floor .5", "mnist_long", "ali_floor", "gibbsnet_short"),
        Row("half an hour, .5, a cycle loss for ALI", "mnist_long", "ali_cycle", "gibbsnet_short"),
        Row("half an hour, .81, ALI's surest for both", "mnist_long", "ali_surest", "gibbsnet_alike"),
        Row("half an hour, each surest, .22, ALI .81", "mnist_long", "ali_surest", "gibbsnet_surest"),
        Row("half an hour, each its own, .5, ALI .81", "mnist_long", "ali_surest", "gibbsnet_short"),
        Row("each surest after 3 of 8, .22, ALI .81", "mnist", "ali_surest", "gibbsnet_surest"),
        Row("floor .5, as both ship", "mnist", "ali_floor", "gibbsnet_short"),
        Row("floor .3", "mnist", "ali", "gibbsnet_sharp"),
        Row(".5, a cycle loss for ALI", "mnist", "ali_cycle", "gibbsnet_short"),
        Row(".5, a cycle loss for both", "mnist", "ali_cycle", "gibbsnet_short_cycle"),
        Row(".5, ALI .3", "mnist", "ali", "gibbsnet_short"),
        Row(".5, N in 0..3, half persistent", "mnist", "ali_floor", "gibbsnet_persistent"),
        Row(".5, as published", "mnist", "ali_floor", "gibbsnet"),
    ),
    "digits": (
        Row("floor .44, one setting for both", "digits", "ali_tuned", "gibbsnet_tuned"),
        Row(".44, that setting, views moved for both", "digits game.shift=1", "ali_tuned", "gibbsnet_tuned"),
        Row("each surest after 3 of 24, .24, ALI .39", "digits", "ali_surest", "gibbsnet_surest"),
        Row("each nearest late of 24, .78, ALI .88", "digits", "ali_nearest", "gibbsnet_nearest"),
        Row("floor .7", "digits", "ali_floor", "gibbsnet_short"),
        Row(".7, views moved for both", "digits", "ali_shift", "gibbsnet_shift"),
        Row(".7, penalty on x of .15 for both", "digits penalty.x=0.15", "ali_floor", "gibbsnet_short"),
        Row(".7, that penalty and moved views", "digits penalty.x=0.15", "ali_shift", "gibbsnet_shift"),
        Row("ALI's own, .15", "digits", "ali", "gibbsnet_sharp"),
        Row(".15, penalty on x of .15 for both", "digits penalty.x=0.15", "ali", "gibbsnet_sharp"),
        Row(".7, a cycle loss for ALI", "digits", "ali_cycle", "gibbsnet_short"),
        Row(".7, ALI .15", "digits", "ali", "gibbsnet_short"),
        Row(".7, as published", "digits", "ali_floor", "gibbsnet"),
    ),
    "ring": (
        Row("floor .3", "ring", "ali_floor", "gibbsnet_short"),
        Row("ALI's own, .1", "ring", "ali", "gibbsnet_short_sharp"),
        Row("each by its own search at N, .22", "ring", "ali_tuned", "gibbsnet_tuned"),
        Row("each nearest late of 24, .44, ALI .24", "ring", "ali_nearest", "gibbsnet_nearest"),
        Row(".3, a cycle loss for ALI", "ring", "ali_cycle", "gibbsnet_short"),
        Row(".3, ALI .1", "ring", "ali", "gibbsnet_short"),
        Row(".3, N = 1, every chain anew", "ring", "ali_floor", "gibbsnet"),
        Row(".1, N = 1, every chain anew", "ring", "ali", "gibbsnet_sharp"),
    ),
    "grid": (
        Row("ALI's own, .1", "grid", "ali", "gibbsnet_sharp"),
        Row(".1, a cycle loss for both", "grid", "ali_cycle_sharp", "gibbsnet_cycle_late"),
        Row("floor .2", "grid", "ali_floor", "gibbsnet"),
        Row(".2, ALI .1", "grid", "ali", "gibbsnet"),
    ),
}
# A class score goes to 10, the number of classes, and the share of samples near a mode to 1.
MEASURES = (
    Measure("late: class_frechet_ratio", {"chain/1000/class_frechet_ratio": 1}, factor=True),
    Measure("late: joint_distance", {"chain/1000/joint_distance": 1}, factor=True),
    Measure("surer, each at its N", {"samples/class_score": 0.1, "samples/share": 1}),
    Measure("surer, after 1 sweep of each", {"chain/1/class_score": 0.1, "chain/1/share": 1}),
    Measure("surer, after 3 of each", {"chain/3/class_score": 0.1, "chain/3/share": 1}),
    Measure("z keeps more", {"reconstruction/z/same_class": 1}),
)
# What the tally asks of a row -> the measures that have to say so, of those that its data have.
QUESTIONS = {
    "nearer after 1000 sweeps, by both distances": ("late: class_frechet_ratio", "late: joint_distance"),
    **{m.words: (m.words,) for m in MEASURES if not m.factor},
}
# Of all that README has these, each data set as it ships, under one floor and tuned alike: what it calls a setting -> the data
# and its row's words; and the measures.
SETTINGS = {
    "digits, as they ship (`experiment=digits`): .7, ALI .15": ("digits", ".7, ALI .15"),
    "digits, ALI's floor for both: .15": ("digits", "ALI's own, .15"),
    "digits, GibbsNet's floor for both: .7": ("digits", "floor .7"),
    "digits, one setting for both, of a short search: .44": ("digits", "floor .44, one setting for both"),
    "digits, each at its surest of 24: .24, ALI .39": ("digits", "each surest after 3 of 24, .24, ALI .39"),
    "digits, each at its nearest of 24: .78, ALI .88": ("digits", "each nearest late of 24, .78, ALI .88"),
    "MNIST, minutes, as they ship (`mnist`): .5": ("MNIST", "floor .5, as both ship"),
    "MNIST, minutes, each at its surest of 8: .22, ALI .81": ("MNIST", "each surest after 3 of 8, .22, ALI .81"),
    "MNIST, half an hour, as they ship (`mnist_long`): .5": ("MNIST", "half an hour, floor .5"),
    "MNIST, half an hour, each at its surest of 8: .22, ALI .81": (
        "MNIST",
        "half an hour, each surest, .22, ALI .81",
    ),
    "MNIST, half an hour, ALI's surest for both: .81": (
        "MNIST",
        "half an hour, .81, ALI's surest for both",
    ),
    "ring, GibbsNet's floor for both (`ring`): .3": ("ring", ".3, N = 1, every chain anew"),
    "ring, GibbsNet's floor for both (`ring_stable`): .3": ("ring", "floor .3"),
    "ring, each at its nearest of 24: .44, ALI .24": ("ring", "each nearest late of 24, .44, ALI .24"),
    "grid, ALI's floor for both (`grid_plain`): .1": ("grid", "ALI's own, .1"),
    "grid, the same, a cycle loss for both (`grid`): .1": ("grid", ".1, a cycle loss for both"),
}
COLUMNS = {
    "surer, after 3 of each": "class score (share) after 3 sweeps",
    "late: class_frechet_ratio": "class_frechet_ratio after 1000",
    "late: joint_distance": "joint_distance after 1000",
    "z keeps more": "class (mode) kept",
}


def pairs(record: Mapping, row: Row, measure: Measure) -> list[tuple[float, float, float]]:
    """ALI's score, GibbsNet's, and what one unit of it is worth, seed by seed; empty where the table has no such score."""
    models = record[row.table]["models"]
    seeds = list(zip(models[row.ali], models[row.gibbsnet], strict=True))
    return [
        (a[score], g[score], unit)
        for score, unit in measure.scores.items()
        for a, g in seeds
        if {score} <= a.keys() & g
    ]


def leads(record: Mapping, row: Row, measure: Measure) -> list[float]:
    """By how much GibbsNet is ahead, seed by seed: ALI's distance as a multiple of its own, or its score less ALI's."""
    found = pairs(record, row, measure)
    return [ali / gibbsnet if measure.factor else (gibbsnet - ali) * unit for ali, gibbsnet, unit in found]


def ahead(record: Mapping, row: Row, measure: Measure) -> str:
    """In how many seeds GibbsNet is ahead, as a cell of the table."""
    found = leads(record, row, measure)
    return str(sum(lead > measure.factor for lead in found)) if found else ""


def verdict(record: Mapping, row: Row, words: Sequence[str]) -> str:
    """Who is ahead, by every one of the measures that the row's data have: GibbsNet or ALI, in at least four seeds of five (in
    all, if there are fewer), or else neither."""
    found = [(leads(record, row, m), m.factor) for m in MEASURES if m.words in words]
    shares = [(sum(x > level for x in each) / len(each), sum(x < level for x in each) / len(each))
              for each, level in found if each]  # fmt: skip
    for name, ahead_in in zip(("GibbsNet", "ALI"), zip(*shares, strict=True), strict=True):
        if min(ahead_in) >= 0.8:
            return name
    return "neither"


def tally(record: Mapping) -> list[str]:
    """Markdown: in how many rows GibbsNet is ahead, ALI, and neither, by data."""
    lines = [
        "| rows in which GibbsNet, ALI, neither is ahead | " + " | ".join(ROWS) + " |",
        "|---|" + "---:|" * len(ROWS),
    ]
    for question, words in QUESTIONS.items():
        counts = [Counter(verdict(record, row, words) for row in rows) for rows in ROWS.values()]
        cells = [", ".join(str(c[who]) for who in ("GibbsNet", "ALI", "neither")) for c in counts]
        lines += [f"| {question} | " + " | ".join(cells) + " |"]
    return lines


def table(record: Mapping) -> list[str]:
    """Markdown: the seeds in which GibbsNet is ahead, a row per setting."""
    lines = ["| seeds in which GibbsNet is ahead | of | " + " | ".join(m.words for m in MEASURES) + " |"]
    lines += ["|---|" + "---:|" * (1 + len(MEASURES))]
    for data, rows in ROWS.items():
        for row in rows:
            cells = [str(len(record[row.table]["seeds"])), *(ahead(record, row, m) for m in MEASURES)]
            lines += [f"| {data}: {row.words} | " + " | ".join(cells) + " |"]
    return lines


def medians(record: Mapping, row: Row, measure: Measure) -> str:
    """GibbsNet's median and ALI's, and in how many seeds GibbsNet is ahead, as a cell of README's table."""
    if not (found := pairs(record, row, measure)):
        return ""
    ali, gibbsnet = (median(values) for values in list(zip(*found, strict=True))[:2])
    digits = "#.2g" if measure.factor else ".2f"
    return f"{gibbsnet:{digits}}, {ali:{digits}} ({ahead(record, row, measure)})"


def brief(record: Mapping) -> list[str]:
    """Markdown: README's rows, with medians."""
    lines = ["| GibbsNet, ALI (seeds in which GibbsNet is ahead) | seeds | " + " | ".join(COLUMNS.values()) + " |"]
    lines += ["|---|" + "---:|" * (1 + len(COLUMNS))]
    for name, (data, words) in SETTINGS.items():
        (row,) = (row for row in ROWS[data] if row.words == words)
        cells = [medians(record, row, m) for wanted in COLUMNS for m in MEASURES if m.words == wanted]
        lines += [f"| {name} | {len(record[row.table]['seeds'])} | " + " | ".join(cells) + " |"]
    return lines


def draw(record: Mapping) -> Figure:
    """A dot per seed, a line at the median, right of the middle where GibbsNet is ahead; a panel per measure."""
    rows = [(data, row) for data, several in ROWS.items() for row in several]
    figure = Figure(figsize=(14, 1.6 + 0.235 * (len(rows) + len(ROWS))), dpi=plots.DPI, layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # numbers at the ends of two axes side by side are apart
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    heights = places(ROWS)
    for panel, measure in zip(axes, MEASURES, strict=True):
        frame(panel, measure)
        for (_, row), height in zip(rows, heights, strict=True):
            mark(panel, leads(record, row, measure), height, measure.factor)
    axes[0].set_ylim(heights[-1] + 0.7, -1.7)
    axes[0].set_yticks(heights, [row.words for _, row in rows], size=8, color=INK)
    headings(axes[0], {data: heights[rows.index((data, several[0]))] - 1 for data, several in ROWS.items()})
    legend(figure)
    return figure


def headings(panel: Axes, heights: Mapping[str, float]) -> None:
    """The data sets' names, above their rows."""
    for data, height in heights.items():
        panel.annotate(
            data, (0, height), (-8, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", size=9, weight="bold", color=INK, annotation_clip=False,
        )  # fmt: skip


def legend(figure: Figure) -> None:
    """What dots and lines mean, below the panels."""
    names = {"GibbsNet ahead": AHEAD, "ALI ahead": BEHIND}
    dots = [Line2D([], [], marker="o", ls="", ms=4, color=c, label=n) for n, c in names.items()]
    line = Line2D([], [], marker="|", ls="", ms=9, color=INK, label="median of the seeds")
    figure.legend(handles=[*dots, line], loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)


def places(groups: Mapping[str, Sequence[Row]]) -> list[float]:
    """How far down each row stands: one below the other, and a line more before each group but the first."""
    found, at = [], 0.0
    for rows in groups.values():
        found += [at + k for k in range(len(rows))]
        at += len(rows) + 1.2
    return found


def frame(panel: Axes, measure: Measure) -> None:
    """A panel's title, its axis and the line where both are level."""
    panel.set_title(measure.words, size=9, color=INK, loc="left")
    panel.set_xlabel("ALI's distance / GibbsNet's" if measure.factor else "GibbsNet's - ALI's", size=8, color=MUTED)
    if measure.factor:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}"))
        panel.xaxis.set_minor_locator(NullLocator())
    panel.axvline(float(measure.factor), color=MUTED, lw=0.8, zorder=1)
    panel.grid(color=RULE, lw=0.5)
    panel.tick_params(labelsize=8, colors=MUTED, length=0)
    panel.spines[:].set_visible(False)


def mark(panel: Axes, found: Sequence[float], height: float, factor: bool) -> None:
    """A row's dots and their median."""
    colours = [MUTED if lead == factor else AHEAD if lead > factor else BEHIND for lead in found]
    panel.scatter(found, [height] * len(found), s=15, c=colours, linewidths=0, alpha=0.75, zorder=3)
    if len(found) > 1:
        panel.plot([median(found)] * 2, [height - 0.3, height + 0.3], color=INK, lw=1.4, zorder=4)


# Where what is written.
BLOCKS = ((PAGE, TALLY, tally), (PAGE, MARKS, table), (BRIEF, MARKS, brief))


def main(arguments: Sequence[str]) -> None:
    if arguments:
        raise SystemExit(f"unknown {arguments[0]!r}: python -m benchmarks.aim takes nothing, and reads {RECORD}")
    record, texts = json.loads(RECORD.read_text()), {page: page.read_text() for page in (PAGE, BRIEF)}
    for page, marks, lines in BLOCKS:
        if not all(mark in texts[page] for mark in marks):
            raise SystemExit(f"{page}: expected the lines {marks[0]!r} and {marks[1]!r}, between which a table goes")
        texts[page] = between(texts[page], marks, lines(record))
    for page, text in texts.items():
        page.write_text(text)
    plots.save(draw(record), FIGURE)
    print("\n".join(table(record)))


if __name__ == "__main__":
    main(sys.argv[1:])
