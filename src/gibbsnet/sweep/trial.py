"""One trial: the ordinary training as a process of its own, watched through its history.jsonl."""

import difflib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..callbacks.history import read
from ..config import ConfigError
from .search import finite

POLL = 0.5  # seconds between two looks at a trial


def run(
    command: Sequence[str], folder: Path, metric: str, lags: Callable[[list[float]], bool], lock: int
) -> tuple[list[float], bool, str | None]:
    """Runs a trial to its end, or until it lags behind; then it is stopped between two batches, its checkpoint kept.

    Arguments:
        folder: the trial's run folder; what the trial says goes to train.log there.
        metric: whose values are watched.
        lags: told all values so far whenever it is asked whether to stop.
        lock: a file descriptor that the trial shall hold open as long as it lives.

    Returns:
        The metric's values, whether the trial was stopped, and why it failed, if it did.

    Raises:
        ConfigError: the trial does not log the metric.
        KeyboardInterrupt: this process, or the trial, was interrupted; the trial has ended and can be gone on with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = _start(command, folder, lock)
    stopped = False
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
            if not stopped and lags(_values(folder, metric)):
                stopped = True
                process.send_signal(signal.SIGINT)
    except BaseException:
        _end(process)
        raise
    values = _values(folder, metric)
    error = None if stopped else _failure(process.returncode, folder, metric, values)
    # A trial that was faster than the look at it is judged by the same values, whatever the clock.
    return values, stopped or (error is None and lags(values)), error


def _start(command: Sequence[str], folder: Path, lock: int) -> subprocess.Popen:
    """In a process group of its own: a terminal's Ctrl-C reaches the sweep alone, which passes it on once."""
    here = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    with (folder / "train.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=[lock],
            env=here,
        )


def _end(process: subprocess.Popen) -> None:
    """Interrupts the trial, which then saves its checkpoint; a second Ctrl-C does not wait for that."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()


def _values(folder: Path, metric: str) -> list[float]:
    rows = read(folder / "history.jsonl")
    _require_logged(metric, rows, folder)
    return [row[metric] for row in rows if finite(row.get(metric))]


def _require_logged(metric: str, rows: list[dict[str, Any]], folder: Path) -> None:
    """As soon as both training and evaluation have written a row, every name has been seen."""
    names = {name: None for row in rows for name in row}
    if metric in names or not {"train", "val"} <= {name.partition("/")[0] for name in names}:
        return
    close = difflib.get_close_matches(metric, list(names), 1, 0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
    raise ConfigError(f"no run logs {metric!r} ({folder}/history.jsonl): {hint}")


def _failure(code: int, folder: Path, metric: str, values: list[float]) -> str | None:
    if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
    if code:
        lines = (folder / "train.log").read_text(errors="replace").split("\n")
        return f"exit code {code}: {next((line for line in reversed(lines) if line.strip()), 'said nothing')}"
    return None if values else f"no finite value of {metric} in history.jsonl"
