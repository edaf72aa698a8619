"""Sweeps as they are found on disk, and their part of the page."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gibbsnet.files import walk
from gibbsnet.report.html import Markup, join, tag

FILE = "sweep.json"
TRIAL = {"number", "state", "params", "value", "error"}
STATES = {
    "complete": "",
    "stopped": "stopped early, since it lagged behind",
    "failed": "failed",
    "interrupted": "interrupted; the sweep's command goes on with it",
}
CAPTION = (
    "Each line is a trial, from what was chosen to what came of it: dark is good, red the best, dashed what was stopped early. "
    "Values are of the validation split, the best over each trial; with one seed a choice, small differences are luck."
)


@dataclass
class Sweep:
    """One sweep's folder: what sweep.json holds, its picture, and why it is not shown, if it is not."""

    folder: Path
    content: dict[str, Any] = field(default_factory=dict)
    picture: bytes | None = None
    damage: str = ""

    @property
    def anchor(self) -> str:
        return f"sweep-{self.folder.as_posix().strip('./').replace('/', '-')}"


def find(folder: Path) -> list[Path]:
    """Folders below `folder` that hold a sweep.json, in order."""
    return sorted(path for path, _, files in walk(folder) if FILE in files)


def read(folder: Path) -> Sweep:
    """The sweep in `folder`; what cannot be read is told in `damage`."""
    try:
        content = json.loads((folder / FILE).read_text())
        missing = {"file", "command", "method", "metric", "goal", "parameters", "best", "trials"} - set(content)
        if missing:
            return Sweep(folder, damage=f"{FILE} has no {min(missing)}")
        if odd := [key for key in ("parameters", "trials") if not isinstance(content[key], list)]:
            return Sweep(folder, damage=f"{FILE}: {odd[0]} is no list")
        if not all(set(trial) >= TRIAL and isinstance(trial["params"], dict) for trial in content["trials"]):
            return Sweep(folder, damage=f"{FILE}: expected {', '.join(sorted(TRIAL))} of every trial")
        picture = folder / "parallel.png"
        return Sweep(folder, content, picture.read_bytes() if picture.exists() else None)
    except (OSError, ValueError, TypeError) as reason:
        return Sweep(folder, damage=f"{FILE}: {' '.join(str(reason).split())}")


def shown_sweep(sweep: Sweep, image) -> Markup:
    """The sweep's table, best trial first, and its picture.

    image: (bytes, alternative text) -> the picture as markup.
    """
    title = tag("h2", f"Sweep {sweep.folder.name}")
    if sweep.damage:
        return tag("section", title, tag("p", f"{sweep.folder}: {sweep.damage}", class_="warning"), id=sweep.anchor)
    content = sweep.content
    return tag(
        "section",
        title,
        tag("p", *_summary(content)),
        tag("pre", content["command"]),
        tag("p", CAPTION, class_="muted") if sweep.picture else None,
        sweep.picture and tag("figure", image(sweep.picture, f"trials of {sweep.folder.name}"), class_="card"),
        _table(content),
        id=sweep.anchor,
    )


def _summary(content: dict[str, Any]) -> Iterator[str]:
    trials = content["trials"]
    counts = {state: sum(trial["state"] == state for trial in trials) for state in STATES}
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    yield f"{content['method']} search of {', '.join(content['parameters'])}: {len(trials)} trials ({told or 'none yet'}), "
    yield f"{content['goal']} "
    yield tag("b", content["metric"])
    yield "."


def _table(content: dict[str, Any]) -> Markup:
    names, sign = content["parameters"], 1 if content["goal"] == "minimize" else -1
    head = [
        tag("th", "trial", scope="col"),
        *(tag("th", name, scope="col") for name in names),
        tag("th", content["metric"], tag("span", "↓" if sign > 0 else "↑", class_="arrow"), scope="col"),
        tag("th", "", scope="col"),
    ]
    ordered = sorted(
        content["trials"], key=lambda t: (math.inf if t["value"] is None else sign * t["value"], t["number"])
    )
    body = [_row(trial, names, trial["number"] == content["best"]) for trial in ordered]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="trials")
    return tag("div", table, class_="scroll")


def _row(trial: dict[str, Any], names: Sequence[str], best: bool) -> Markup:
    value = "" if trial["value"] is None else f"{trial['value']:.4g}"
    note = STATES.get(trial["state"], trial["state"])
    return tag(
        "tr",
        tag("th", str(trial["number"]), scope="row"),
        *(tag("td", _word(trial["params"].get(name, ""))) for name in names),
        tag("td", value, class_="best" if best else None),
        tag("td", join(note, f": {trial['error']}" if trial["error"] else None), class_="words muted"),
    )


def _word(word: str) -> str:
    """Long fractions are shortened."""
    try:
        return f"{float(word):.3g}" if len(word) > 7 else word
    except ValueError:
        return word
