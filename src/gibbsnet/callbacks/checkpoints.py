"""Checkpoints: best.ckpt, last.ckpt and the one before it."""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from ..files import named, replace, settle
from .readings import (
    NonFiniteError,
    is_complete,
    is_due,
    readings,
    require_finite_losses,
    require_finite_parameters,
)
from .tracking import summarise


class Checkpoints(pl.callbacks.Checkpoint):
    """Keeps <run>/checkpoints/last.ckpt and best.ckpt, each replaced in one move, and neither ever by a broken model.

    previous.ckpt is what last.ckpt was before: should a disk lose the one, the training goes on from the other.
    Both are saved between batches, where a resumed training goes on bitwise; Lightning runs this callback after all others.
    A training that ends before anything was measured leaves its last checkpoint as its best.

    Arguments:
        run: the run folder.
        every: batches between two saves of last.ckpt; the end of a training always saves.
        monitor: the metric whose lowest value is the best.
        paused: entered while saving.
    """

    def __init__(
        self,
        run: Path,
        every: int = 500,
        monitor: str = "val/distance",
        paused: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.folder, self.every, self.monitor, self.paused = Path(run) / "checkpoints", every, monitor, paused
        self.best, self.best_step = math.inf, 0
        self._between = False  # whether the state is that of a whole number of batches, and not yet saved

    def on_train_batch_start(self, *_: Any) -> None:
        """From here to the end of the batch nothing can be saved."""
        self._between = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Saves what is due."""
        better = self._improved(trainer)
        ending = trainer.should_stop or is_complete(trainer)
        last = ending or is_due(trainer, self.every)
        self._between = not last
        if better or last:
            with self.paused():
                self._save_all(trainer, pl_module, better, last)
        if ending and math.isinf(self.best) and trainer.is_global_zero:
            replace(self.folder / "best.ckpt", lambda draft: shutil.copyfile(self.folder / "last.ckpt", draft))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves last.ckpt if the training was stopped between two batches; in the middle of one there is nothing to save."""
        together = trainer.world_size == 1 or isinstance(exception, SIGTERMException)  # saving waits for all ranks
        if self._between and together and not isinstance(exception, NonFiniteError):
            self._between = False
            self._save_all(trainer, pl_module, better=False, last=True)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far and its step."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on comparing with the best value of the training that is resumed."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]

    def _improved(self, trainer: pl.Trainer) -> bool:
        # A value left over from an earlier evaluation never undercuts the best, so its age does not matter.
        value = float(trainer.callback_metrics.get(self.monitor, math.inf))
        if not value < self.best:
            return False
        self.best, self.best_step = value, trainer.global_step
        return True

    def _save_all(self, trainer: pl.Trainer, module: pl.LightningModule, better: bool, last: bool) -> None:
        require_finite_losses(trainer, readings(trainer, module), self.folder)
        require_finite_parameters(trainer, module, self.folder)
        if better:
            self._save(trainer, self.folder / "best.ckpt")
        if last:
            self._save(trainer, self.folder / "last.ckpt", before=self.folder / "previous.ckpt")
        if better and trainer.is_global_zero:
            measured = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            summarise(trainer, {f"best/{k.removeprefix('val/')}": v for k, v in measured.items()})
            summarise(trainer, {"best/step": self.best_step, "best/images_seen": int(module.images_seen)})

    def _save(self, trainer: pl.Trainer, path: Path, before: Path | None = None) -> None:
        """All ranks save, as sharding strategies need it; rank 0 then moves the file into place."""
        draft = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with named(path):
                trainer.save_checkpoint(draft, weights_only=False)
                if trainer.is_global_zero:
                    settle(draft, path, before)
        finally:
            if trainer.is_global_zero:
                draft.unlink(missing_ok=True)
        trainer.strategy.barrier("checkpoint in place")


def best_step(trainer: pl.Trainer) -> int:
    """The step whose weights best.ckpt has; the present one where nothing was measured."""
    kept = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))
    return trainer.global_step if math.isinf(kept.best) else kept.best_step
