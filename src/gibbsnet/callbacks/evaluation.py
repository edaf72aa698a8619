"""When a model in training is measured and drawn; how is told by the functions handed in."""

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy
import pytorch_lightning as pl
import torch

from ..files import replace
from .history import History
from .readings import is_due


class Evaluation(pl.Callback):
    """Every `every` batches, and after the last one: numbers to the history, figures to <run>/figures, all to the tracker.

    All ranks measure, so that they may share the work; rank 0 draws and records. Its numbers are everybody's, as val/<metric>
    in the trainer's `callback_metrics`.

    Arguments:
        run: the run folder.
        history: where the row goes.
        measure: module -> {metric: value}.
        draw: module -> (name, figure) pairs.
        every: batches between two evaluations; 0 for none at all.
        paused: entered while evaluating.
    """

    def __init__(
        self,
        run: Path,
        history: History,
        measure: Callable[[pl.LightningModule], dict[str, float]] = lambda module: {},
        draw: Callable[[pl.LightningModule], Iterable[tuple[str, Any]]] = lambda module: (),
        every: int = 1000,
        paused: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.folder, self.history, self.measure, self.draw = Path(run) / "figures", history, measure, draw
        self.every, self.paused = every, paused

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Evaluates where it is due."""
        if is_due(trainer, self.every):
            with self.paused():
                self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with looking_only(module):
            values = {f"val/{name}": float(value) for name, value in self.measure(module).items()}
            figures = self._figures(module) if trainer.is_global_zero else []
        self.history.record(trainer, module, values, figures)
        values = trainer.strategy.broadcast(values)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})

    def _figures(self, module: pl.LightningModule) -> list[tuple[str, Path]]:
        """What could be written: a training outlives a figure that could not."""
        written = []
        for name, figure in self.draw(module):
            try:
                written.append((name, save_figure(figure, self.folder / f"{name}.png")))
            except OSError as error:
                print(f"{error}; the training goes on", file=sys.stderr, flush=True)
        return written


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a figure in one move and lets go of it; the file's path."""
    import matplotlib.pyplot as plt

    try:
        replace(path, lambda draft: figure.savefig(draft, format="png"))
    finally:
        plt.close(figure)
    return path


@contextmanager
def looking_only(module: torch.nn.Module) -> Iterator[None]:
    """No gradients, eval mode, and afterwards every submodule's mode and every global generator as before."""
    modes = {part: part.training for part in module.modules()}
    states = random.getstate(), numpy.random.get_state()
    cuda = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            yield module.eval()
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        for part, mode in modes.items():
            part.training = mode
