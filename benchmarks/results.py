"""The README's tables: python -m benchmarks.results [experiment ...]

Trains and evaluates what the tables compare, several seeds each, and writes docs/results.md and docs/results.json.  A run that is
finished is not run again; an interrupted one goes on.  Run folders: runs/<experiment>/<data>/<model>/<seed>/.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gibbsnet.config import folder, load
from gibbsnet.evaluate import evaluate
from gibbsnet.train import train

# experiment -> (data, models, seeds). Tuning used other seeds than these.
TABLES = {
    "digits": ("digits", ("ali", "hali", "gibbsnet", "gibbsnet2"), (1, 2, 3)),
    "digits_floor": ("digits", ("ali",), (1, 2, 3)),
    "ring": ("ring", ("gibbsnet",), (1, 2, 3)),
    "ring_bce": ("ring", ("gibbsnet",), (1, 2, 3)),
}
ROWS = {
    "digits": [
        "samples/class_score", "samples/class_frechet_ratio", "chain/10/class_frechet_ratio", "chain/100/class_frechet_ratio",
        "chain/1000/class_frechet_ratio", "chain/10/classes", "chain/100/classes", "chain/1000/classes", "chain/switch_rate",
        "latent/*/probe_accuracy", "reference/untrained_encoder/*/probe_accuracy", "latent/*/non_gaussianity",
        "reconstruction/*/mse", "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
    ],
    "ring": [
        "chain/1/modes", "chain/3/modes", "chain/10/modes", "chain/100/modes", "chain/1/share", "chain/3/share", "chain/10/share",
        "chain/100/share", "chain/switch_rate", "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
    ],
}  # fmt: skip


def run(experiment: str, data: str, model: str, seed: int) -> Path:
    """One finished and evaluated run."""
    config = load(
        [f"experiment={experiment}", f"data={data}", f"model={model}", f"seed={seed}", "tracking.mode=disabled"]
    )
    train(config)
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


def summary(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """name -> median, least and greatest over the seeds."""
    seeds = [numbers(run) for run in runs]
    names = [n for n in seeds[0] if all(n in s for s in seeds)]
    return {
        n: {"median": statistics.median(v), "min": min(v), "max": max(v)} for n in names if (v := [s[n] for s in seeds])
    }


def table(columns: Mapping[str, Mapping], rows: Sequence[str]) -> list[str]:
    """Markdown: a row per metric (a '*' stands for each latent), a column per model, median [least .. greatest]."""
    expanded = [name for row in rows for name in matches(row, columns)]
    lines = ["| metric | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    return lines + [f"| {n} | " + " | ".join(cell(c.get(n)) for c in columns.values()) + " |" for n in expanded]


def matches(row: str, columns: Mapping[str, Mapping]) -> list[str]:
    if "*" not in row:
        return [row]
    head, tail = row.split("*")
    found = {n for column in columns.values() for n in column if n.startswith(head) and n.endswith(tail)}
    return sorted(n for n in found if "/" not in n[len(head) : len(n) - len(tail)])


def cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    median, low, high = (f"{value[k]:.4g}" for k in ("median", "min", "max"))
    return median if low == high else f"{median} [{low} .. {high}]"


def main(wanted: Sequence[str]) -> None:
    record_path = Path("docs/results.json")
    record = json.loads(record_path.read_text()) if record_path.exists() else {}
    for experiment in wanted or TABLES:
        data, models, seeds = TABLES[experiment]
        record[experiment] = {m: summary([run(experiment, data, m, s) for s in seeds]) for m in models}
        record_path.write_text(json.dumps(record, indent=1) + "\n")
    text = ["# Results", "", "Median over three seeds (1, 2, 3) [least .. greatest], by `make results`.", ""]
    for experiment, columns in record.items():
        kind = "ring" if experiment.startswith("ring") else "digits"
        text += [
            f"## {experiment}",
            "",
            f"`python -m benchmarks.results {experiment}`",
            "",
            *table(columns, ROWS[kind]),
            "",
        ]
    Path("docs/results.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main(sys.argv[1:])
