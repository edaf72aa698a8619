"""Runs of several seeds: made once, read into numbers, summed up in tables and curves."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gibbsnet.config import ConfigError, folder, load
from gibbsnet.evaluate import evaluate
from gibbsnet.plots import MUTED
from gibbsnet.report.charts import colours, over_steps
from gibbsnet.report.runs import Run
from gibbsnet.report.scores import Comparison
from gibbsnet.train import train


def options(arguments: Sequence[str], **defaults: str) -> tuple[dict[str, str], list[str]]:
    """The command line's key=value over the defaults; and what has another key, which is every run's setting."""
    own = [a for a in arguments if a.partition("=")[0] in defaults]
    return {**defaults, **dict(a.split("=", 1) for a in own)}, [a for a in arguments if a not in own]


def trained(settings: Sequence[str]) -> dict:
    """The configuration of a run that is trained: one that is finished is not run again, an interrupted one goes on.

    Raises:
        SystemExit: a setting that there is not, in one line.
    """
    try:
        config = load([*settings, "tracking.mode=disabled"])
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    train(config)
    return config


def finished(settings: Sequence[str]) -> Path:
    """The folder of a run that is trained and evaluated."""
    config = trained(settings)
    if not (folder(config) / "metrics.json").exists():
        evaluate(config)
    return folder(config)


def numbers(run: Path) -> dict[str, float]:
    """Metrics by names joined with '/', train.json's among them."""
    metrics = json.loads((run / "metrics.json").read_text())
    return dict(flat({**metrics, "train": json.loads((run / "train.json").read_text())}))


def flat(nested: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


def summary(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """name -> median, least and greatest over the seeds."""
    names = [n for n in seeds[0] if all(n in s for s in seeds)]
    return {
        n: {"median": statistics.median(v), "min": min(v), "max": max(v)} for n in names if (v := [s[n] for s in seeds])
    }


def paired(seeds: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """seeds - others, seed by seed, of what both have."""
    return [{n: a[n] - b[n] for n in a if n in b} for a, b in zip(seeds, others, strict=True)]


def table(columns: Mapping[str, Mapping], rows: Sequence[str], sign: str = "") -> list[str]:
    """Markdown: a row per metric (a '*' stands for each latent), a column per model, median [least .. greatest].

    sign: "+" shows that of positive numbers too.
    """
    expanded = [name for row in rows for name in matches(row, columns)]
    lines = ["| metric | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    return lines + [f"| {n} | " + " | ".join(cell(c.get(n), sign) for c in columns.values()) + " |" for n in expanded]


def matches(row: str, columns: Mapping[str, Mapping]) -> list[str]:
    if "*" not in row:
        return [row]
    head, tail = row.split("*")
    found = {n for column in columns.values() for n in column if n.startswith(head) and n.endswith(tail)}
    return sorted(n for n in found if "/" not in n[len(head) : len(n) - len(tail)])


def cell(value: Mapping[str, float] | None, sign: str = "") -> str:
    if value is None:
        return "-"
    median, low, high = (f"{value[k]:{sign}.4g}" for k in ("median", "min", "max"))
    return median if low == high else f"{median} [{low} .. {high}]"


def curves(data: str, columns: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Scores over the steps of the chain, the report's chart, with a legend; name -> its seeds' metrics."""
    runs = {name: [Run(Path(), metrics=dict(metrics)) for metrics in seeds] for name, seeds in columns.items()}
    palette = colours(list(columns))
    figure = over_steps(Comparison("", data, runs), palette)
    handles = [Line2D([], [], color=palette[name], marker="o", markersize=3.5, label=name) for name in columns]
    options = {"ncols": min(len(handles), 6), "frameon": False, "fontsize": 8.5, "labelcolor": MUTED}
    figure.legend(handles=handles, loc="outside lower center", **options)
    return figure
