"""sweep: runs a W&B sweep file on this machine, without a server."""

import json
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import plots
from ..config import ConfigError
from ..files import alone, home
from .file import Plan, Range, check, command, read
from .search import GOALS, Search
from .trial import run


def sweep(arguments: Sequence[str]) -> Path:
    """Runs trials until there are `trials` of them; returns the sweep's folder.

    The folder holds study.log (the search), sweep.json (every trial), parallel.png, and a run folder for each trial. The same
    command goes on where an interrupted one stopped: a trial that was cut off is resumed. A trial that fails is recorded; a
    sweep all of whose trials do has failed.

    Arguments:
        arguments: the file, trials=N (in all; by default the file's run_cap, or the whole grid), out=FOLDER (by default
            runs/sweeps/<the file's name>), and settings for every trial.

    Raises:
        ConfigError: bad arguments, a bad file, or another sweep in the folder; no trial has a value.
        BlockingIOError: another process is at work there.
        KeyboardInterrupt: it was interrupted.
    """
    path, wanted, out, overrides = _arguments(arguments)
    plan = read(path)
    check(plan, overrides)
    folder = out or Path("runs", "sweeps", path.stem)
    limit = _limit(plan, wanted)
    # A trial that outlives a killed sweep keeps the claim.
    busy = f"a sweep, or a trial that a killed sweep left behind, is at work in {folder}: wait until it has ended"
    with alone(folder / "lock", busy) as lock, _terminable():
        search = Search(plan, folder, overrides)
        try:
            while search.finished < limit:
                _one(search, plan, folder, overrides, limit, lock)
                _write(search, plan, folder, overrides)
        except KeyboardInterrupt:
            print(
                f"{folder}: interrupted after {search.finished} of {limit} trials; the same command goes on from there"
            )
            raise
        finally:
            _write(search, plan, folder, overrides)
        print(_outcome(search, plan, folder))
    return folder


def _arguments(arguments: Sequence[str]) -> tuple[Path, int | None, Path | None, list[str]]:
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) != 1:
        raise ConfigError(f"expected one sweep file, for example sweeps/steps.yaml, not {' '.join(files) or 'none'}")
    own = dict(a.split("=", 1) for a in arguments if a.startswith(("trials=", "out=")))
    overrides = [a for a in arguments if "=" in a and a.partition("=")[0] not in own]
    trials = own.get("trials")
    if trials is not None and not (trials.isdecimal() and int(trials) > 0):
        raise ConfigError(f"trials={trials}: expected a whole number of at least 1")
    out = home(own.get("out"))
    if own.get("out") == "" or (out and out.is_file()):
        raise ConfigError(f"out={own['out']}: expected a folder")
    return Path(files[0]), trials and int(trials), out, overrides


def _limit(plan: Plan, wanted: int | None) -> int:
    """How many trials there are to be."""
    size = len(plan.points()) if plan.method == "grid" else None
    limit = wanted or plan.cap or size
    if limit is None:
        raise ConfigError(f"how many trials? Say trials=N, or run_cap: N in {plan.path}")
    if size is not None and wanted and wanted > size:
        print(f"{plan.path}: the grid is exhausted after {size} trials, trials={wanted} makes no more")
    return min(limit, size or limit)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does, with its trial's checkpoint saved.

    A shell's background jobs ignore SIGINT; handed on to a trial, that would make it deaf to the sweep until it trains.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler)}
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN no child inherits it
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _one(search: Search, plan: Plan, folder: Path, overrides: list[str], limit: int, lock: int) -> None:
    """The next trial from its beginning, or from where it was cut off, to its end."""
    trial, params = search.ask()
    place = folder / str(trial.number)
    print(
        f"trial {trial.number} ({search.finished + 1}/{limit}): {' '.join(f'{k}={v}' for k, v in params.items())}",
        flush=True,
    )
    words = command(plan, params, overrides, place)
    result = run(words, place, plan.metric, lambda values: search.report(trial, values), lock)
    record = search.tell(trial, *result)
    told = record["error"] or f"{plan.metric} {record['value']:.4g}, {record['reports']} evaluations"
    print(f"  {record['state']}: {told}", flush=True)


def _write(search: Search, plan: Plan, folder: Path, overrides: list[str]) -> None:
    """sweep.json and parallel.png, as the trials stand now."""
    records = search.records()
    best = _best(records, plan)
    content = {
        "file": plan.path.as_posix(),
        "command": shlex.join(["python", "-m", "gibbsnet", "sweep", plan.path.as_posix(), *overrides]),
        "method": plan.method,
        "metric": plan.metric,
        "goal": plan.goal,
        "parameters": list(plan.space),
        "best": best and best["number"],
        "trials": records,
    }
    plots.write(folder / "sweep.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    shown = [record for record in records if record["value"] is not None]
    if shown:
        ranges = {key: space.log for key, space in plan.space.items() if isinstance(space, Range)}
        plots.save(plots.parallel(shown, list(plan.space), plan.metric, plan.goal, ranges), folder / "parallel.png")


def _best(records: list[dict[str, Any]], plan: Plan) -> dict[str, Any] | None:
    known = [record for record in records if record["value"] is not None]
    return GOALS[plan.goal](known, key=lambda record: record["value"]) if known else None


def _outcome(search: Search, plan: Plan, folder: Path) -> str:
    """What came of the sweep, in a line.

    Raises:
        ConfigError: no trial has a value.
    """
    records = search.records()
    failed, best = [record for record in records if record["state"] == "failed"], _best(records, plan)
    if best is None:
        raise ConfigError(
            f"{folder}: no trial of {len(failed)} has a value; the last one's error: {failed[-1]['error']}; see train.log in "
            "their folders"
        )
    params = " ".join(f"{key}={value}" for key, value in best["params"].items())
    some = f" ({len(failed)} failed)" if failed else ""
    found = f"best {plan.metric} {best['value']:.4g} in trial {best['number']}: {params}"
    return f"{folder}: {search.finished} trials{some}, {found}"
