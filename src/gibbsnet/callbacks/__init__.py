"""When evaluation and figures happen, what is recorded of a training, and where it is tracked.

What is measured and drawn comes in as functions; nothing here knows any mathematics.
"""

import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from .checkpoints import Checkpoints, best_step
from .evaluation import Evaluation, looking_only, save_figure
from .history import History
from .progress import Progress
from .ranks import Begin, RankError, Ranks, lost
from .readings import Finite, NonFiniteError
from .speed import Speed
from .stopping import SIGNALS, Stop, interrupted
from .tracking import Tracking, TrackingError, log_metrics, resolve, tracker

__all__ = [
    "Begin",
    "Checkpoints",
    "Evaluation",
    "History",
    "NonFiniteError",
    "Progress",
    "RankError",
    "Ranks",
    "Speed",
    "Stop",
    "Tracking",
    "TrackingError",
    "best_step",
    "callbacks",
    "interrupted",
    "log_metrics",
    "looking_only",
    "lost",
    "resolve",
    "save_figure",
    "tracker",
]


def callbacks(
    run: Path,
    *,
    measure: Callable[[pl.LightningModule], dict[str, float]] = lambda module: {},
    draw: Callable[[pl.LightningModule], Iterable[tuple[str, Any]]] = lambda module: (),
    log_every: int = 50,
    evaluate_every: int = 1000,
    save_every: int = 500,
    monitor: str = "val/distance",
    progress: bool = True,
    print_every: int | None = None,
    signals: tuple[signal.Signals, ...] = SIGNALS,
    agree_every: int = 10,
    check_every_batch: bool = False,
) -> list[pl.Callback]:
    """All callbacks of a training in the order in which they have to run. The intervals are in batches.

    Arguments:
        run: the run folder.
        measure, draw: see `Evaluation`.
        log_every: between rows of the history.
        evaluate_every: between evaluations; 0 for none.
        save_every: between saves of last.ckpt.
        monitor: the metric whose lowest value makes best.ckpt.
        progress: whether to show progress; without it the Trainer wants enable_progress_bar=False.
        print_every: between lines of progress where there is no terminal; None for twenty lines in all.
        signals: which signals end the training after the current batch.
        agree_every: between two agreements of several ranks on whether a signal came.
        check_every_batch: whether what is not finite ends the training at once, and not just when a row or a checkpoint is due.
    """
    speed = Speed(run, log_every)
    history = History(run, log_every, speed.recent)
    evaluation = Evaluation(run, history, measure, draw, evaluate_every, speed.paused)
    shown = [Progress(history, every=print_every)] if progress else []
    checkpoints = Checkpoints(run, save_every, monitor, speed.paused)
    # Reading the diagnostics waits for the device, and only then is the clock worth a look: History before Speed.
    checks = [Finite(run)] if check_every_batch else []
    return [
        history,
        *checks,
        speed,
        evaluation,
        Stop(signals, agree_every),
        Ranks(),
        *shown,
        Tracking(run),
        checkpoints,
    ]
