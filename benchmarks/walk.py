r"""Where a sweep leads: python -m benchmarks.walk run=RUN [run=RUN ...] [chains=1000] [seed=7]

The transitions T between classes (of images the judge's most probable one, of points in the plane the nearest mode) from one
sweep to the next, counted over sweeps 2 to 15 of free chains; `stays` is the share of them that keep their class.  A settled
chain of a joint's own two conditionals is reversible in x and its operator positive, so the eigenvalues of its T are real and
none is below 0; an angle says that the chain walks in circles.  Prints them, the largest first, and where each class goes most
often; writes <run>/walk.json.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from math import degrees
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.approach import opened, transitions
from benchmarks.runs import asked, in_one_line
from gibbsnet.evaluate import write_json

FIRST, LAST = 2, 15  # sweeps: the first ones still come from the prior


def walked(counts: Tensor) -> dict:
    """Of the numbers of transitions (K, K): the share that stays, T's rows, and its eigenvalues as (modulus, angle in degrees),
    the largest first; classes where the chain never was are left out of these."""
    been = counts.sum(1) > 0
    whole = counts[been][:, been]
    values = torch.linalg.eigvals(whole / whole.sum(1, keepdim=True))
    values = values[values.abs().argsort(descending=True, stable=True)]
    return {
        "stays": float(counts.diagonal().sum() / counts.sum()),
        "eigenvalues": [(float(v.abs()), degrees(float(v.angle()))) for v in values],
        "transitions": (counts / counts.sum(1, keepdim=True).clamp_min(1)).tolist(),
    }


@torch.no_grad()
def measure(run: Path, chains: int, seed: int) -> dict:
    """The numbers of a run, also written into its folder."""
    module, stick, data = opened(run)
    states = islice(module.trajectory(chains, seed), FIRST, LAST + 1)
    visited = torch.stack([stick.look(state["x"]).probs.argmax(1) for state in states])
    found = walked(transitions([visited], data.data.classes, 1))
    write_json(found, run / "walk.json")
    return found


def main(arguments: Sequence[str]) -> None:
    runs, chosen = asked(arguments, " of a model with x and z", chains=1000, seed=7)
    for run in runs:
        with in_one_line():
            found = measure(run, **chosen)
        print(f"{run}: {found['stays']:.2f} stay; eigenvalues", end=" ")
        print(", ".join(f"{size:.2f} at {angle:.0f} degrees" for size, angle in found["eigenvalues"][1:5]))
        for k, row in enumerate(found["transitions"]):
            print(
                f"{k} -> " + ", ".join(f"{j} {row[j]:.2f}" for j in sorted(range(len(row)), key=lambda j: -row[j])[:3])
            )


if __name__ == "__main__":
    main(sys.argv[1:])
