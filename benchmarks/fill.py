"""How well holes in real images are filled: python -m benchmarks.fill run=RUN [run=RUN ...] [images=360] [seed=0] [hole=HOLE]

Scores plain and attentive chains of trained runs against the mean, the nearest training image and ridge regression, on the
test split; what they draw of two images' halves side by side; and, by a model with labels, fills that know the image's label,
against the same references among images of its class.  Writes <run>/fill.json and prints the tables of each.  With HOLE,
`row` or a mask's file, as `sample` takes them, it prints the first of these tables for that one alone and writes nothing.  For
benchmarks.abilities: what attentive chains owe to what (<run>/apart.json), what parts of a latent say (<run>/latents.json).
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.runs import asked, in_one_line
from gibbsnet.classifier import Judge
from gibbsnet.config import read
from gibbsnet.data import DataSet
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation import evaluate_apart, evaluate_fills, evaluate_latent_holes, evaluate_mixes
from gibbsnet.modules import GibbsNet
from gibbsnet.prepare import datamodule, prepare
from gibbsnet.train import load_run

NAMES = ("mse", "mse_of_mean", "diversity", "class_kept", "class_voted", "class_score")
MIXES = ("mse", "either", "class_score")


def measure(run: Path, images: int = 360, seed: int = 0) -> dict:
    """The scores of one run, also written into its folder."""
    (module, *beside), options = _opened(run), {"images": images, "seed": seed}
    scores = evaluate_fills(module, *beside, **options)
    scores |= {f"mix_{hole}": rows for hole, rows in evaluate_mixes(module, *beside, **options).items()}
    if "y" in module.labels:
        told = evaluate_fills(module, *beside, **options, labelled=True)
        scores |= {f"labelled_{hole}": rows for hole, rows in told.items()}
    write_json(scores, run / "fill.json")
    return scores


def alone(run: Path, hole: str, images: int = 360, seed: int = 0) -> dict:
    """The scores of one hole, of any kind that `gibbsnet.data.hole` knows."""
    return evaluate_fills(*_opened(run), holes=[hole], images=images, seed=seed)


def apart(run: Path, images: int = 360, seed: int = 0) -> dict:
    """What attentive chains owe to their starts and to their refusals, also written into the run's folder."""
    scores = evaluate_apart(*_opened(run), images=images, seed=seed)
    write_json(scores, run / "apart.json")
    return scores


def in_latents(run: Path, images: int = 360, seed: int = 0) -> dict:
    """How well what a part of a latent says is filled in, also written into the run's folder."""
    scores = evaluate_latent_holes(*_opened(run), images=images, seed=seed)
    write_json(scores, run / "latents.json")
    return scores


def _opened(run: Path) -> tuple[GibbsNet, DataSet, Judge]:
    """A trained run, its data, and who judges them."""
    config = read(run)
    data = datamodule(config)
    return load_run(run, config, data.shape, data.digest), data.data, prepare(config)


def table(scores: Mapping[str, Mapping]) -> list[str]:
    """Markdown: a row for each hole, or mix, and what fills, or draws, it."""
    lines = []
    for what, names in (("missing | filled", NAMES), ("mixed | drawn", MIXES)):
        known = [
            (hole, name, row) for hole, rows in scores.items() for name, row in rows.items() if row.keys() == set(names)
        ]
        if not known:
            continue
        lines += [f"| {what} by | " + " | ".join(names) + " |", "|---|---|" + "---:|" * len(names)]
        lines += [
            f"| {hole} | {name} | " + " | ".join(f"{row[k]:.3g}" for k in names) + " |" for hole, name, row in known
        ]
    return lines


def main(arguments: Sequence[str]) -> None:
    runs, options = asked(arguments, images=360, seed=0, hole="all")
    hole = options.pop("hole")
    for run in runs:
        with in_one_line():
            found = measure(run, **options) if hole == "all" else alone(run, hole, **options)
            print(run, *table(found), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
