"""Stopping a training from outside so that its last checkpoint is whole."""

import signal
import threading
from typing import Any

import pytorch_lightning as pl
import torch

from .readings import is_complete

# Ctrl-C; a job's warning that its time is nearly up; the polite end by which systems and schedulers take a process away.
SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)


class Stop(pl.Callback):
    """Turns signals into an end of the training after the current batch, agreed upon by all ranks.

    Without it a signal acts in the middle of a batch, where nothing can be saved, or of a collective, where it deadlocks.
    It is only noted, so it may come again; but the second interrupt (Ctrl-C) acts at once.

    Arguments:
        signals: which ones; `caught` is the one that ended the training (the highest, if ranks got different ones), or None.
        every: batches between two agreements where there are several ranks.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = SIGNALS, every: int = 10):
        self.signals, self.every = signals, every
        self.caught: signal.Signals | None = None
        self._noted = 0
        self._interrupt: Any = signal.default_int_handler
        self._blocked: set[int] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens, also to what came before and was blocked until now.

        After Lightning has set its own handlers, which it takes away when the training is over, and in the main thread, the
        only one that may.
        """
        if threading.current_thread() is threading.main_thread():
            self._interrupt = signal.getsignal(signal.SIGINT)
            for number in self.signals:
                signal.signal(number, self._note)
            self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Ends the training if any rank was told to."""
        if trainer.world_size > 1 and trainer.global_step % self.every:
            return
        if told := self._agreed(trainer):
            self.caught = signal.Signals(told)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was blocked before is blocked again: a warning that comes too late must not kill what still is to be done."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked)

    def _agreed(self, trainer: pl.Trainer) -> int:
        if trainer.world_size == 1:  # never waits for the device
            return self._noted
        noted = torch.tensor(self._noted, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(noted, reduce_op="max"))

    def _note(self, number: int, _: Any) -> None:
        self._noted = max(self._noted, number)
        if number == signal.SIGINT:
            signal.signal(number, self._interrupt)


def interrupted(trainer: pl.Trainer) -> signal.Signals | None:
    """The signal that ended the training early; None where it came to its own end."""
    caught = [callback.caught for callback in trainer.callbacks if isinstance(callback, Stop)]
    return None if is_complete(trainer) else next((number for number in caught if number), None)
