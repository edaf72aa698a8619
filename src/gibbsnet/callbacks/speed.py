"""How fast a training ran: train.json."""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ..files import replace
from .readings import is_due

MARKS = 256  # enough to find the middle of a training to within one percent


class Speed(pl.Callback):
    """Measures a training over all the processes that it was interrupted into.

    `images_per_second` is taken over the last half of the training and leaves out what happens inside `paused`
    (evaluation, figures, checkpoints), so that it does not depend on how often one looks; `seconds` and `cpu_seconds` leave
    out nothing.

    Arguments:
        run: the run folder.
        every: batches between two looks at the clock.
    """

    def __init__(self, run: Path, every: int = 50):
        self.path, self.every = Path(run) / "train.json", every
        self.seconds = self.cpu_seconds = self.training_seconds = self.peak = 0.0
        self.marks: list[tuple[int, float]] = []  # (images seen, training seconds), thinned out as it grows
        self.device = torch.device("cpu")
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self._resumed: float | None = None  # when training time last began to count; None while it does not

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clocks."""
        self.device = pl_module.device
        self._wait()
        self._started = self._resumed = time.perf_counter()
        self._cpu_started = time.process_time()
        self._mark(pl_module.images_seen)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Looks at the clock."""
        if is_due(trainer, self.every):
            self._mark(pl_module.images_seen)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes train.json."""
        self._wait()
        self._mark(pl_module.images_seen)
        facts = self._facts(trainer, pl_module)
        if trainer.is_global_zero:
            replace(self.path, lambda draft: draft.write_text(json.dumps(facts, indent=2) + "\n"))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is no training."""
        self._wait()
        self.training_seconds, self._resumed = self._training_seconds(), None
        try:
            yield
        finally:
            self._wait()
            self._resumed = time.perf_counter()

    def recent(self, images_seen: int) -> dict[str, float]:
        """Images per second since the last look at the clock; nothing where there were none."""
        images, seconds = self.marks[-1] if self.marks else (images_seen, 0.0)
        rate = _rate(images_seen - images, self._training_seconds() - seconds)
        return {"images_per_second": rate} if rate else {}

    def state_dict(self) -> dict[str, Any]:
        """What has been measured so far, as plain values."""
        return {
            "seconds": self._seconds(),
            "cpu_seconds": self._cpu_seconds(),
            "training_seconds": self._training_seconds(),
            "peak": self._peak(),
            "marks": [list(mark) for mark in self.marks],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.seconds, self.cpu_seconds = state_dict["seconds"], state_dict["cpu_seconds"]
        self.training_seconds, self.peak = state_dict["training_seconds"], state_dict["peak"]
        self.marks = [(images, seconds) for images, seconds in state_dict["marks"]]

    def _facts(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        cpu = torch.tensor(self._cpu_seconds(), device=self.device)
        return {
            "images_per_second": self._last_half(),
            "steps": trainer.global_step,
            "images_seen": int(module.images_seen),
            "seconds": self._seconds(),
            "cpu_seconds": float(trainer.strategy.reduce(cpu, reduce_op="sum")),
            "peak_memory_mib": self._peak(),
            "device": self.device.type,
            "ranks": trainer.world_size,
        }

    def _last_half(self) -> float | None:
        (first, _), (last, end) = self.marks[0], self.marks[-1]
        images, start = min(self.marks, key=lambda mark: abs(mark[0] - (first + last) / 2))
        return _rate(last - images, end - start)

    def _mark(self, images_seen: int) -> None:
        mark = (int(images_seen), self._training_seconds())
        if self.marks and self.marks[-1][0] == mark[0]:
            self.marks[-1] = mark
            return
        self.marks.append(mark)
        if len(self.marks) > MARKS:
            self.marks = self.marks[::2]  # their number is odd: the last one stays

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self._started

    def _cpu_seconds(self) -> float:
        return self.cpu_seconds + time.process_time() - self._cpu_started

    def _training_seconds(self) -> float:
        return self.training_seconds + (0.0 if self._resumed is None else time.perf_counter() - self._resumed)

    def _peak(self) -> float:
        if self.device.type == "cuda":
            return max(self.peak, torch.cuda.max_memory_allocated(self.device) / 2**20)
        return max(self.peak, peak_memory())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_memory() -> float:
    """MiB that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _rate(images: int, seconds: float) -> float | None:
    return images / seconds if images > 0 and seconds > 0 else None
