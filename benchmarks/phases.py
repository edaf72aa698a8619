"""Negative phases against one positive phase: python -m benchmarks.phases [seeds=1,2,3] [steps=6000]

GibbsNet with two latents on digits, whose unclamped chain dreams, is ready-to-hand, or daydreams; where it does not dream, it
does so every k-th batch (daydreaming alone teaches p(x|z1) nothing).  All sweep 1 to 3 times and take as many steps.
Prints a table; run folders: runs/phases/<phase>/<seed>.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import numbers, summary, table
from gibbsnet.config import load
from gibbsnet.evaluate import evaluate
from gibbsnet.train import train

PHASES = {
    "dreaming": ["mode=dreaming"],
    "ready-to-hand": ["mode=ready_to_hand"],
    "ready-to-hand, k = 2": ["mode=ready_to_hand", "chains.unclamped.dream_every=2"],
    "daydreaming, k = 2": ["mode=daydreaming", "chains.unclamped.dream_every=2"],
    "daydreaming, k = 4": ["mode=daydreaming", "chains.unclamped.dream_every=4"],
}
ROWS = [
    "samples/class_score", "samples/class_frechet_ratio", "chain/100/class_frechet_ratio", "chain/switch_rate",
    "latent/*/probe_accuracy", "reconstruction/*/mse", "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
]  # fmt: skip


def run(phase: str, seed: int, steps: int) -> Path:
    """One finished and evaluated run; what is finished is not run again."""
    where = Path("runs", "phases", phase.replace(", k = ", "_").replace("-", "_"), str(seed))
    settings = [
        "model=gibbsnet2",
        "chains.unclamped.steps=[1,3]",
        "evaluation.steps=[0,1,3,10,100]",
        "tracking.mode=disabled",
    ]
    config = load([*settings, *PHASES[phase], f"seed={seed}", f"steps={steps}", f"run={where}"])
    train(config)
    if not (where / "metrics.json").exists():
        evaluate(config)
    return where


def main(arguments: Sequence[str]) -> None:
    options = dict(a.split("=", 1) for a in arguments)
    if unknown := sorted(options.keys() - {"seeds", "steps"}):
        raise SystemExit(f"unknown {unknown[0]!r}: expected seeds=1,2,3 and steps=6000")
    seeds = [int(seed) for seed in options.get("seeds", "1,2,3").split(",")]
    steps = int(options.get("steps", 6000))
    columns = {phase: summary([numbers(run(phase, seed, steps)) for seed in seeds]) for phase in PHASES}
    print(*table(columns, ROWS), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
