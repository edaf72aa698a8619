"""Run folders as they are found on disk: finished, unfinished, or damaged."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gibbsnet.config import CIRCUMSTANCES
from gibbsnet.files import fingerprint, walk

EXPECTED = ("metrics.json", "train.json", "history.jsonl", "figures")
OURS = (*EXPECTED, "metrics_validation.json", "scored.json", "scored_validation.json")  # what is no benchmark's


class Damaged(Exception):
    """A file of a run that cannot be read; the message names it and says why."""


@dataclass
class Run:
    """One run folder.

    config: the resolved configuration. metrics, scored, speed: contents of metrics.json, scored.json (by which judge, of which
    data, with how many draws) and train.json, {} where missing. history:
    rows of history.jsonl. figures: name -> PNG file. measured: what benchmarks left there, file -> section -> row -> column ->
    number. drawn: what `sample` left there, name -> PNG file. missing: what the folder lacks. caveats: why its numbers are not
    those of the training that its configuration names. damage: why the run is not used.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Path] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    drawn: dict[str, Path] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
    damage: str = ""

    @property
    def experiment(self) -> str:
        return str(self.config.get("experiment") or "default")

    @property
    def data(self) -> str:
        return str(self.config["data"]["name"])

    @property
    def model(self) -> str:
        return str(self.config["model"]["name"])

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def key(self) -> tuple:
        """Where the run stands among others; ties are broken by the folder."""
        return self.experiment, self.data, self.model, self.seed, str(self.folder)


def find(folder: Path) -> list[Path]:
    """Folders below `folder` that hold a config.yaml, in order.

    Those inside of a run folder (a tracker's) do not count, and neither do a sweep's trials, which differ in more than a seed.
    """
    found = []
    for path, inside, files in walk(folder):
        if "sweep.json" in files:
            inside.clear()
        elif "config.yaml" in files:
            found.append(path)
            inside.clear()
    return sorted(found)


def read(folder: Path) -> Run:
    """The run in `folder`; what cannot be read is told in `damage`."""
    run = Run(folder)
    try:
        run.config = _config(folder / "config.yaml")
        run.metrics = _object(folder / "metrics.json")
        run.scored = _conditions(folder)
        run.speed = _object(folder / "train.json")
        run.history = _history(folder / "history.jsonl")
        run.figures = _figures(folder / "figures")
        run.measured = {path.stem: _object(path) for path in sorted(folder.glob("*.json")) if path.name not in OURS}
        run.drawn = _figures(folder / "samples")
        run.caveats = list(_caveats(run))
    except Damaged as reason:
        run.damage = str(reason)
    run.missing = [name for name in EXPECTED if not (folder / name).exists()]
    if not run.figures and "figures" not in run.missing:
        run.missing.append("figures")
    return run


def _caveats(run: Run) -> Iterator[str]:
    """Why its numbers are not those of the training that its configuration names."""
    steps, wanted = run.speed.get("steps"), run.config.get("steps")
    if isinstance(steps, int) and isinstance(wanted, int) and steps < wanted:
        yield f"its training stopped at step {steps:,} of {wanted:,}"
    elif run.metrics and not run.speed:
        yield "its training has not ended"
    try:
        if stale(run):
            yield "its scores are of other weights than it has now: evaluate again"
    except OSError as reason:
        yield f"best.ckpt: {_line(reason)}"


def stale(run: Run) -> bool:
    """Whether its scores are of other weights than best.ckpt has now; those of an earlier version do not say whose they are."""
    best, scored = run.folder / "checkpoints" / "best.ckpt", run.scored.get("checkpoint")
    return bool(scored) and best.exists() and scored != fingerprint(best)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise Damaged("config.yaml is missing") from None
    except Exception as reason:
        raise Damaged(f"config.yaml: {_line(reason)}") from None
    for group in ("model", "data"):
        named = config.get(group) if isinstance(config, dict) else None
        if not isinstance(named, dict) or "name" not in named:
            raise Damaged(f"config.yaml has no {group}.name")
    if not isinstance(config.get("seed"), int):
        raise Damaged("config.yaml has no whole number as its seed")
    return config


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as reason:
        raise Damaged(f"{path.name}: {_line(reason)}") from None
    if not isinstance(values, dict):
        raise Damaged(f"{path.name} holds no object")
    return values


