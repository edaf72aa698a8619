"""Plain numbers out of a running training: its diagnostics, its length, whether they are finite."""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


class NonFiniteError(RuntimeError):
    """A loss, a penalty or a parameter is NaN or infinite: no later step can be any good."""


def readings(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
    """The last batch's diagnostics, averaged over the ranks; waits for the device once. Every rank has to call it."""
    if not module.diagnostics:
        return {}
    values = torch.stack([torch.as_tensor(v).detach().float().to(module.device) for v in module.diagnostics.values()])
    return dict(zip(module.diagnostics, trainer.strategy.reduce(values, reduce_op="mean").tolist(), strict=True))


def total_steps(trainer: pl.Trainer) -> float:
    """The number of batches this training is to have; infinite where nothing bounds it."""
    limit = trainer.max_steps if trainer.max_steps >= 0 else math.inf
    return min(limit, trainer.num_training_batches)


def is_complete(trainer: pl.Trainer) -> bool:
    """Whether the last step of the whole training, not just of this process, has been taken."""
    return trainer.global_step >= total_steps(trainer)


def is_due(trainer: pl.Trainer, every: int) -> bool:
    """Whether what happens every `every` batches, and after the last one, happens now. Zero means never."""
    return every > 0 and (trainer.global_step % every == 0 or is_complete(trainer))


def require_finite_losses(trainer: pl.Trainer, values: dict[str, float], folder: Path) -> None:
    """Raises `NonFiniteError` naming the step, the first bad loss or penalty, and the checkpoint to go back to."""
    for name, value in values.items():
        if name.startswith(("loss", "penalty")) and not math.isfinite(value):
            raise NonFiniteError(_complaint(trainer, f"{name} = {value}", folder))


def require_finite_parameters(trainer: pl.Trainer, module: pl.LightningModule, folder: Path) -> None:
    """The same for the parameters: a finite loss can still have an infinite gradient."""
    parameters = list(module.named_parameters())
    if not parameters or torch.stack([p.detach().isfinite().all() for _, p in parameters]).all():
        return
    name = next(name for name, p in parameters if not p.detach().isfinite().all())
    raise NonFiniteError(_complaint(trainer, f"parameter {name} is not finite", folder))


class Finite(pl.Callback):
    """Looks at every batch whether it left the losses and the parameters finite, which waits for the device each time."""

    def __init__(self, run: Path):
        self.folder = Path(run) / "checkpoints"

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Ends the training where they are not."""
        require_finite_losses(trainer, readings(trainer, pl_module), self.folder)
        require_finite_parameters(trainer, pl_module, self.folder)


def _complaint(trainer: pl.Trainer, term: str, folder: Path) -> str:
    files = [path for path in (folder / "last.ckpt", folder / "best.ckpt") if path.exists()]
    good = max(files, key=lambda path: path.stat().st_mtime, default="none yet")
    return f"training stopped at step {trainer.global_step}: {term}; last good checkpoint: {good}"
