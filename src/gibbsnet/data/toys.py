"""Two-dimensional mixtures of Gaussians, in coordinates where each axis has variance one.

ring: 8 at radius 1, sigma .02; grid: 25 at {-4, -2, 0, 2, 4}^2, sigma .05.

Reference: Dumoulin et al., Adversarially Learned Inference, https://arxiv.org/abs/1606.00704
"""

import math

import torch
from torch import Tensor

from gibbsnet.data.sets import DataSet, Modes, Split
from gibbsnet.noise import Noise

SIZES = {"train": 20_000, "validation": 2_000, "test": 10_000}


def ring(k: int = 8) -> tuple[Tensor, float]:
    """Centres (k, 2) on the unit circle, and sigma."""
    angle = 2 * math.pi * torch.arange(k) / k
    return torch.stack([angle.cos(), angle.sin()], 1), 0.02


def grid() -> tuple[Tensor, float]:
    """Centres (25, 2) on a square lattice, and sigma."""
    axis = torch.arange(-4.0, 5.0, 2.0)
    return torch.cartesian_prod(axis, axis), 0.05


def toy(name: str, centres: Tensor, sigma: float, sizes: dict[str, int] = SIZES) -> DataSet:
    """A mixture's data set; y is the mode; the scale is the standard deviation of the mixture (not of a sample)."""
    scale = (centres.var(0, correction=0).mean() + sigma**2).sqrt().item()
    modes = Modes(centres / scale, sigma / scale, scale)
    splits = {split: draw(modes, n, Noise(0, name, split)) for split, n in sizes.items()}
    return DataSet(name, **splits, classes=len(centres), levels=0, modes=modes)


def draw(modes: Modes, n: int, noise: Noise) -> Split:
    """n points (n, 2) and the modes (n,) they come from."""
    y = (noise.uniform((n,)) * len(modes.centres)).long()
    return Split(modes.centres[y] + modes.sigma * noise.normal((n, 2)), y)
