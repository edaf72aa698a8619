r"""What is the model, and what its settings: python -m benchmarks.settings [ring] [models=ali,gibbsnet]

Trial n of sweeps/random.yaml draws the same random setting (rates, penalties, the floor under q) for every model.  Each is
trained to its end, in equal time, and scored along its chain on the validation split.  So models are compared setting by setting,
one and the same for both, at settings that nobody chose.  Writes docs/settings.json, .md and docs/figures/settings_ring.png once
all models are there.  Models may be trained side by side, a command for each; what is finished is not run again; folders:
runs/sweeps/random_DATA_MODEL/TRIAL.  Further settings are every trial's.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from benchmarks.compare import STEPS, kept, rows
from benchmarks.runs import cell, in_one_line, lasting, matches, numbers, options, summary
from gibbsnet import plots
from gibbsnet.config import load, read
from gibbsnet.evaluate import evaluate
from gibbsnet.sweep import sweep

BASE, OTHER = "ali", "gibbsnet"
PLAN = Path("sweeps", "random.yaml")
# Data -> model -> what it is there, before a trial's setting and seed.
MODELS = {
    "ring": {
        BASE: ["experiment=ring", "model=ali", "chains.unclamped.steps=0", f"steps={STEPS['ring']['ali']}"],
        OTHER: ["experiment=ring_stable", f"steps={STEPS['ring']['gibbsnet_short']}"],
    }
}
LATE, BAND, COLOUR = "chain/1000/joint_distance", "reference/test/joint_distance", "penalty.x"
HIGHER = (
    "share",
    "modes",
    "same_class",
    "non_gaussianity",
    "probe_accuracy",
)  # by a name's last part: the more, the better
# What is drawn: metric -> what its axis is called, whether it is logarithmic.
DRAWN = {
    LATE: ("joint_distance at i = 1000", True),
    "chain/3/share": ("share near a mode at i = 3", False),
    "reconstruction/z/same_class": ("z keeps the mode", False),
}
SHOWN = 5  # settings of each model in the table of the nearest


def trials(data: str, model: str, more: Sequence[str]) -> list[dict]:
    """A model's trials, in their order: their setting and what is recorded of their scores on the validation split.

    Raises:
        SystemExit: a sweep that cannot go on, or a trial that failed, in one line.
    """
    where = Path("runs", "sweeps", f"random_{data}_{model}")
    with in_one_line():
        sweep([PLAN.as_posix(), *MODELS[data][model], *more, f"out={where}"])
        found = json.loads((where / "sweep.json").read_text())["trials"]
        if failed := [t for t in found if t["state"] != "complete"]:
            raise SystemExit(f"{where}/{failed[0]['number']}: {failed[0]['state']}, {failed[0]['error']}")
        return [{"params": t["params"], **scored(where / str(t["number"]), data)} for t in found]


def scored(run: Path, data: str) -> dict[str, float]:
    """What is recorded of a run on the validation split; one that has its scores is not scored again."""
    if not (run / "metrics_validation.json").exists():
        evaluate(load([f"run={run}", "evaluation.split=validation"], into=read(run), command="evaluate"))
    return kept(numbers(run, "metrics_validation.json"), data)


def together(models: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """The settings, which are one for all models.

    Raises:
        SystemExit: they are not.
    """
    (first, settings), *others = ((m, [t["params"] for t in found]) for m, found in models.items())
    for m, found in others:
        if found != settings:
            raise SystemExit(f"{m} and {first} have not the same trials: expected the same settings, in the same order")
    return settings


def better(name: str, ours: float, theirs: float) -> bool:
    """Whether the first is ahead of the second in this metric."""
    return ours > theirs if name.rpartition("/")[2] in HIGHER else ours < theirs


def counts(models: Mapping[str, Sequence[Mapping]], name: str) -> int:
    """In how many settings GibbsNet is ahead."""
    return sum(better(name, ours[name], theirs[name]) for theirs, ours in zip(models[BASE], models[OTHER], strict=True))


def section(data: str, found: Mapping) -> list[str]:
    """A data set's part of docs/settings.md."""
    models = found["models"]
    number, columns = len(models[BASE]), {m: summary(_scores(of)) for m, of in models.items()}
    names = [n for row in rows(data) for n in matches(row, columns) if all(n in column for column in columns.values())]
    lines = [f"## {data}", "", f"`{shlex.join(['python', '-m', 'benchmarks.settings', data, *found['settings']])}`", ""]
    lines += [f"| median [least .. greatest] of {number} settings | {BASE} | {OTHER} | {OTHER} ahead in |"]
    lines += ["|---|---:|---:|---:|"]
    for n in names:
        ahead = counts(models, n) if _ranked(n) else "-"
        lines.append(f"| {n} | {cell(columns[BASE][n])} | {cell(columns[OTHER][n])} | {ahead} |")
    drawn = [
        f"![{data}](figures/settings_{data}.png)",
        "",
        "*A dot is a setting; dotted: what real pairs show against real pairs.*",
        "",
    ]
    return [*lines, "", *_nearest(models), "", *drawn]


