r"""Scores of points drawn from a mixture of equal isotropic Gaussians, whose modes are known.

A point belongs to a mode if it lies within three of its standard deviations; of the mixture itself
:math:`1 - e^{-9/2} = .989` does. Modes take the place of classes, so that the switch rate applies as it is.
"""

import torch
from torch import Tensor

from gibbsnet.data import Modes


def nearest_mode(x: Tensor, modes: Modes) -> Tensor:
    """The index of the nearest centre, int64 (n,), for points (n, 2)."""
    return torch.cdist(x.double(), modes.centres.double()).argmin(dim=1)


def mode_probs(x: Tensor, modes: Modes, radius: float = 3.0) -> Tensor:
    """One-hot rows (n, k) for the mode that a point belongs to, rows of zeros for points that belong to none."""
    distance = torch.cdist(x.double(), modes.centres.double())
    nearest = torch.nn.functional.one_hot(distance.argmin(dim=1), len(modes.centres))
    return nearest * (distance <= radius * modes.sigma)


def modes_covered(probs: Tensor) -> int:
    """How many modes hold at least a quarter of their fair share n / k of all n samples; probs: `mode_probs`."""
    n, k = probs.shape
    return int((probs.sum(dim=0) >= n / (4 * k)).sum())


def share(probs: Tensor) -> float:
    """The part of the samples that belongs to any mode, in [0, 1]."""
    return float(probs.sum(dim=1).double().mean())


def mode_distance(probs: Tensor, real: Tensor) -> float:
    """Total variation between where samples and real points lie, in [0, 1]: in this mode, in that one, or in none.

    It sees both what a lost mode and what a blurred one costs; distances between points hardly see blur.
    """
    return float((_occupancy(probs) - _occupancy(real)).abs().sum() / 2)


def _occupancy(probs: Tensor) -> Tensor:
    """The shares (k + 1,) of the points that belong to each mode, and to none."""
    held = probs.double().mean(dim=0)
    return torch.cat([held, 1 - held.sum(dim=0, keepdim=True)])
