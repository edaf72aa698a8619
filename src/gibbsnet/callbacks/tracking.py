"""Weights & Biases: the only file that knows it, and nothing of it is imported before a run is tracked.

Every curve has images_seen for its x-axis: W&B's own step counts log calls and starts anew with each process.
"""

import importlib.util
import json
import netrc
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import urlparse

import pytorch_lightning as pl
from pytorch_lightning.loggers.wandb import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from ..files import replace

PATIENCE = 300  # seconds that the end of a run may wait for the server
_silent: set[str] = set()  # runs whose tracker could not be told something

MODES = ("auto", "online", "offline", "disabled")
ALIASES = ("dryrun", "run", "shared")  # what W&B's own variable may say besides
KEPT = "wandb_id.txt"


class TrackingError(RuntimeError):
    """The tracking that was asked for cannot be had."""


class Tracking(pl.Callback):
    """Hands the checkpoints to the tracker at the end of a training, and closes the tracker's run however it ends."""

    def __init__(self, run: Path):
        self.run = Path(run)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs best.ckpt and last.ckpt as one artifact."""
        files = [self.run / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        for tracked in _runs(trainer):
            _tell(tracked, lambda: log_checkpoints(tracked, self.run, [file for file in files if file.exists()]))  # noqa: B023

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the run as failed."""
        for tracked in _runs(trainer):
            _tell(tracked, lambda: tracked.finish(exit_code=1))  # noqa: B023

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Closes the run."""
        for tracked in _runs(trainer) if stage == "fit" else []:
            _tell(tracked, tracked.finish)


def tracker(
    run: Path,
    config: Mapping[str, Any] | None = None,
    mode: str = "auto",
    project: str = "gibbsnet",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Iterable[str] = (),
    job_type: str = "train",
    anew: bool = False,
) -> WandbLogger | None:
    """The logger for a Trainer; None where the run is not tracked. Says in one line where the run is recorded.

    Arguments:
        run: the run folder; offline files lie in <run>/wandb, and <run>/wandb_id.txt lets a resumed run be the same run.
        config: what the run was configured with, plain values.
        mode: online, offline, disabled, or auto: online where one is logged in and the server answers, else offline.
        project, entity, name, group, tags, job_type: how W&B files the run.
        anew: whether the folder's earlier W&B run is to be left as it is, and another one begun.

    Raises:
        TrackingError: online without a key or an answer, online or offline without wandb, or what W&B refuses; the folder is then
            as it was, but for what W&B itself writes below <run>/wandb. Nothing is ever prompted for.
    """
    if rank_zero_only.rank != 0:  # Lightning wants a logger on every rank; only the first has a run
        return None if resolve(mode)[0] == "disabled" else WandbLogger(project=project, save_dir=run)
    filed = dict(project=project, entity=entity, name=name, group=group, tags=list(tags), job_type=job_type)
    opened = _begin(Path(run), mode, anew, config=config, **filed)
    return opened and WandbLogger(experiment=opened, project=project, save_dir=run)


def log_metrics(
    run: Path,
    metrics: Mapping[str, Any],
    figures: Iterable[tuple[str, Path]] = (),
    mode: str = "auto",
    project: str = "gibbsnet",
    entity: str | None = None,
) -> None:
    """Adds final scores to the run that trained the model: a summary, a table, and figures, under metrics.json's names.

    Arguments:
        run: the run folder, whose W&B run is gone on with.
        metrics: nested names -> numbers; nested names are joined by '/'.
        figures: (name, png file) pairs.
        mode, project, entity: see `tracker`.
    """
    if rank_zero_only.rank != 0:
        return
    opened = _begin(Path(run), mode, anew=False, project=project, entity=entity, job_type="evaluate")
    if opened is None:
        return
    import wandb

    flat = flatten(metrics)

    def act() -> None:
        table = wandb.Table(columns=["metric", "value"], data=[[name, float(value)] for name, value in flat.items()])
        opened.log(_images_seen(run) | flat | {"metrics": table} | _images(figures))
        opened.summary.update(flat)
        opened.finish()

    with _staging(run):
        _tell(opened, act, "metrics.json holds them")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Real]:
    """{"a": {"b": 1}} -> {"a/b": 1}; what is no number is left out."""
    flat: dict[str, Real] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, Real):
            flat[f"{prefix}{name}"] = value
    return flat


def send(trainer: pl.Trainer, row: Mapping[str, float], figures: Iterable[tuple[str, Path]] = ()) -> None:
    """One row with its figures in one log call: figures follow the x-axis only of the call that they are in."""
    for tracked in _runs(trainer):
        _tell(tracked, lambda: tracked.log(dict(row) | _images(figures)))  # noqa: B023


def summarise(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Sets entries of the run's summary."""
    for tracked in _runs(trainer):
        _tell(tracked, lambda: tracked.summary.update(dict(values)))  # noqa: B023


def _tell(
    tracked: Any, act: Callable[[], Any], kept: str = "the training goes on, history.jsonl is its record"
) -> None:
    """Tells the tracker something. If it cannot be told, that is said once, and what is kept here.

    W&B itself waits, out of the way, for a server that does not answer; here end its own process's death and a full disk.
    """
    try:
        act()
    except Exception as error:  # whatever a tracker in trouble raises
        if tracked.id not in _silent:
            _silent.add(tracked.id)
            _say(f"W&B: {' '.join(str(error).split()) or type(error).__name__}; {kept}")


