"""Work in numbered parts, done by the processes of a training together."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch.distributed

Part, Result = TypeVar("Part"), TypeVar("Result")


def spread(parts: Iterable[Part], work: Callable[[Part], Result]) -> list[Result]:
    """work(part) of every part, in order, on every rank: part number k is done by rank k modulo their number.

    A part's result must depend on the part alone, and hold CPU tensors and plain values; then it is the same, bit for bit,
    on however many ranks. Every rank has to call this, with the same parts.
    """
    parts = list(parts)
    rank, ranks = _place()
    mine = [work(part) for part in parts[rank::ranks]]
    if ranks == 1:
        return mine
    everyone: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(everyone, mine)
    return [everyone[k % ranks][k // ranks] for k in range(len(parts))]


def _place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
