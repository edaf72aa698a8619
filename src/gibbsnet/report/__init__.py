"""Run folders to one page that lets a newcomer choose a model, and a table of its numbers."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from gibbsnet.plots import write
from gibbsnet.report import sweeps
from gibbsnet.report.page import page
from gibbsnet.report.records import read as read_records
from gibbsnet.report.records import usual
from gibbsnet.report.runs import Run, find, read
from gibbsnet.report.scores import compare, reference_spreads, rows, spreads

__all__ = ["report", "usual"]
COLUMNS = ("experiment", "data", "metric", "kind", "name", "seeds", "median", "lowest", "highest")


def report(
    folder: str | Path | None = "runs",
    out: str | Path = "reports",
    runs: Sequence[str | Path] | None = None,
    records: str | Path | None = None,
) -> Path:
    """Writes out/index.html, one page without external resources, and out/metrics.csv; returns the page's path.

    Equal runs give equal bytes.

    Arguments:
        folder: every folder below it that holds a config.yaml is a run, every one that holds a sweep.json is a sweep.
        runs: run folders, or folders above them, in place of `folder`.
        records: a folder of pages with results, such as this project's docs, which are shown below the runs.

    Raises ValueError if there is no run, or `records` holds no pages that can be shown; runs that are unfinished or damaged are
    listed on the page with the reason.
    """
    places = [Path(folder)] if runs is None else [Path(run) for run in runs]
    swept = [sweeps.read(found) for found in sorted({found for place in places for found in sweeps.find(place)})]
    listed = runs is not None  # what was named and is not there is told on the page
    folders = sorted({f for p in places for f in find(p) or [p] * (listed and not sweeps.find(p))})
    if not folders and not swept:
        where = f"below {folder}" if runs is None else "in an empty list of runs"
        raise ValueError(f"no run {where}: `python -m gibbsnet train model=gibbsnet data=digits` makes one")
    beside = read_records(records) if records else ()
    found = sorted(map(read, folders), key=lambda run: (bool(run.damage), () if run.damage else run.key))
    out = Path(out)
    if out.is_file():
        raise ValueError(f"out={out} is a file: say a folder")
    write(out / "metrics.csv", _csv([run for run in found if not run.damage]).encode())
    write(out / "index.html", page(found, swept, beside).encode())
    return out / "index.html"


def _csv(runs: Sequence[Run]) -> str:
    """The numbers of the page's tables, one per line and in full: `kind` tells models from references."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_lines(runs))
    return text.getvalue()


def _lines(runs: Sequence[Run]) -> Iterator[tuple]:
    for comparison in compare(runs):
        for row in rows(comparison):
            for kind, found in (
                ("model", spreads(comparison, row)),
                ("reference", reference_spreads(comparison, row)),
            ):
                for name, (median, low, high, n) in found.items():
                    yield comparison.experiment, comparison.data, "/".join(row), kind, name, n, median, low, high
