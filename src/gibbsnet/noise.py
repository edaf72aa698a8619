r"""Randomness without state.

Every draw comes from a generator keyed by plain values such as (seed, step, purpose), so that the noise of a step is a pure
function of its key: a resumed run needs no generator state. Draws are made for the *global* batch, and each rank takes its
slice, so that one process and K processes see the same noise.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

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

    @cached_property
    def generator(self) -> torch.Generator:
        """Where this noise stands in its draws."""
        return torch.Generator(self.device).manual_seed(seed_of(*self.key))

    @cached_property
    def _host(self) -> torch.Generator:
        """The host's own generator, so that nobody waits for a device."""
        return self.generator if self.device.type == "cpu" else torch.Generator().manual_seed(seed_of(*self.key))

    def at(self, *key: int | str) -> "Noise":
        """The noise of a part, e.g. `noise.at("clamped", 3)`: independent of what was drawn here before."""
        return self.under(key, self.rows, self.batch)

    def among(self, rows: slice, batch: int) -> "Noise":
        """What this noise gives some rows of a local batch: a row's draws are those it has in the whole batch."""
        return self.under((), rows, batch)

    def under(self, key: Sequence[int | str], rows: slice, batch: int) -> "Noise":
        """The noise of a key that goes on from this one's, for these rows, see `at` and `among`."""
        return Noise(*self.key, *key, device=self.device, rank=self.rank, ranks=self.ranks, rows=rows, batch=batch)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws; `shape[0]` is the local batch, or the number of its rows."""
        return self.draw(torch.randn, shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform draws in [0, 1); `shape[0]` as in `normal`."""
        return self.draw(torch.rand, shape, dtype)

    def integer(self, low: int, high: int) -> int:
        """One integer in low..high inclusive, the same on every rank."""
        return int(torch.randint(low, high + 1, (), generator=self._host))

    def choice(self, n: int) -> int:
        """One of 0..n-1, the same on every rank.  Of 24 bits, so that what is drawn does not hang on how many there are."""
        return Noise.integer(self, 0, 2**24 - 1) * n >> 24

    def draw(self, sampler: Callable, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Draws by `torch.randn` or `torch.rand`: those of the global batch, of which this rank takes its rows."""
        batch, rest = self.batch or shape[0], shape[1:]
        everyone = sampler(batch * self.ranks, *rest, generator=self.generator, device=self.device, dtype=dtype)
        return everyone[self.rank * batch : (self.rank + 1) * batch][self.rows]