def log_checkpoints(tracked: Any, run: Path, files: Iterable[Path]) -> None:
    """One artifact of type "model" with the files."""
    import wandb

    with _staging(run):
        artifact = wandb.Artifact(f"model-{tracked.id}", type="model")
        for file in files:
            artifact.add_file(str(file))
        tracked.log_artifact(artifact)


def resolve(mode: str) -> tuple[str, str]:
    """online, offline or disabled, and the line that says why; never asks anybody anything."""
    if mode not in MODES:
        raise TrackingError(f"tracking mode {mode!r}: expected one of {', '.join(MODES)}")
    if mode == "disabled":
        return mode, ""
    wanted = (os.environ.get("WANDB_MODE") or "auto") if mode == "auto" else mode
    if wanted not in (*MODES, *ALIASES):
        raise TrackingError(f"WANDB_MODE={wanted}: expected one of {', '.join((*MODES, *ALIASES))}")
    if wanted == "disabled":
        return wanted, "W&B: disabled by WANDB_MODE"
    if not _installed():
        if mode == "auto":
            return "disabled", "W&B: not tracked, wandb is not installed"
        raise TrackingError(f"tracking mode {mode}: wandb is not installed (pip install wandb)")
    lacking = None if wanted in ("offline", "dryrun") else _lacking()
    if wanted == "online" and lacking:
        raise TrackingError(f"tracking mode online: {lacking}")
    if wanted in ("offline", "dryrun") or lacking:
        return "offline", "W&B: offline" + (f" ({lacking})" if lacking else "")
    return "online", "W&B: online"


def _begin(run: Path, mode: str, anew: bool, **description: Any) -> Any | None:
    """Opens the W&B run, says where, and falls back to offline where `auto` was too hopeful."""
    resolved, line = resolve(mode)
    if resolved == "disabled":
        if anew:
            (run / KEPT).unlink(missing_ok=True)
        return _say(line)
    try:
        opened = _open(run, resolved, anew, **description)
    except TrackingError as error:
        if mode != "auto" or resolved == "offline":
            raise TrackingError(f"tracking mode {mode}: {error}") from error
        resolved, line = "offline", f"W&B: offline ({error})"
        opened = _open(run, resolved, anew, **description)
    upload = f"; upload with: wandb sync {quote(str(run))}/wandb/offline-run-*"
    _say(f"{line}, in {run / 'wandb'}{upload * (resolved == 'offline')}")
    return opened


def _open(run: Path, mode: str, anew: bool, **description: Any) -> Any:
    import wandb

    Path(run).mkdir(parents=True, exist_ok=True)
    wished = {"silent": True, "console": "off", "init_timeout": 30, "finish_timeout": PATIENCE}
    settings = wandb.Settings(**{k: v for k, v in wished.items() if k in wandb.Settings.model_fields})
    identity = _identity(run, anew)
    place = {"dir": str(run), "id": identity, "resume": "allow", "reinit": "create_new"}
    try:
        opened = wandb.init(**place, mode=mode, settings=settings, **description)
    except (wandb.Error, ValueError) as error:  # of what it is told it refuses some by pydantic's, a ValueError
        raise TrackingError(" ".join(str(error).split())) from error
    # Before the old run is forgotten: where that fails, the old weights have the id of a run that never began.
    replace(run / KEPT, lambda draft: draft.write_text(identity + "\n"))
    opened.define_metric("images_seen")
    opened.define_metric("*", step_metric="images_seen")
    opened.define_metric("val/distance", step_metric="images_seen", summary="min")
    return opened


def _identity(run: Path, anew: bool) -> str:
    """The run's id: a sweep's agent gives it, else it was kept from an earlier process, else it is new."""
    kept = (run / KEPT).read_text().strip() if (run / KEPT).exists() and not anew else ""
    return os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(4)


def _runs(trainer: pl.Trainer) -> list[Any]:
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _images(figures: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    figures = dict(figures)
    if not figures:
        return {}
    import wandb

    return {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}


def _images_seen(run: Path) -> dict[str, int]:
    """Where on the x-axis the trained model stands."""
    path = Path(run) / "train.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    return {"images_seen": facts["images_seen"]} if "images_seen" in facts else {}


@contextmanager
def _staging(run: Path) -> Iterator[None]:
    """W&B copies what an artifact holds; the copies belong to the run folder, not to the home directory."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(Path(run).resolve() / "wandb" / "data")
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _installed() -> bool:
    try:
        return importlib.util.find_spec("wandb") is not None
    except ValueError:  # sys.modules["wandb"] = None: import would fail, too
        return False


def _lacking() -> str | None:
    """What is missing for going online; None if nothing is."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not _has_key(urlparse(server).hostname or ""):
        return "not logged in"
    return None if _answers(server) else f"{server} does not answer"


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(server: str, seconds: float = 5) -> bool:
    try:
        urllib.request.urlopen(server, timeout=seconds).close()
    except urllib.error.HTTPError:  # an answer, if not a kind one
        return True
    except (OSError, ValueError):
        return False
    return True


def _say(line: str) -> None:
    if line and rank_zero_only.rank == 0:
        print(line, file=sys.stderr, flush=True)
