"""Negative phases against one positive phase: python -m benchmarks.phases [seeds=1,2,3] [steps=6000]

GibbsNet with two latents on digits, whose unclamped chain dreams, is ready-to-hand, or daydreams; where it does not dream, it
does so every k-th batch (daydreaming alone teaches p(x|z1) nothing).  All sweep once, anew in every batch, and take as many
steps; beside them dreaming without a sweep in half of its batches, which is gibbsnet2 but for its persistent chains.
Prints a table; run folders: runs/phases/<phase>/<seed>.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.runs import finished, numbers, options, summary, table
from benchmarks.stability import CHAIN, YOUNG

ALL = ["model=gibbsnet2", f"{CHAIN}.steps=1", *YOUNG]
PHASES = {
    "dreaming": ["mode=dreaming"],
    "dreaming, N in 0..1": ["mode=dreaming", f"{CHAIN}.steps=[0,1]"],
    "ready-to-hand": ["mode=ready_to_hand"],
    "ready-to-hand, k = 2": ["mode=ready_to_hand", f"{CHAIN}.dream_every=2"],
    "daydreaming, k = 2": ["mode=daydreaming", f"{CHAIN}.dream_every=2"],
    "daydreaming, k = 4": ["mode=daydreaming", f"{CHAIN}.dream_every=4"],
}
ROWS = [
    "samples/class_score", "samples/class_frechet_ratio", "chain/3/class_score",
    "chain/3/class_frechet_ratio", "chain/100/class_frechet_ratio", "chain/1000/class_frechet_ratio", "chain/switch_rate",
    "latent/*/probe_accuracy", "reconstruction/*/mse", "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
]  # fmt: skip


def run(phase: str, seed: int, steps: str, more: Sequence[str] = ()) -> Path:
    """One finished and evaluated run."""
    where = Path("runs", "phases", "_".join(re.findall(r"\w+", phase)), str(seed))
    settings = [*ALL, "evaluation.steps=[0,1,3,10,100,1000]", *PHASES[phase], f"steps={steps}"]
    return finished([*settings, f"seed={seed}", f"run={where}", *more])


def main(arguments: Sequence[str]) -> None:
    chosen, more = options(arguments, seeds="1,2,3", steps="6000")
    seeds = [int(seed) for seed in chosen["seeds"].split(",")]
    columns = {p: summary([numbers(run(p, seed, chosen["steps"], more)) for seed in seeds]) for p in PHASES}
    print(*table(columns, ROWS), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
