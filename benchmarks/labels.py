"""What a model with labels does: python -m benchmarks.labels run=RUN [run=RUN ...] [split=test] [samples=5000] [images=360]

Scores trained runs of models with a variable y (and a) by docs/metrics.md: classes and attributes asked for, joint samples,
classification against references with the same known labels, edits, halves, copies of labelled images.  Writes
<run>/labels.json and prints its numbers.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.runs import asked, in_one_line
from gibbsnet.config import ConfigError, leaves, read
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation import evaluate_labels
from gibbsnet.prepare import datamodule, prepare
from gibbsnet.train import load_run


def measure(run: Path, split: str = "test", samples: int = 5000, images: int = 360, seed: int = 0) -> dict:
    """The scores of one run, also written into its folder."""
    config = read(run)
    if "y" not in config["graph"]:
        raise ConfigError(
            f"{run} is a run of model={config['model']['name']}, which has no labels: train model=labelled"
        )
    data, judge = datamodule(config), prepare(config)
    if judge is None:
        raise ConfigError(f"{run}: classes of {data.data.name} cannot be judged, they are no images")
    module = load_run(run, config, data.shape, data.digest)
    scores = evaluate_labels(module, data, judge, split=split, samples=samples, images=images, seed=seed)
    write_json(scores, run / ("labels.json" if split == "test" else f"labels_{split}.json"))
    return scores


def table(scores: Mapping) -> list[str]:
    """Markdown: a row for each number."""
    return [
        "| what | share |",
        "|---|---:|",
        *(f"| {name.replace('.', ' / ')} | {v:.3f} |" for name, v in leaves(scores)),
    ]


def main(arguments: Sequence[str]) -> None:
    runs, options = asked(arguments, " of a model with labels", split="test", samples=5000, images=360, seed=0)
    if options["split"] not in ("test", "validation"):
        raise SystemExit(f"split={options['split']}: expected test or validation")
    for run in runs:
        with in_one_line():
            print(run, *table(measure(run, **options)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
