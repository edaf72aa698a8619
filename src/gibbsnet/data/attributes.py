r"""What can be measured of a handwritten digit, bright on dark: has it a loop, is it slanted, is it thick?

With ink s in [0, 1] at (row r, column c), r counted downward:

    loop       the depth of the deepest hole: how much darker a pixel is than the brightest pixel that every way
               from it to the border has to cross, steps being up, down, left or right
    slant      -cov(r, c) / var(r) under s: columns to the right per row upward
    thickness  2 sum s / sum |grad s|, over the image's height: a stroke of width w and length L has wL of ink and 2L of edge
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

ATTRIBUTES = ("loop", "slanted", "thick")
LOOP = 0.3  # the least depth that counts
BACKGROUND = 0.1  # ink below it is none: dequantised black, and a generator's
CHUNK = 500  # images that are measured at once


@dataclass(frozen=True)
class Measure:
    """Which of ATTRIBUTES digits have: a loop deeper than LOOP, more slant than this, strokes thicker than this."""

    slant: float
    thickness: float

    @classmethod
    def of(cls, x: Tensor) -> "Measure":
        """For digits like these, x (n, 1, H, W) in [-1, 1]: half of them are slanted, and half are thick."""
        s = ink(x)
        return cls(float(slant(s).median()), float(thickness(s).median()))

    def __call__(self, x: Tensor) -> Tensor:
        """Bool (B, 3); x: (B, 1, H, W) in [-1, 1]."""
        parts = [ink(chunk) for chunk in x.split(CHUNK)]
        rows = [(loop(s) > LOOP, slant(s) > self.slant, thickness(s) > self.thickness) for s in parts]
        return torch.cat([torch.stack(row, 1) for row in rows])


def ink(x: Tensor) -> Tensor:
    """s, (B, H, W) in [0, 1]."""
    return (((x[:, 0] + 1) / 2 - BACKGROUND) / (1 - BACKGROUND)).clamp(0, 1)


def loop(s: Tensor) -> Tensor:
    """The depth of the deepest hole, (B,) in [0, 1]: 0 where every dark pixel is joined to the border."""
    s = pad(s, (1, 1, 1, 1))
    level = torch.ones_like(s)
    level[:, 0], level[:, -1], level[..., 0], level[..., -1] = 0, 0, 0, 0
    while True:  # morphological reconstruction: the border's darkness flows inward as far as s lets it
        flowed = torch.maximum(s, least_neighbour(level))
        if torch.equal(flowed, level):
            return (level - s).flatten(1).amax(1)
        level = flowed


def least_neighbour(level: Tensor) -> Tensor:
    """The least of a pixel and its four neighbours, (B, H, W); there is nothing beyond the border."""
    upright, across = (-max_pool2d(-level, size, 1, pads) for size, pads in (((3, 1), (1, 0)), ((1, 3), (0, 1))))
    return torch.minimum(upright, across)


def slant(s: Tensor) -> Tensor:
    """Columns to the right per row upward, (B,); 0 without ink."""
    mass = s.flatten(1).sum(1).clamp_min(1e-6)
    r, c = (torch.arange(n, dtype=s.dtype, device=s.device) for n in s.shape[1:])
    rows, columns = s.sum(2), s.sum(1)
    r = r - ((rows @ r) / mass)[:, None]
    c = c - ((columns @ c) / mass)[:, None]
    covariance = torch.einsum("bhw,bh,bw->b", s, r, c)
    return -covariance / (rows * r.square()).sum(1).clamp_min(1e-6)


def thickness(s: Tensor) -> Tensor:
    """The width of the strokes as a share of the image's height, (B,); 0 without ink."""
    s = pad(s, (1, 1, 1, 1))
    down, right = s.diff(dim=1)[:, :, :-1], s.diff(dim=2)[:, :-1]
    edge = (down.square() + right.square()).sqrt().flatten(1).sum(1).clamp_min(1e-6)
    return 2 * s.flatten(1).sum(1) / edge / (s.shape[1] - 2)
