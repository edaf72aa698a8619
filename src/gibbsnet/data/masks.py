"""Which entries of an example are missing: halves, a band of rows, or single entries at random."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gibbsnet.data.sets import DataError
from gibbsnet.noise import Noise

HALVES = ("left", "right", "top", "bottom")
HOLES = (*HALVES, "row", "random")


def hole(
    kind: str, shape: Sequence[int], n: int, noise: Noise, share: float = 0.5, channels: Sequence[int] | None = None
) -> Tensor:
    """True where an entry is missing, bool (n, *shape).

    Arguments:
        kind: a half; "row", a band of an eighth of the rows across the middle; "random", entries independently, anew for
            each example. A vector has a left and a right half, and random entries.
        shape: of one example.
        noise: decides the random entries.
        share: of the random entries that are missing, in (0, 1).
        channels: those that have the hole; None for all.  The random entries are those of all channels alike.

    Raises:
        DataError: an unknown kind, one that the shape does not have, a part or a share that leaves all or nothing, unknown
            channels.
    """
    shape = tuple(shape)
    known = HOLES if len(shape) == 3 else ("left", "right", "random")
    if kind not in known:
        raise DataError(f"hole {kind!r}: for values of shape {shape} expected one of {', '.join(known)}")
    if not 0 < share < 1:
        raise DataError(f"share {share}: of the entries of a hole more than 0 and less than 1 are missing")
    plane = shape[-2:] if len(shape) == 3 else shape
    missing = noise.uniform((n, *plane)) < share if kind == "random" else _area(kind, plane)
    if len(shape) == 3:
        missing = missing.unsqueeze(-3) & _of(channels, shape[0]).view(-1, 1, 1)
    elif channels is not None:
        raise DataError(f"channels {list(channels)}: values of shape {shape} have none")
    missing = missing.expand(n, *shape)
    if kind != "random" and n and not 0 < missing[:1].sum() < missing[:1].numel():
        raise DataError(f"hole {kind!r}: of values of shape {shape} it leaves all or nothing")
    return missing.clone()


def _area(kind: str, plane: tuple[int, ...]) -> Tensor:
    """The same part of every example: of (H, W) or (n,)."""
    missing = torch.zeros(plane, dtype=torch.bool)
    height, width = plane[0], plane[-1]
    band = math.ceil(height / 8)
    area = {
        "left": (..., slice(width // 2)),
        "right": (..., slice(width // 2, None)),
        "top": slice(height // 2),
        "bottom": slice(height // 2, None),
        "row": slice((height - band) // 2, (height - band) // 2 + band),
    }[kind]
    missing[area] = True
    return missing


def _of(channels: Sequence[int] | None, count: int) -> Tensor:
    """True for the channels that are named, (count,)."""
    if channels is None:
        return torch.ones(count, dtype=torch.bool)
    if not channels or not all(type(c) is int and 0 <= c < count for c in channels):
        raise DataError(f"channels {list(channels)}: expected some of 0..{count - 1}")
    return torch.zeros(count, dtype=torch.bool).index_fill(0, torch.tensor(channels), True)
