"""What the processes of one training have to agree upon, and how they notice that one of them is gone."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

# What gloo, NCCL and the store that ranks meet at say when a peer is gone
LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "remote process exited", "socket closed",
        "timed out", "read error", "write error")  # fmt: skip


class RankError(RuntimeError):
    """The processes of a training do not fit together, or one of them is gone."""


class Begin(pl.Callback):
    """Calls `begin` on rank 0 once every rank has looked at the run's folder, and before any of them reads it again.

    Ranks that decide by what the folder holds must all see it before the first of them changes it. Where rank 0 refuses, the
    others end with it, and leave it to rank 0 to say why.
    """

    def __init__(self, begin: Callable[[pl.Trainer], None]):
        self.begin = begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning calls it when the ranks have met, each having looked, and before it reads the checkpoint."""
        refused = self._refused(trainer) if trainer.is_global_zero else None
        if trainer.strategy.broadcast(refused is not None):
            raise refused or SystemExit(1)

    def _refused(self, trainer: pl.Trainer) -> Exception | None:
        try:
            self.begin(trainer)
        except Exception as error:
            return error
        return None


class Ranks(pl.Callback):
    """Refuses ranks with unequal numbers of batches, where one would wait for ever, and ends a rank whose parent is gone.

    torchrun, srun and Lightning's launcher watch their children; nobody watches them. A rank that waits for a peer on a GPU
    would wait for the collective's timeout, minutes, and print nothing.
    """

    def __init__(self, every: float = 1.0):
        self.every = every  # seconds between two looks at the parent
        self._over = threading.Event()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the numbers of batches, once, and begins to watch."""
        batches = torch.tensor(float(trainer.num_training_batches), dtype=torch.float64, device=pl_module.device)
        least, most = (float(trainer.strategy.reduce(batches.clone(), reduce_op=op)) for op in ("min", "max"))
        if least != most:
            raise RankError(f"the ranks have between {least:g} and {most:g} batches: give every rank as many")
        if trainer.local_rank > 0:
            self._over.clear()
            threading.Thread(target=self._watch, args=(trainer.global_rank, os.getppid()), daemon=True).start()

    def on_exception(self, *_: Any) -> None:
        """Leaves the end to the exception."""
        self._over.set()

    def teardown(self, *_: Any, **__: Any) -> None:
        """Watches no longer: the parent may end before this rank."""
        self._over.set()

    def _watch(self, rank: int, parent: int) -> None:
        while not self._over.wait(self.every):
            if os.getppid() != parent:
                print(f"rank {rank}: the process that started this one is gone; stopping", file=sys.stderr, flush=True)
                os._exit(1)


def lost(error: BaseException, trainer: pl.Trainer) -> RankError | None:
    """The error in words for the user, if it is what is left of another rank's end; else None."""
    reason = str(error).splitlines()[0] if str(error) else ""
    if trainer.world_size == 1 or not any(word in reason.lower() for word in LOST):
        return None
    return RankError(
        f"rank {trainer.global_rank} of {trainer.world_size} stopped at step {trainer.global_step}, because another rank "
        f"ended or does not answer ({reason}); the same command goes on from the last checkpoint"
    )
