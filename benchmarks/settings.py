r"""What is the model, and what its settings: python -m benchmarks.settings [ring|digits|mnist] [models=ali,gibbsnet]

Trial n of sweeps/random.yaml draws the same random setting (rates, penalties, the floor under q) for every model.  Each is
trained to its end, in equal time, and scored along its chain on the validation split.  On MNIST they are the eight of
sweeps/random_mnist.yaml, trained half as long as in `benchmarks.compare` and scored with 2,000 samples.  So models are compared
setting by setting, one and the same for both, at settings that nobody chose.  Writes docs/settings.json, .md and
docs/figures/settings_DATA.png.
With `models=` of one model it trains and scores that one, so that two commands may do it side by side, and writes nothing.  What
is finished is not run again; folders: runs/sweeps/random_DATA_MODEL/TRIAL.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.compare import STEPS, kept, rows
from benchmarks.runs import cell, in_one_line, matches, numbers, options
from gibbsnet import plots
from gibbsnet.config import load, read
from gibbsnet.evaluate import evaluate
from gibbsnet.report.scores import meaning
from gibbsnet.sweep import sweep

BASE, OTHER = "ali", "gibbsnet"
RANDOM = Path("sweeps", "random.yaml")
PLANS = {"ring": RANDOM, "digits": RANDOM, "mnist": Path("sweeps", "random_mnist.yaml")}
# Data -> model -> what it is there, before a trial's setting and seed.
MODELS = {
    "ring": {
        BASE: ["experiment=ring", "model=ali", "chains.unclamped.steps=0", f"steps={STEPS['ring']['ali']}"],
        OTHER: ["experiment=ring_stable", f"steps={STEPS['ring']['gibbsnet_short']}"],
    },
    "digits": {
        BASE: ["experiment=digits", "model=ali", "chains.unclamped.steps=0", f"steps={STEPS['digits']['ali']}"],
        OTHER: ["experiment=digits", f"steps={STEPS['digits']['gibbsnet_short']}"],
    },
    "mnist": {  # half as long, to the hundred: nine minutes and more would be much for so many
        BASE: [
            "experiment=mnist",
            "model=ali",
            "chains.unclamped.steps=0",
            "steps=6900",
            "evaluation.samples=2000",
        ],
        OTHER: ["experiment=mnist", "steps=5000", "evaluation.samples=2000"],
    },
}
ALONE = ["trainer.threads=1", "tracking.mode=disabled"]  # as two of them run side by side
LATE, BAND, COLOUR = "chain/1000/joint_distance", "reference/test/joint_distance", "penalty.x"


class Chart(NamedTuple):
    """What is drawn of a data set, each model on an axis of its own.

    drawn: metric -> what its axes are called, whether they are logarithmic.
    learned: what tells those that learned nothing.
    late: of what is drawn, how near a late chain is.
    """

    drawn: Mapping[str, tuple[str, bool]]
    learned: str
    late: str = LATE


CHARTS = {
    "ring": Chart(
        {
            LATE: ("joint_distance at i = 1000", True),
            "chain/3/share": ("share near a mode at i = 3", False),
            "reconstruction/z/same_class": ("z keeps the mode", False),
        },
        "Near a share of zero nothing was learned.",
    ),
    "digits": Chart(
        {
            LATE: ("joint_distance at i = 1000", True),
            "chain/3/class_score": ("class score at i = 3", False),
            "reconstruction/z/same_class": ("z keeps the class", False),
        },
        "Near a class score of one nothing was learned.",
    ),
    "mnist": Chart(  # whose joint_distance hardly sees the link of x and z
        {
            "chain/1000/class_frechet_ratio": ("class_frechet_ratio at i = 1000", True),
            "chain/3/class_score": ("class score at i = 3", False),
            "reconstruction/z/same_class": ("z keeps the class", False),
        },
        "Near a class score of one nothing was learned.",
        "chain/1000/class_frechet_ratio",
    ),
}
SHOWN = 5  # settings of each model in the table of the nearest
CAPTION = "*A dot is a setting; grey: level; colour: {colour}. {band}{learned}*"
DOTTED = "Dotted: the band, under which 95 % of real pairs are when held against real pairs (median of the trials). "
HEAD = """# The same random settings for two models

