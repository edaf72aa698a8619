"""What one sees while a training runs."""

import math
import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from .history import History
from .readings import is_due, total_steps


class Progress(ProgressBar):
    """A bar on a terminal, a line now and then elsewhere. It shows the history's latest row and never waits for the device.

    Arguments:
        history: whose latest row is shown.
        shown: which of its entries.
        every: batches between two lines where there is no terminal; None for twenty lines in all.
    """

    def __init__(
        self,
        history: History,
        shown: tuple[str, ...] = ("train/loss_critic", "train/loss_graph", "val/distance"),
        every: int | None = None,
    ):
        super().__init__()
        self.history, self.shown, self.every = history, shown, every
        self._enabled = True
        self._bar: tqdm | None = None

    def disable(self) -> None:
        """Shows nothing; Lightning calls it on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Shows again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar where there is a terminal."""
        if self._enabled and sys.stdout.isatty():
            self._bar = tqdm(
                total=total_steps(trainer),
                initial=trainer.global_step,
                unit="step",
                file=sys.stdout,
                dynamic_ncols=True,
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Moves the bar, or prints a line where one is due."""
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)
            if is_due(trainer, self.history.every):
                self._bar.set_postfix_str(self._numbers(), refresh=False)
        elif self._enabled and is_due(trainer, self.every or self._twentieth(trainer)):
            print(f"step {trainer.global_step}/{total_steps(trainer):g}  {self._numbers()}", flush=True)

    def on_train_end(self, *_: Any) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Closes the bar, so that the error stands on a line of its own."""
        self._close()

    def _twentieth(self, trainer: pl.Trainer) -> int:
        total = total_steps(trainer)
        return max(1, int(total) // 20) if math.isfinite(total) else 500

    def _numbers(self) -> str:
        names = ("images_per_second", *self.shown)
        known = {name: self.history.latest.get(name) for name in names}
        return "  ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in known.items() if value is not None)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