def _conditions(folder: Path) -> dict[str, Any]:
    """What scored.json says of the scores that lie beside it, in plain values.

    One that is of other scores, or that cannot be read, says nothing; it costs no scores.
    """
    try:
        said = _object(folder / "scored.json")
        believed = said.get("metrics") == fingerprint(folder / "metrics.json")
    except (Damaged, OSError):
        return {}
    return {k: v for k, v in said.items() if v is None or isinstance(v, str | int | float)} if believed else {}


def _history(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = path.read_text().split("\n")
    except (OSError, ValueError) as reason:
        raise Damaged(f"{path.name}: {_line(reason)}") from None
    # Whole lines end in a newline: what follows the last one is being written, or was when the run was killed.
    return [_row(path.name, number, line) for number, line in enumerate(lines[:-1], 1)]


def _row(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as reason:
        raise Damaged(f"{name}, line {number}: {_line(reason)}") from None
    if not isinstance(row, dict):
        raise Damaged(f"{name}, line {number} holds no object")
    return row


def _figures(folder: Path) -> dict[str, Path]:
    files = {path.stem: path for path in sorted(folder.glob("*.png"))}
    for path in files.values():
        try:
            whole = is_png(path)
        except OSError as reason:
            raise Damaged(f"{folder.name}/{path.name}: {_line(reason)}") from None
        if not whole:
            raise Damaged(f"{folder.name}/{path.name} is no PNG")
    return files


def is_png(path: Path) -> bool:
    """Whether a file begins as a PNG does."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def _line(reason: Exception) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


def command(run: Run) -> tuple[str, bool]:
    """The command line that makes this run, and whether it is the one that was recorded.

    Without a record it names the files of conf/ by their groups and sets the plain keys at the top of the configuration.
    """
    recorded = run.config.get("command")
    if recorded:
        return recorded if isinstance(recorded, str) else shlex.join(map(str, recorded)), True
    words = dict(_overrides(run.config)) | {"run": run.folder.as_posix()}
    order = sorted(words, key=lambda key: (key not in ("model", "data"), key == "run"))
    return shlex.join(["python", "-m", "gibbsnet", "train", *(f"{key}={words[key]}" for key in order)]), False


def _overrides(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            if value.get("name"):
                yield key, str(value["name"])
        elif value is not None:
            yield key, value if isinstance(value, str) else json.dumps(value)


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Keys whose values differ between runs that should differ in their seed alone: key -> values."""
    flat = [dict(flatten(run.config)) for run in runs]
    keys = sorted({key for config in flat for key in config if not _is_circumstance(".".join(key))})
    values = {".".join(key): sorted({str(config.get(key)) for config in flat}) for key in keys}
    return {key: found for key, found in values.items() if len(found) > 1}


def conditions(runs: Iterable[Run]) -> dict[str, dict[str, list[str]]]:
    """Under which the runs' scores were given, where these are not the same: judge, data or samples -> value -> runs.

    Runs that do not say, by an earlier version, count for nothing.
    """
    found: dict[str, dict[Any, list[str]]] = {key: {} for key in ("judge", "data", "samples")}
    for run in runs:
        for key in found.keys() & run.scored.keys():
            found[key].setdefault(run.scored[key], []).append(f"{run.model} {run.seed}")
    return {
        key: {str(value): names for value, names in values.items()} for key, values in found.items() if len(values) > 1
    }


def _is_circumstance(key: str) -> bool:
    return key == "seed" or any(key == name or key.startswith(f"{name}.") for name in CIRCUMSTANCES)


def flatten(values: Mapping[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of nested mappings with its path of keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, *path, str(key))
        else:
            yield (*path, str(key)), value
