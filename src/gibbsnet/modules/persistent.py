"""Where the chains stand that never start again."""

from collections.abc import Callable

import torch
from torch import Tensor

from gibbsnet.chain import part
from gibbsnet.graph import State
from gibbsnet.noise import Noise


class Persistent:
    """Persistent chains in `pool` parts of a batch each, of which a training step goes on with one: step t with part t mod pool.

    Arguments:
        pool: the number of parts.
    """

    def __init__(self, pool: int = 1):
        self.pool = pool
        # The parts that have begun, with this rank's rows; those in `whole`, as a checkpoint holds them, with the rows of all.
        self.parts: dict[int, State] = {}
        self.whole: set[int] = set()

    def here(self, step: int, noise: Noise, size: int, device: torch.device) -> State:
        """This rank's rows of the step's part; nothing if it has not begun, or where it is of another size (a resumed run's
        batch): then it begins anew."""
        now = step % self.pool
        state, whole = {v: x.to(device) for v, x in self.parts.get(now, {}).items()}, now in self.whole
        if not state or len(state["x"]) != (size * noise.ranks if whole else size):
            return {}
        return part(state, slice(noise.rank * size, (noise.rank + 1) * size)) if whole else state

    def keep(self, step: int, state: State) -> None:
        """Where this rank's rows of the step's part stand now."""
        self.parts[step % self.pool] = state
        self.whole.discard(step % self.pool)

    def saved(self, gather: Callable[[Tensor], Tensor]) -> dict[int, State]:
        """The parts with all ranks' rows, for a checkpoint; `gather`: (B, *) of each rank -> (ranks, B, *), or (B, *) of one."""
        return {
            now: state if now in self.whole else {v: gather(x).flatten(0, -x.ndim) for v, x in state.items()}
            for now, state in self.parts.items()
        }

    def load(self, saved: dict[int, State] | State) -> None:
        """What a checkpoint holds; one from before there were parts holds one part's state."""
        self.parts = dict(saved) if all(isinstance(now, int) for now in saved) else {0: saved}
        self.whole = set(self.parts)
