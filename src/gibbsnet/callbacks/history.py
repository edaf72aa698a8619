"""The record of a run: history.jsonl, one JSON object per logged step."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from ..files import named, replace, sync
from .readings import is_due, readings, require_finite_losses
from .tracking import send


class History(pl.Callback):
    """Writes the diagnostics of every `every`-th batch, and whatever `record` is given, on rank 0.

    Rows hold nothing that depends on the clock, and a resumed training first cuts them back to the step it resumes from,
    so that interrupted training leaves the same file as uninterrupted training. A non-finite loss ends the training, after
    the row that shows it has been written.

    Arguments:
        run: the run folder.
        every: batches between two rows.
        extras: numbers for the tracker alone, such as speed.
    """

    def __init__(self, run: Path, every: int = 50, extras: Callable[[int], dict[str, float]] = lambda images: {}):
        self.path, self.every, self.extras = Path(run) / "history.jsonl", every, extras
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets what was written after the checkpoint that this training starts from, and tells the tracker the rest again.

        A tracker loses what it had not yet written when its process was killed; of what it did not lose this makes equal rows.
        """
        if trainer.is_global_zero:
            cut(self.path, trainer.global_step)
            for row in read(self.path):
                send(trainer, row)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Writes the batch's diagnostics, where they are due, and refuses to go on if they are not finite."""
        if not is_due(trainer, self.every):
            return
        values = readings(trainer, pl_module)
        self.record(trainer, pl_module, {f"train/{name}": value for name, value in values.items()})
        require_finite_losses(trainer, values, self.path.parent / "checkpoints")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint must not outlive the rows before it."""
        if trainer.is_global_zero and self.path.exists():
            sync(self.path)

    def record(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        values: dict[str, float],
        figures: Iterable[tuple[str, Path]] = (),
    ) -> None:
        """Adds one row to the file and, together with the figures, to the tracker."""
        if not trainer.is_global_zero:
            return
        row = {"step": trainer.global_step, "images_seen": int(module.images_seen), **values}
        with named(self.path), self.path.open("a") as file:
            file.write(_line(row))
        row |= self.extras(row["images_seen"])
        self.latest |= row
        send(trainer, row, figures)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a history file; what is no row, as a last line that was cut off by a crash, is left out."""
    return [row for row in map(_row, path.read_text().splitlines()) if row is not None] if path.exists() else []


def cut(path: Path, step: int) -> None:
    """Keeps the rows up to and including `step`."""
    lines = "".join(_line(row) for row in read(path) if row["step"] <= step)
    replace(path, lambda draft: draft.write_text(lines))


def _line(row: dict[str, Any]) -> str:
    # JSON has no word for NaN and infinity.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain, allow_nan=False) + "\n"


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