def _scores(trials: Sequence[Mapping]) -> list[dict]:
    return [{k: v for k, v in trial.items() if k != "params"} for trial in trials]


def _ranked(name: str) -> bool:
    """Whether more of it, or less, is better: a chain may move as it likes, time is equal, and references are no model's."""
    return not name.startswith(("train/", "reference/")) and name != "chain/switch_rate"


def _nearest(models: Mapping[str, Sequence[Mapping]]) -> list[str]:
    """The settings of each model whose chains are nearest late."""
    searched = list(models[BASE][0]["params"])
    lines = [f"| nearest at i = 1000 (trial) | {' | '.join(searched)} | {' | '.join(DRAWN)} |"]
    lines += ["|---|" + "---:|" * (len(searched) + len(DRAWN))]
    for m, found in models.items():
        for n in sorted(range(len(found)), key=lambda n: found[n][LATE])[:SHOWN]:
            words = [f"{float(found[n]['params'][k]):.3g}" for k in searched] + [f"{found[n][k]:.4g}" for k in DRAWN]
            lines.append(f"| {m} ({n}) | {' | '.join(words)} |")
    return lines


def draw(data: str, found: Mapping) -> Figure:
    """Of every setting what ALI has and what GibbsNet has; on the line they are level.  Dotted: the band of real pairs."""
    models, width = found["models"], 3.3 * len(DRAWN)
    figure = Figure(figsize=(width + 1, 3.7), dpi=plots.DPI, layout="constrained")
    penalties = [float(t["params"][COLOUR]) for t in models[BASE]]
    for axes, (name, (called, log)) in zip(figure.subplots(1, len(DRAWN)), DRAWN.items(), strict=True):
        x, y = ([t[name] for t in models[m]] for m in (BASE, OTHER))
        dots = axes.scatter(x, y, c=penalties, norm=LogNorm(), cmap=matplotlib.colormaps["viridis"], s=26, linewidths=0)
        _level(axes, [*x, *y], log)
        if name == LATE:
            for line, m in ((axes.axvline, BASE), (axes.axhline, OTHER)):
                line(
                    summary(_scores(models[m]))[BAND]["median"],
                    color=plots.MUTED,
                    linewidth=0.8,
                    linestyle=":",
                    zorder=0,
                )
        side = "above" if better(name, 1, 0) else "below"
        title = f"{called}\n{OTHER} ahead in {counts(models, name)} of {len(x)}: {side} the line"
        axes.set_title(title, size=9, color=plots.INK, loc="left")
        axes.set(xlabel=BASE, ylabel=OTHER)
    figure.colorbar(dots, label=COLOUR)
    return figure


def _level(axes: Axes, values: Sequence[float], log: bool) -> None:
    """One range for both axes, and where both are equal."""
    low, high = min(values), max(values)
    ends = (low / 1.3, high * 1.3) if log else (low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.plot(ends, ends, color=plots.RULE, linewidth=1, zorder=0)
    if log:
        axes.set(xscale="log", yscale="log")
    axes.set(xlim=ends, ylim=ends, box_aspect=1)


HEAD = """# The same random settings for two models

What it says: [findings.md](findings.md); what was expected: [lab](lab/tuning.md#the-ring-at-the-same-random-settings).
Names: [metrics.md](metrics.md). Validation split, one seed, the settings of [random.yaml](../sweeps/random.yaml)."""


def page(record: Mapping) -> list[str]:
    """docs/settings.md."""
    return [*HEAD.split("\n"), "", *(line for data, found in record.items() for line in section(data, found))]


def main(arguments: Sequence[str]) -> None:
    data, given = ("ring", arguments) if not arguments or "=" in arguments[0] else (arguments[0], arguments[1:])
    if data not in MODELS:
        raise SystemExit(f"which data? One of {', '.join(MODELS)}, for example python -m benchmarks.settings ring")
    chosen, more = options(given, models=",".join(MODELS[data]))
    models = chosen["models"].split(",")
    if unknown := [m for m in models if m not in MODELS[data]]:
        raise SystemExit(f"models={unknown[0]}: expected some of {', '.join(MODELS[data])}")
    found = {"settings": lasting(more), "models": {m: trials(data, m, more) for m in models}}
    if missing := [m for m in MODELS[data] if m not in models]:
        print(f"trained and scored: {', '.join(models)}; nothing is written before {', '.join(missing)} has been, too")
        return
    together(found["models"])
    path = Path("docs", "settings.json")
    record = (json.loads(path.read_text()) if path.exists() else {}) | {data: found}
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(page(record)))
    plots.save(draw(data, found), Path("docs", "figures", f"settings_{data}.png"))
    print("\n".join(section(data, found)))


if __name__ == "__main__":
    main(sys.argv[1:])
