"""What the numbers say in a few sentences, computed from them alone."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gibbsnet.report.scores import Comparison, Path, Spread, meaning, reference_spreads, rows, spreads, steps


class Entry(NamedTuple):
    """A model in a ranking, with its best row of several (a latent's, say)."""

    model: str
    row: Path
    spread: Spread


class Finding(NamedTuple):
    """One sentence: `lead` says what is ranked, `ranking` has the best first, `beside` the references, `notes` caveats."""

    lead: str
    ranking: list[Entry]
    beside: dict[str, Spread]
    notes: list[str]


def findings(comparison: Comparison) -> Iterator[Finding]:
    """Who is best at what, for the scores by which one would choose."""
    last = max(steps(comparison), default=0)
    for lead, pattern in (
        ("Samples at i = N", ("samples", "class_frechet_ratio")),
        (f"Samples after a chain of {last:,} steps", ("chain", str(last), "class_frechet_ratio")),
        ("Samples at i = N", ("samples", "share")),
        (f"Samples after a chain of {last:,} steps", ("chain", str(last), "share")),
        ("Mixing", ("chain", "switch_rate")),
        ("Latents for a linear classifier", ("latent", "*", "probe_accuracy")),
        ("Reconstruction from one latent", ("reconstruction", "*", "mse")),
    ):
        ranking = _ranking(comparison, [row for row in rows(comparison) if _matches(row, pattern)])
        if ranking:
            beside = reference_spreads(comparison, ranking[0].row)
            yield Finding(lead, ranking, beside, list(_notes(ranking, beside)))


def _matches(row: Path, pattern: Path) -> bool:
    return len(row) == len(pattern) and all(p in ("*", k) for k, p in zip(row, pattern, strict=True))


def _ranking(comparison: Comparison, candidates: Sequence[Path]) -> list[Entry]:
    """Models from best to worst, each by its best row; those without a finite number are left out."""
    entries = [Entry(model, row, spread) for row in candidates for model, spread in spreads(comparison, row).items()]
    entries = [entry for entry in entries if math.isfinite(entry.spread.median)]
    entries.sort(key=lambda e: (-meaning(e.row).better * e.spread.median, e.model, e.row))
    firsts: dict[str, Entry] = {}
    for entry in entries:
        firsts.setdefault(entry.model, entry)
    return list(firsts.values())


def _notes(ranking: Sequence[Entry], beside: dict[str, Spread]) -> Iterator[str]:
    first, better = ranking[0], meaning(ranking[0].row).better
    if len(ranking) > 1:
        second = ranking[1]
        if len({*first.spread[:3], *second.spread[:3]}) == 1:
            yield f"{first.model} and {second.model} are level"
        elif second.spread.low <= first.spread.high and first.spread.low <= second.spread.high:
            yield f"the seeds of {first.model} and {second.model} overlap"
        elif first.spread.n == 1 or second.spread.n == 1:
            yield "one seed is no evidence for a small difference"
    for name, verdict in (
        ("untrained_encoder", "no better than an untrained encoder"),
        ("gaussian", "no better than a Gaussian"),
        ("mean_image", "no better than the mean image"),
    ):
        if name in beside and better * first.spread.median <= better * beside[name].median:
            yield verdict
