"""Which entries of an example are missing: halves, a band of rows, single entries at random, or what a file says."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gibbsnet.data.files import oneline
from gibbsnet.data.own import SUFFIXES, opened
from gibbsnet.data.sets import DataError
from gibbsnet.noise import Noise

HALVES = ("left", "right", "top", "bottom")
HOLES = (*HALVES, "row", "random")
MASKS = SUFFIXES | {".npy"}


def hole(
    kind: str, shape: Sequence[int], n: int, noise: Noise, share: float = 0.5, channels: Sequence[int] | None = None
) -> Tensor:
    """True where an entry is missing, bool (n, *shape).

    Arguments:
        kind: a half; "row", a band of an eighth of the rows across the middle; "random", entries independently, anew for
            each example. A vector has a left and a right half, and random entries. Or a file: an image of (H, W) pixels,
            missing where it is lighter than mid-gray, or .npy, booleans of that shape or of `shape`, True where missing.
        shape: of one example.
        noise: decides the random entries.
        share: of the random entries that are missing, in (0, 1).
        channels: those that have the hole; None for all.  The random entries are those of all channels alike.

    Raises:
        DataError: an unknown kind, one that the shape does not have, a file that cannot be used, a part or a share that leaves
            all or nothing, unknown channels.
    """
    shape = tuple(shape)
    drawn = isinstance(kind, str) and Path(kind).suffix.lower() in MASKS
    known = HOLES if len(shape) == 3 else ("left", "right", "random")
    if kind not in known and not drawn:
        raise DataError(f"hole {kind!r}: for values of shape {shape} expected one of {', '.join(known)}, or a file")
    if not 0 < share < 1:
        raise DataError(f"share {share}: of the entries of a hole more than 0 and less than 1 are missing")
    plane = shape[-2:] if len(shape) == 3 else shape
    if drawn:
        missing = _read(Path(kind), shape, plane)
    else:
        missing = noise.uniform((n, *plane)) < share if kind == "random" else _area(kind, plane)
    if len(shape) == 3:
        # A file may say it of every channel by itself.
        missing = missing if drawn and missing.ndim == 3 else missing.unsqueeze(-3)
        missing = missing & _of(channels, shape[0]).view(-1, 1, 1)
    elif channels is not None:
        raise DataError(f"channels {list(channels)}: values of shape {shape} have none")
    missing = missing.expand(n, *shape)
    some = missing if kind == "random" else missing[:1]  # one example of few entries may be spared
    if n and not 0 < some.sum() < some.numel():
        of = f"with share {share} of {n} examples" if kind == "random" else "of values"
        raise DataError(f"hole {kind!r}: {of} of shape {shape} it leaves all or nothing")
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


def _read(path: Path, shape: tuple[int, ...], plane: tuple[int, ...]) -> Tensor:
    """What a file says is missing, of the plane or of the whole shape."""
    array = path.suffix.lower() == ".npy"
    try:
        missing = _array(path) if array else _light(path, plane)
    except FileNotFoundError as error:
        raise DataError(f"hole {str(path)!r}: there is no such file") from error
    except DataError:
        raise
    except Exception as error:  # a damaged file may fail in any way
        raise DataError(f"hole {str(path)!r} cannot be read as a mask ({oneline(error)})") from error
    if missing.shape not in (plane, shape) or missing.dtype != bool:
        sizes = " or ".join(str(size) for size in dict.fromkeys((plane, shape)))
        found = f"{missing.dtype} of shape {missing.shape}" if array else f"an image of {missing.shape}"
        wanted = f"an image of {plane} pixels, or .npy" if len(plane) == 2 else ".npy"
        raise DataError(f"hole {str(path)!r}: expected {wanted} of booleans of shape {sizes}, got {found}")
    return torch.from_numpy(missing)


def _array(path: Path) -> np.ndarray:
    missing = np.load(path, allow_pickle=False)
    if not isinstance(missing, np.ndarray):
        raise ValueError("an archive, no array")
    return missing


def _light(path: Path, plane: tuple[int, ...]) -> np.ndarray:
    """Where an image is lighter than mid-gray. One of another size is not decoded.

    What is transparent has no lightness that is seen: an editor may have left any there.
    """
    height_width = opened(path.resolve(strict=True)).size[::-1]
    if height_width != plane:
        return np.empty(height_width, bool)
    if opened(path, convert="RGBA").getchannel("A").getextrema()[0] < 255:
        raise DataError(
            f"hole {str(path)!r} is transparent in places: paint it white where entries are missing, else black"
        )
    return np.asarray(opened(path, convert="L")) > 127


def _of(channels: Sequence[int] | None, count: int) -> Tensor:
    """True for the channels that are named, (count,)."""
    if channels is None:
        return torch.ones(count, dtype=torch.bool)
    if not channels or not all(type(c) is int and 0 <= c < count for c in channels):
        raise DataError(f"channels {list(channels)}: expected some of 0..{count - 1}")
    return torch.zeros(count, dtype=torch.bool).index_fill(0, torch.tensor(channels), True)
