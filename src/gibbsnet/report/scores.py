"""Scores of the runs that are compared, aggregated over their seeds and set beside their references."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from gibbsnet.report.runs import Run, flatten
from gibbsnet.report.words import REFERENCES, SCORES, Score

Path = tuple[str, ...]  # keys of metrics.json from the top: ("latent", "z1", "probe_accuracy")


class Spread(NamedTuple):
    """A score over seeds."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None without values; a NaN among them makes the median NaN."""
        values = sorted(values, key=lambda v: (math.isnan(v), v))
        if not values:
            return None
        middle = math.nan if math.isnan(values[-1]) else median(values)
        return cls(middle, values[0], values[-1], len(values))


@dataclass
class Comparison:
    """The runs of one experiment on one data set; `models`: name -> its runs, a run per seed."""

    experiment: str
    data: str
    models: dict[str, list[Run]]

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.models.values() for run in runs]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"[^\w-]+", "-", f"{self.experiment}-{self.data}")


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """The runs by (experiment, data set), in alphabetical order."""
    found: dict[tuple[str, str], Comparison] = {}
    for run in sorted(runs, key=lambda run: run.key):
        comparison = found.setdefault((run.experiment, run.data), Comparison(run.experiment, run.data, {}))
        comparison.models.setdefault(run.model, []).append(run)
    return list(found.values())


def scores(run: Run) -> dict[Path, float]:
    """Every number of metrics.json by its path, without the references."""
    return {path: value for path, value in _numbers(run.metrics) if path[0] != "reference"}


def _numbers(metrics: dict) -> Iterator[tuple[Path, float]]:
    """JSON has no NaN: what is null was not finite."""
    for path, value in flatten(metrics):
        value = math.nan if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path, float(value)


def references(run: Run, row: Path) -> dict[str, float]:
    """What stands beside a score: reference -> value.

    A reference may hold a score once for all, or for a latent or a step alone: all its keys must occur in the row's path.
    """
    held = run.metrics.get("reference")
    found = {}
    for path, value in _numbers(held if isinstance(held, dict) else {}):
        name, *between, leaf = path
        name = "shuffled_z" if leaf == f"{row[-1]}_shuffled" else name
        if leaf.removesuffix("_shuffled") == row[-1] and set(between) <= set(row):
            found[name] = value
    return found


def spreads(comparison: Comparison, row: Path) -> dict[str, Spread]:
    """Model -> its score over seeds, for the models that have it."""
    values = {model: [scores(run).get(row) for run in runs] for model, runs in comparison.models.items()}
    found = {model: Spread.of(v for v in seeds if v is not None) for model, seeds in values.items()}
    return {model: spread for model, spread in found.items() if spread}


def reference_spreads(comparison: Comparison, row: Path) -> dict[str, Spread]:
    """Reference -> its score over those runs that have this row, in the order of EVALUATION, others last."""
    found: dict[str, list[float]] = {}
    for run in comparison.runs:
        if row in scores(run):
            for name, value in references(run, row).items():
                found.setdefault(name, []).append(value)
    order = [*(name for name in REFERENCES if name in found), *sorted(found.keys() - REFERENCES.keys())]
    return {name: Spread.of(found[name]) for name in order}


def rows(comparison: Comparison) -> list[Path]:
    """Every score that any run has: sections as in metrics.json, steps by their number, the rest as first seen."""
    found = dict.fromkeys(path for run in comparison.runs for path in scores(run))
    sections = list(dict.fromkeys(["samples", "chain", "latent", "reconstruction", *(path[0] for path in found)]))
    names = list(SCORES)

    def place(path: Path):
        leaf = names.index(path[-1]) if path[-1] in SCORES else len(names)
        return sections.index(path[0]), leaf, path[-1], [(int(k) if k.isdigit() else -1, k) for k in path[1:-1]]

    return sorted(found, key=place)


def steps(comparison: Comparison) -> list[int]:
    """The literal steps i at which any chain was scored."""
    paths = [path for run in comparison.runs for path in scores(run)]
    return sorted({int(path[1]) for path in paths if path[0] == "chain" and len(path) > 2 and path[1].isdigit()})


def meaning(row: Path) -> Score:
    """What is known of a score; of an unknown one, nothing."""
    return SCORES.get(row[-1], Score(0, 3, ""))


def rivals(row: Path) -> Path:
    """Scores that compete: the same number of any latent, of the same step."""
    return (row[0], row[-1]) if row[0] in ("latent", "reconstruction") else row


def best(comparison: Comparison, rows: Sequence[Path]) -> set[tuple[Path, str]]:
    """The cells (row, model) that are best among their rivals, at the precision shown; none where all are equal."""
    contests: dict[Path, list[tuple[float, Path, str]]] = {}
    for row in rows:
        for model, spread in spreads(comparison, row).items():
            if meaning(row).better and math.isfinite(spread.median):
                value = round(meaning(row).better * spread.median, meaning(row).places)
                contests.setdefault(rivals(row), []).append((value, row, model))
    contests = {key: cells for key, cells in contests.items() if len({model for *_, model in cells}) > 1}
    won = {key: max(cells)[0] for key, cells in contests.items() if max(cells)[0] > min(cells)[0]}
    return {(row, model) for key, top in won.items() for value, row, model in contests[key] if value == top}