What it says: [findings.md](findings.md); what was expected: lab, [ring](lab/tuning.md#the-ring-at-the-same-random-settings),
[digits](lab/tuning.md#digits-at-the-same-random-settings), [MNIST](lab/tuning.md#mnist-at-the-same-random-settings). Names:
[metrics.md](metrics.md). Validation split, one seed, the settings of [random.yaml](../sweeps/random.yaml), on MNIST of
[random_mnist.yaml](../sweeps/random_mnist.yaml), trained half as long as in [comparison.md](comparison.md) and scored with 2,000
samples. "7 : 3" is ahead in seven settings and behind in three; a number in parentheses says how many trials have the score,
where a model that has collapsed lacks it."""


def trials(data: str, model: str) -> list[dict]:
    """A model's trials, in their order: their setting and what is recorded of their scores on the validation split.

    Raises:
        SystemExit: a sweep that cannot go on, a trial that failed, or one whose scores are not finite, in one line.
    """
    where = Path("runs", "sweeps", f"random_{data}_{model}")
    with in_one_line():
        sweep([PLANS[data].as_posix(), *MODELS[data][model], *ALONE, f"out={where}"])
    swept = json.loads((where / "sweep.json").read_text())["trials"]
    if failed := [t for t in swept if t["state"] != "complete"]:
        raise SystemExit(f"{where}/{failed[0]['number']}: {failed[0]['state']}, {failed[0]['error']}")
    found = [{"params": t["params"], **scored(where / str(t["number"]), data)} for t in swept]
    wanted = [*CHARTS[data].drawn, *([BAND] if CHARTS[data].late == LATE else [])]
    for t, trial in zip(swept, found, strict=True):
        if lacking := [name for name in wanted if name not in trial]:
            raise SystemExit(
                f"{where}/{t['number']}: expected a finite {lacking[0]}, without which nothing is recorded"
            )
    return found


def scored(run: Path, data: str) -> dict[str, float]:
    """What is recorded of a run on the validation split; one that has its scores is not scored again."""
    if not (run / "metrics_validation.json").exists():
        with in_one_line():
            evaluate(load([f"run={run}", "evaluation.split=validation"], into=read(run), command="evaluate"))
    return kept(numbers(run, "metrics_validation.json"), data)


def same_settings(models: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """The settings, which are one for all models.

    Raises:
        SystemExit: they are not.
    """
    (first, settings), *others = ((m, [t["params"] for t in found]) for m, found in models.items())
    for m, found in others:
        if found != settings:
            raise SystemExit(f"{m} and {first} have not the same trials: expected the same settings, in the same order")
    return settings


def ahead(models: Mapping[str, Sequence[Mapping]], name: str) -> tuple[int, int]:
    """In how many settings GibbsNet is ahead in this metric, and in how many behind."""
    pairs = [(ours[name], theirs[name]) for theirs, ours in zip(models[BASE], models[OTHER], strict=True)
             if name in ours and name in theirs]  # fmt: skip
    gains = [_better(name) * (ours - theirs) for ours, theirs in pairs]
    return sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)


def _better(name: str) -> int:
    """+1 or -1: more of it is better, or less; 0: neither, as of non_gaussianity, or no model's, as of a reference."""
    return 0 if name.startswith("reference/") else meaning(tuple(name.split("/"))).better


def section(data: str, models: Mapping[str, Sequence[Mapping]]) -> list[str]:
    """A data set's part of docs/settings.md."""
    number, known = len(models[BASE]), {m: {name for trial in of for name in trial} for m, of in models.items()}
    lines = [f"## {data}", "", f"`python -m benchmarks.settings {data}`", ""]
    lines += [f"| median [least .. greatest] of {number} settings | {BASE} | {OTHER} | {OTHER} ahead : behind |"]
    lines += ["|---|---:|---:|---:|"]
    for name in [n for row in rows(data) for n in matches(row, known) if all(n in of for of in known.values())]:
        spreads = [_spread([t[name] for t in models[m] if name in t], number) for m in (BASE, OTHER)]
        count = " : ".join(map(str, ahead(models, name))) if _better(name) else "-"
        lines.append(f"| {name} | {' | '.join(spreads)} | {count} |")
    chart = CHARTS[data]
    caption = CAPTION.format(colour=COLOUR, band=DOTTED if chart.late == LATE else "", learned=chart.learned)
    return [*lines, "", *_nearest(models, chart), "", f"![{data}](figures/settings_{data}.png)", "", caption, ""]


def _spread(values: Sequence[float], number: int) -> str:
    told = cell({"median": statistics.median(values), "min": min(values), "max": max(values)})
    return told if len(values) == number else f"{told} ({len(values)})"


def _nearest(models: Mapping[str, Sequence[Mapping]], chart: Chart) -> list[str]:
    """The settings of each model whose chains are nearest late."""
    searched = list(models[BASE][0]["params"])
    lines = [f"| nearest at i = 1000 (trial) | {' | '.join(searched)} | {' | '.join(chart.drawn)} |"]
    lines += ["|---|" + "---:|" * (len(searched) + len(chart.drawn))]
    for m, found in models.items():
        for n in sorted(range(len(found)), key=lambda n: found[n][chart.late])[:SHOWN]:
            words = [f"{float(found[n]['params'][k]):.3g}" for k in searched]
            words += [f"{found[n][k]:.4g}" for k in chart.drawn]
            lines.append(f"| {m} ({n}) | {' | '.join(words)} |")
    return lines


def draw(models: Mapping[str, Sequence[Mapping]], chart: Chart) -> Figure:
    """Of every setting what ALI has and what GibbsNet has; on the line they are level."""
    figure = Figure(figsize=(3.3 * len(chart.drawn) + 1, 3.7), dpi=plots.DPI, layout="constrained")
    penalties = [float(t["params"][COLOUR]) for t in models[BASE]]
    for axes, (name, (called, log)) in zip(figure.subplots(1, len(chart.drawn)), chart.drawn.items(), strict=True):
        x, y = ([t[name] for t in models[m]] for m in (BASE, OTHER))
        dots = axes.scatter(x, y, c=penalties, norm=LogNorm(), cmap="viridis", s=26, linewidths=0)
        bands = [t[BAND] for m in (BASE, OTHER) for t in models[m]] if name == LATE else []
        _level(axes, [*x, *y, *bands], log)
        side = "above" if _better(name) > 0 else "below"
        title = f"{called}\n{OTHER} ahead in {ahead(models, name)[0]} of {len(x)}: {side} the line"
        axes.set_title(title, size=8.5, color=plots.INK, loc="left")
        axes.set(xlabel=BASE, ylabel=OTHER)
        axes.spines[:].set(color=plots.RULE)
        if name == LATE:
            _dotted(axes, models)
    _in_plain_numbers(figure.colorbar(dots, label=COLOUR).ax.yaxis, min(penalties), max(penalties))
    return figure


def _level(axes: Axes, values: Sequence[float], log: bool) -> None:
    """One range for both axes, and where both are equal."""
    low, high = min(values), max(values)
    ends = (low / 1.3, high * 1.3) if log else (low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.plot(ends, ends, color=plots.RULE, linewidth=1, zorder=0)
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            _in_plain_numbers(axis, *ends)
    axes.set(xlim=ends, ylim=ends, box_aspect=1)


def _in_plain_numbers(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis that do not run into each other."""
    subs = (1,) if high / low > 100 else (1, 2, 5)
    axis.set(major_locator=LogLocator(subs=subs), major_formatter="{x:g}", minor_locator=NullLocator())


def _dotted(axes: Axes, models: Mapping[str, Sequence[Mapping]]) -> None:
    """The band of each, whose features of z are its own."""
    for line, m in ((axes.axvline, BASE), (axes.axhline, OTHER)):
        line(statistics.median(t[BAND] for t in models[m]), color=plots.MUTED, linewidth=0.8, linestyle=":", zorder=0)


def page(record: Mapping[str, Mapping]) -> list[str]:
    """docs/settings.md."""
    return [*HEAD.split("\n"), "", *(line for data, models in record.items() for line in section(data, models))]


def main(arguments: Sequence[str]) -> None:
    data, given = ("ring", arguments) if not arguments or "=" in arguments[0] else (arguments[0], arguments[1:])
    if data not in MODELS:
        raise SystemExit(f"which data? One of {', '.join(MODELS)}, for example python -m benchmarks.settings ring")
    chosen, more = options(given, models=",".join(MODELS[data]))
    if more:
        raise SystemExit(
            f"{more[0]}: expected models=NAMES alone; what is trained stands in {PLANS[data]} and in this file"
        )
    models = chosen["models"].split(",")
    if unknown := [m for m in models if m not in MODELS[data]]:
        raise SystemExit(f"models={unknown[0]}: expected some of {', '.join(MODELS[data])}")
    found = {m: trials(data, m) for m in MODELS[data] if m in models}
    if found.keys() != MODELS[data].keys():
        print(f"{', '.join(found)}: trained and scored; the command without models= writes what was found")
        return
    same_settings(found)
    path = Path("docs", "settings.json")
    record = (json.loads(path.read_text()) if path.exists() else {}) | {data: found}
    text, figure = "\n".join(page(record)), draw(found, CHARTS[data])
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    plots.save(figure, Path("docs", "figures", f"settings_{data}.png"))
    print("\n".join(section(data, found)))


if __name__ == "__main__":
    main(sys.argv[1:])
