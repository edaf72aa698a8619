r"""Randomness without state.

Every draw comes from a generator keyed by plain values such as (seed, step, purpose), so that the noise of a step is a pure
function of its key: a resumed run needs no generator state. Draws are made for the *global* batch, and each rank takes its
slice, so that one process and K processes see the same noise.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def seed_of(*key: int | str) -> int:
    """A 63-bit seed, a pure function of the key and of nothing else (SHA-256 of its parts)."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Noise:
    """A sequence of draws named by a key.

    Arguments:
        key: integers and strings, e.g. (seed, step, "chain").
        device: where the draws are made; CPU and CUDA generators give different numbers for one key.
        rank, ranks: this process's place among the processes that share the global batch.
        rows, batch: the draws are those of some rows of a local batch of this size alone, see `among`.
    """

    def __init__(self, *key: int | str, device: torch.device | str = "cpu", rank: int = 0, ranks: int = 1,
                 rows: slice = slice(None), batch: int = 0):  # fmt: skip
        self.key, self.device = key, torch.device(device)
        self.rank, self.ranks, self.rows, self.batch = rank, ranks, rows, batch
        self.generator = torch.Generator(self.device).manual_seed(seed_of(*key))
        self._host = self.generator if self.device.type == "cpu" else None

    def at(self, *key: int | str) -> "Noise":
        """The noise of a part, e.g. `noise.at("clamped", 3)`: independent of what was drawn here before."""
        return self._like(*self.key, *key, rows=self.rows, batch=self.batch)

    def among(self, rows: slice, batch: int) -> "Noise":
        """What this noise gives some rows of a local batch: a row's draws are those it has in the whole batch."""
        return self._like(*self.key, rows=rows, batch=batch)

    def _like(self, *key: int | str, **rows) -> "Noise":
        return Noise(*key, device=self.device, rank=self.rank, ranks=self.ranks, **rows)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws; `shape[0]` is the local batch, or the number of its rows."""
        return self._local(torch.randn, shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform draws in [0, 1); `shape[0]` as in `normal`."""
        return self._local(torch.rand, shape, dtype)

    def integer(self, low: int, high: int) -> int:
        """One integer in low..high inclusive, the same on every rank.  The host draws it: nobody waits for a device."""
        self._host = self._host or torch.Generator().manual_seed(seed_of(*self.key))
        return int(torch.randint(low, high + 1, (), generator=self._host))

    def _local(self, draw, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        batch, rest = self.batch or shape[0], shape[1:]
        everyone = draw(batch * self.ranks, *rest, generator=self.generator, device=self.device, dtype=dtype)
        return everyone[self.rank * batch : (self.rank + 1) * batch][self.rows]
