"""Stopping a training from outside so that its last checkpoint is whole."""

import signal
import threading
from typing import Any

import pytorch_lightning as pl

from .readings import is_complete


class Stop(pl.Callback):
    """Turns signals into an end of the training after the current batch, agreed upon by all ranks.

    Without it an interrupt arrives in the middle of a batch, where nothing can be saved. The second signal acts at once.

    Arguments:
        signals: which ones; `caught` says which one ended the training, None if none did.
        every: batches between two agreements where there are several ranks.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = (signal.SIGINT,), every: int = 50):
        self.signals, self.every = signals, every
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens. After Lightning has set its own handlers, and in the main thread, the only one that may.

        Lightning puts back what was there before when the training is over.
        """
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) or signal.SIG_DFL for s in self.signals}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Ends the training if any rank was told to."""
        if trainer.world_size > 1 and trainer.global_step % self.every:
            return
        if trainer.strategy.reduce_boolean_decision(self.caught is not None, all=False):
            self.caught = self.caught or self.signals[0]
            trainer.should_stop = True

    def _note(self, number: int, _: Any) -> None:
        self.caught = signal.Signals(number)
        signal.signal(number, self._before.pop(self.caught))


def interrupted(trainer: pl.Trainer) -> signal.Signals | None:
    """The signal that ended the training early; None where it came to its own end."""
    caught = [callback.caught for callback in trainer.callbacks if isinstance(callback, Stop)]
    return None if is_complete(trainer) else next((number for number in caught if number), None)
