"""Configuration: load, merge, check, write.

Every file conf/<group>/<name>.yaml is a piece of the root configuration.  They merge in the order

    config.yaml, model, data, network, trainer, mode, experiment, command line

and references such as ${size.z} are resolved at the end.  On the command line `group=name` picks a file of a group and
`a.b=value` sets a key that exists; everything is an OmegaConf dotlist.  Below the door there are plain values only.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .files import home, replace

GROUPS = ("model", "data", "network", "trainer", "mode", "experiment")
NAMED = ("model", "data", "network", "trainer")  # have a section of their own, which bears the file's name
# What may change between a run and its resumption: where it goes, its names, how it is watched, on how many devices.
CIRCUMSTANCES = (
    "command", "run", "restart", "experiment", "model.name", "tracking", "evaluation", "clamp", "mode", "judges", "every",
    "data.root", "data.path", "data.download", "data.resident", "data.classes", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.max_time", "trainer.progress", "trainer.threads", "trainer.replay",
    "optim.skip_nonfinite",
)  # fmt: skip
LATER = ("clamp", "evaluation")
# What may be said to a command after the training: nothing that was decided in it, or that would change nothing.  Where things
# lie and how they are watched may be said to all, as scripts do.
ANYWHERE = (
    "run", "judges", "tracking.*", "data.root", "data.path", "data.download", "data.verify", "data.resident",
    "trainer.accelerator", "trainer.threads", "trainer.progress",
)  # fmt: skip
# Of a chain: what its states hang on, and not what its gradient does, or how it starts in the batches of a training.
STATES = ("start", "blocks", "steps", "mode", "present", "learned")
AFTERWARDS = {
    "evaluate": ("evaluation.*", *ANYWHERE),
    "sample": (
        *(f"chains.unclamped.{part}" for part in (*STATES, "mode.*")),
        "mode",
        "clamp.*",
        "evaluation.seed",
        *ANYWHERE,
    ),
}
# What of `clamp` `sample` reads only where something is held: key -> (where it changes nothing, whether it is read).
HELD = ("without clamp.hole or clamp.whole", lambda clamp: clamp["hole"] or clamp["whole"])
HEARD = (
    "unless clamp.hole or clamp.whole holds x",
    lambda clamp: "x" in [*clamp["whole"], clamp["hole"] and clamp["of"]],
)
IDLE: dict[str, tuple[str, Callable[[Mapping], Any]]] = {
    **dict.fromkeys(("clamp.of", "clamp.channels", "clamp.mix"), ("without clamp.hole", lambda clamp: clamp["hole"])),
    "clamp.share": ("without clamp.hole=random", lambda clamp: clamp["hole"] == "random"),
    "clamp.steps": HELD,
    "clamp.attend": HEARD,
    "clamp.dreams": (f"{HEARD[0]}, and clamp.attend=true", lambda clamp: HEARD[1](clamp) and clamp["attend"]),
}
# Null or a name, which may look like a number, run=7, or a time, which YAML takes for one: 00:01:00:00.
WORDS = ("run", "data.path", "tracking.entity", "tracking.group", "trainer.max_time")
# Without these a file is no run's; newer keys take their defaults (`LATER`).
ESSENTIAL = ("seed", "steps", "game", "optim", "model", "graph", "critics", "chains", "data", "network", "trainer")
FREE = ("network", "graph", "critics")  # whose pieces check what they are made of; null stands for none of it
OPEN = (*FREE, "size", "penalty", "supervised")  # where a model's or a network's file names its own keys
CHAIN = (
    "start", "blocks", "steps", "grad_draws", "mode", "start_from_data", "persistent", "present", "learned", "rise",
    "dream_every", "cut",
)  # fmt: skip
# Of these the ones that say nothing unless they are said: any model's chain may be given them, named in its file or not.
OPTIONS = {
    **{f"chains.unclamped.{part}": usual for part, usual in
       {"present": [], "learned": [], "rise": 0, "dream_every": 0, "cut": []}.items()},
    "chains.clamped.cut": [],
}  # fmt: skip
NOTHING = (None, "", "null")


def _is_int(value: Any, least: int, most: float = float("inf")) -> bool:
    return type(value) is int and least <= value <= most


def _are(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any, least: float, most: float = float("inf")) -> bool:
    return type(value) in (int, float) and least <= value <= most and value < float("inf")


def _is_time(value: str) -> bool:
    return bool(re.fullmatch(r"\d+(:\d\d){3}", value)) and value.strip("0:") != ""


def _is_side(value: Any) -> bool:
    """A size, or one that is not known yet: `build` asks for classes in words of its own."""
    return value is None or _is_int(value, 1)


def _is_project(name: str) -> bool:
    """Whether W&B would take it."""
    return len(name) <= 128 and not set(name) & set("/\\#?%:")


VARIABLES = ("a list of variables", lambda v: _are(v, _is_word))
YES, SHARE = ("true or false", lambda v: isinstance(v, bool)), ("a number in [0, 1]", lambda v: _is_number(v, 0, 1))
RATE = ("a number of at least 0 and finite", lambda v: _is_number(v, 0))
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}  # Lightning's short words for the same
SWEEPS = "a number of sweeps, such as 3, a range, such as [1,4], or several of these, such as [0,[1,4]]"
# What no constructor below the door sees, or not in words for a user: key -> (what is expected, whether a value is that).
EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("steps", "data.batch_size", "every.log", "every.validate", "every.checkpoint", "trainer.devices", "trainer.num_nodes"),
        ("an integer of at least 1", lambda v: _is_int(v, 1)),
    ),
    **dict.fromkeys(("size.critic", "game.lazy"), ("an integer of at least 1", lambda v: _is_int(v, 1))),
    "clamp.dreams": ("an integer of at least 0", lambda v: _is_int(v, 0)),
    "clamp.steps": ("one or more integers of at least 0", lambda v: bool(v) and _are(v, lambda i: _is_int(i, 0))),
    "clamp.channels": ("a list of integers, such as [0], or null", lambda v: v is None or _are(v, lambda c: _is_int(c, 0))),
    "clamp.whole": ("a list of variables, such as [z2]", lambda v: _are(v, lambda name: isinstance(name, str))),
    "clamp.values": ("values of variables, such as {y: 3}", lambda v: isinstance(v, Mapping)),
    "clamp.hole": ("one of left, right, top, bottom, row, random, a file, or null", lambda v: v is None or isinstance(v, str)),
    "clamp.emergency": ("a number of at least 0, or null", lambda v: v is None or _is_number(v, 0)),
    "evaluation.samples": ("an integer of at least 10", lambda v: _is_int(v, 10)),
    "evaluation.steps": ("integers of at least 0", lambda v: _are(v, lambda i: _is_int(i, 0))),
    **dict.fromkeys(("seed", "evaluation.seed"), ("an integer in 0..4294967295", lambda v: _is_int(v, 0, 2**32 - 1))),
    "evaluation.split": ("test or validation", lambda v: v in ("test", "validation")),
    "trainer.precision": (
        # The game takes its gradients itself: nothing scales them, as 16-mixed needs; its noise and accounts stay in 32 bits.
        "32-true, bf16-mixed or 64-true",
        lambda v: str(v) in {*PRECISIONS, *PRECISIONS.values()},
    ),
    **dict.fromkeys(
        [f"chains.{chain}.{part}" for chain in ("clamped", "unclamped") for part in ("start", "blocks")],
        ("a list of variables, or of lists of them", lambda v: _are(v, lambda b: isinstance(b, str) or _are(b, _is_word))),
    ),
    **dict.fromkeys(
        ("chains.clamped.mode", "chains.unclamped.mode"),
        ("stances of variables, such as {z: {potency: 0.5}}", lambda v: isinstance(v, Mapping)),
    ),
    **dict.fromkeys([f"chains.unclamped.{names}" for names in ("present", "learned", "cut")], VARIABLES),
    "chains.clamped.cut": VARIABLES,
    "trainer.threads": ("an integer of at least 1, or null", lambda v: v is None or _is_int(v, 1)),
    # Lightning takes what it saves to for an address.
    "run": ("a folder whose path has no '::', or null", lambda v: v is None or "::" not in str(v)),
    "tracking.tags": ("a list of words", lambda v: _are(v, _is_word)),
    "tracking.project": (r"a name of at most 128 characters without / \ # ? % :", lambda v: _is_word(v) and _is_project(v)),
    "data.validation": ("an integer of at least 2, or null", lambda v: v is None or _is_int(v, 2)),
    **dict.fromkeys(
        ("data.labels", "data.classes", "data.image_size"),
        ("an integer of at least 1, or null", lambda v: v is None or _is_int(v, 1)),
    ),
    "data.channels": ("1, 3 or null", lambda v: v is None or (type(v) is int and v in (1, 3))),
    "data.shape": ("integers of at least 1, or null", lambda v: v is None or (bool(v) and _are(v, lambda i: _is_int(i, 1)))),
    "trainer.max_time": ("DD:HH:MM:SS of more than nothing, or null", lambda v: v is None or _is_time(str(v))),
    **dict.fromkeys(("data.labelled", "game.shift"), ("an integer of at least 0", lambda v: _is_int(v, 0))),
    "optim.skip_nonfinite": ("an integer of at least 0", lambda v: _is_int(v, 0)),
    **dict.fromkeys(("optim.lr", "optim.lr_critic"), RATE),
    **dict.fromkeys(("optim.anneal", "optim.ema"), SHARE),
    **dict.fromkeys(
        [f"chains.{chain}.{share}" for chain in ("clamped", "unclamped") for share in ("persistent", "start_from_data")],
        ("a share in [0, 1]", lambda v: _is_number(v, 0, 1)),
    ),
    **dict.fromkeys((f"chains.{chain}.steps" for chain in ("clamped", "unclamped")), (SWEEPS, lambda v: _is_sweeps(v))),
    "optim.betas": (
        "two numbers in [0, 1)",
        lambda v: _are(v, lambda b: _is_number(b, 0, 1) and b < 1) and len(v) == 2,
    ),
    "optim.floor_from": ("a number in (0, 1], or null", lambda v: v is None or (_is_number(v, 0, 1) and v > 0)),
    "optim.clip": ("a number above 0, or null", lambda v: v is None or (_is_number(v, 0) and v > 0)),
}  # fmt: skip
SIZE = ("one or more integers of at least 1", lambda v: bool(v) and _are(v, lambda i: _is_int(i, 1)))
WIDTH = ("a list of integers of at least 1", lambda v: _are(v, lambda i: _is_int(i, 1)))
WEIGHT = ("a number of at least 0", lambda v: _is_number(v, 0))
LESSON = {"hears": VARIABLES, "known": WEIGHT, "dreams": WEIGHT}
STANCE = {"clamped": YES, "potency": SHARE, "share": SHARE, "silent": YES}


class ConfigError(ValueError):
    """A configuration that cannot be used: one line that names the key, what was expected and what to do."""


def conf_folder() -> Path:
    """conf/ of the working directory, else that of the checkout this code lies in."""
    for folder in (Path("conf"), Path(__file__).parents[2] / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError("no conf/config.yaml here: run the command from the repository's root")


def choices(group: str) -> list[str]:
    """The names of a group's files."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def experiments(config: Mapping) -> list[str]:
    """What a configuration of general settings might rather say: the experiments of its model on its data set or, where there are
    none, the one that is named after the data set, with this model."""
    usual = OmegaConf.to_container(_read(conf_folder() / "config.yaml").defaults)
    if config["experiment"] != usual["experiment"]:
        return []
    picks = {name: {**usual, **_picked(name)} for name in choices("experiment") if name != usual["experiment"]}
    here = [name for name, pick in picks.items() if pick["data"] == config["data"]["name"]]
    same = [name for name in here if picks[name]["model"] == config["model"]["name"]]
    return same or [f"{name} model={config['model']['name']}" for name in here if name == config["data"]["name"]]


def _picked(experiment: str) -> dict[str, str | None]:
    """What an experiment chooses; of one that is not readable, which is no matter of who did not name it, no data set."""
    try:
        return _picks(_experiment(experiment), "experiment", experiment)
    except ConfigError:
        return {"data": None}


def load(arguments: Sequence[str] = (), into: Mapping | None = None, command: str | None = None) -> dict:
    """The resolved configuration, plain values only.

    Arguments:
        arguments: the command line's `group=name` and `a.b=value`.
        into: a resolved configuration that the arguments change, in place of conf/.  Of the groups only `mode` makes sense
            there: the others decided what was trained.
        command: the one that is told them; after the training it refuses what comes too late or would change nothing.

    Raises:
        ConfigError: an unknown group file or key (with the nearest that exists), or a value of the wrong type.
    """
    picks, values = _split(arguments)
    stances = ("chains.unclamped.mode",) if picks.get("mode") not in NOTHING else ()  # a mode's, if one is said now
    said = {entry.partition("=")[0] for entry in values}
    if into is None:
        picks, merged = _compose(picks)
    else:
        # The command is a record, whose ${...} were resolved in its time.
        merged = OmegaConf.merge(_later(), {key: value for key, value in into.items() if key != "command"})
        if command in AFTERWARDS:
            _refuse_unread(command, {*picks, *said}, merged)
        if refused := sorted(picks.keys() - {"mode"}):
            raise ConfigError(f"{refused[0]}={picks[refused[0]]}: a run's {refused[0]} was decided when it was trained")
        if "mode" in picks and picks["mode"] in NOTHING and merged.chains.unclamped.get("mode"):
            raise ConfigError(
                f"mode={picks['mode']}: the run was trained with stances; say mode=dreaming for chains that clamp nothing"
            )
        if picks.get("mode") not in NOTHING:
            # A mode is all of the stances: none of the one that was trained in stays.
            merged.chains.unclamped.update(mode={}, present=[], dream_every=0)
            merged = OmegaConf.merge(merged, _file("mode", picks["mode"]))
        picks = {"mode": merged.get("mode"), **picks}
    merged.mode = picks["mode"] if picks.get("mode") not in NOTHING else None
    merged.pop("defaults", None)  # no settings: a group's file is picked by group=name
    before = OmegaConf.to_container(merged.chains.unclamped).get("mode", {}) if command == "sample" else {}
    plain = _resolve(_override(merged, values))
    plain["run"] = plain["run"] and str(home(plain["run"]))
    plain["command"] = (
        shlex.join(["python", "-m", "gibbsnet", "train", *arguments]) if into is None else into.get("command")
    )
    # What a run was trained with passed the checks of its time.
    news = {*LATER, *said, *stances}
    check(plain, None if into is None else lambda key: any(f"{key}.".startswith(f"{new}.") for new in news))
    if command == "sample":
        _refuse_idle(said, plain["clamp"])
        _refuse_trained(before, plain["chains"]["unclamped"].get("mode", {}))
    return _in_full(plain)


def _refuse_unread(command: str, keys: set[str], config: DictConfig) -> None:
    """Refuses settings that come too late, such as a seed of the training to sample, or that would change nothing."""
    known = {*GROUPS, *_keys(config), *(f"chains.unclamped.{part}" for part in CHAIN)}  # a mode may bring those
    for key in sorted(keys & known):
        if not any(fnmatchcase(key, taken) for taken in AFTERWARDS[command]):
            raise ConfigError(f"{key} cannot be said to {command}, after the training: {takes(command)}")


def _refuse_idle(said: set[str], clamp: Mapping) -> None:
    """Refuses what `sample` was told and would not read: what of `clamp` is about something that nothing holds (but for its
    default, which undoes what a run was trained with), and free chains' sweeps where parts of real images are held."""
    usual = _later().clamp
    for key in sorted(said & IDLE.keys()):
        part, (where, read) = key.removeprefix("clamp."), IDLE[key]
        if clamp[part] != usual[part] and not read(clamp):
            raise ConfigError(f"{key} changes nothing {where}")
    if "chains.unclamped.steps" in said and (clamp["hole"] or clamp["whole"]):
        raise ConfigError("chains.unclamped.steps: beside parts of real images say clamp.steps=[...]")
    if "chains.unclamped.start" in said and HEARD[1](clamp) and clamp["attend"] and clamp["dreams"]:
        raise ConfigError(
            "chains.unclamped.start changes nothing where chains listen to what they hold, for they start from dreams: "
            "say clamp.dreams=0 or clamp.attend=false"
        )


def _refuse_trained(before: Mapping, stances: Mapping) -> None:
    """Refuses what was said of a stance that the training alone reads, but for its default, which undoes what a run was trained
    with; `before` are the stances of the run or of the mode that was picked, whose file may be for a training as well."""
    for v, stance in stances.items():
        for part, usual in (("share", 1), ("silent", False)):
            if stance.get(part, usual) not in (usual, before.get(v, {}).get(part, usual)):
                raise ConfigError(
                    f"chains.unclamped.mode.{v}.{part} changes nothing here: it is read in training alone"
                )


def takes(command: str) -> str:
    """What may be said to a command after the training, in words."""
    return f"it takes {', '.join(AFTERWARDS[command])}"


def _later() -> DictConfig:
    """What commands after the training read: a run that is older than one of its keys takes the default."""
    root = _read(conf_folder() / "config.yaml")
    return OmegaConf.create({key: root[key] for key in LATER if key in root})


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Picks of group files, and dotlist entries."""
    picks, values = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key or key.startswith("-"):
            raise ConfigError(f"{argument!r} is no setting: write key=value, for example model=ali or seed=1")
        if key in GROUPS:
            picks[key] = value
        else:
            values.append(argument)
    return picks, values


def _compose(picks: dict[str, str]) -> tuple[dict[str, str | None], DictConfig]:
    merged = _read(conf_folder() / "config.yaml")
    experiment = picks.get("experiment", merged.defaults.experiment)
    own = _experiment(experiment)
    chosen: dict[str, Any] = {
        **merged.defaults,
        **_picks(own, "experiment", experiment),
        **picks,
        "experiment": experiment,
    }
    data = _file("data", chosen["data"])
    chosen["network"] = chosen["network"] or _picks(data, "data", chosen["data"]).get("network")
    known = _keys(merged)
    for group in GROUPS:
        if group == "mode" and chosen["mode"] in NOTHING:
            continue
        piece = own if group == "experiment" else _file(group, chosen[group])
        piece.pop("defaults", None)
        _refuse_strangers(piece, group, chosen[group], known)
        known |= _keys(piece)
        merged = _merge(merged, piece, group, chosen[group])
    merged.experiment = experiment
    for group in NAMED:
        if group not in merged:
            raise ConfigError(f"conf/{group}/{chosen[group]}.yaml: expected {group}: {{...}}, its own settings")
        merged[group].name = chosen[group]
    return chosen, merged


def _merge(below: DictConfig, piece: DictConfig, group: str, name: str) -> DictConfig:
    """The piece over what lies below it; neither may be used afterwards."""
    try:
        return OmegaConf.unsafe_merge(below, piece)
    except OmegaConfBaseException as error:
        what = "a list stands where settings belong, or settings where a list does"
        raise ConfigError(f"conf/{group}/{name}.yaml: {what} ({_one_line(error)})") from error


def _keys(config: DictConfig) -> dict[str, Any]:
    """Its leaves, as they are written."""
    return dict(leaves(OmegaConf.to_container(config, resolve=False)))


def _refuse_strangers(piece: DictConfig, group: str, name: str, known: Mapping[str, Any]) -> None:
    """Refuses keys of a group's file that are none, or a slip of the pen would leave the default in silence; and values of
    another type than those that they replace, but for references.

    What a model's or a network's files name by themselves (`OPEN`) is not looked at, nor is a model's own section in its file.
    """
    for key, value in _keys(piece).items():
        section, *rest = key.split(".")
        below = [k for k in known if k.startswith(f"{key}.")]
        if value == {}:
            fits = True  # and says nothing
        elif key in NAMED or (below and section not in OPEN):
            such = f", such as {below[0]}" if below else ""
            raise ConfigError(f"conf/{group}/{name}.yaml: {key}: expected settings below it{such}")
        elif section == "chains":
            fits = len(rest) > 1 and rest[0] in ("clamped", "unclamped") and rest[1] in CHAIN
        elif section in OPEN or section == group == "model" or key.startswith(("game.gamma.", "clamp.values.")):
            fits = True
        else:
            fits = key in known
        if not fits:
            raise ConfigError(f"conf/{group}/{name}.yaml: unknown key {key!r}: {_nearest(key, list(known))}")
        if key in known and section not in OPEN and not any(_refers(v) for v in (value, known[key])):
            try:
                _require_type(key, known[key], value)
            except ConfigError as error:
                raise ConfigError(f"conf/{group}/{name}.yaml: {error}") from error


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _picks(piece: DictConfig, group: str, name: str) -> dict[str, str | None]:
    """The files that a file's `defaults` chooses: an experiment's of any group, a data set's its network."""
    picks = OmegaConf.to_container(piece, resolve=False).get("defaults", {})
    groups, such = (GROUPS, "{model: ali, data: digits}") if group == "experiment" else (("network",), "{network: mlp}")
    words = isinstance(picks, dict) and all(isinstance(pick, str | None) for pick in picks.values())
    if not words or not picks.keys() <= set(groups):
        raise ConfigError(f"conf/{group}/{name}.yaml: defaults is no choice of files, such as {such}")
    return picks


def _experiment(name: str, above: tuple[str, ...] = ()) -> DictConfig:
    """An experiment's file over that of the experiment which it is a variant of, `defaults: {experiment: ...}`, if of any."""
    if name in above:
        raise ConfigError(f"experiment={above[0]} is a variant of itself: {' -> '.join((*above, name))}")
    piece = _file("experiment", name)
    base = _picks(piece, "experiment", name).get("experiment")
    return piece if base is None else _merge(_experiment(base, (*above, name)), piece, "experiment", name)


def _file(group: str, name: str | None) -> DictConfig:
    path = conf_folder() / group / f"{name}.yaml"
    if name in NOTHING:
        raise ConfigError(f"{group}={name or 'null'}: expected one of {', '.join(choices(group))}")
    if name not in choices(group):
        raise ConfigError(f"{group}={name}: there is no {path}; {_nearest(name, choices(group))}")
    return _read(path)


def _read(path: Path) -> DictConfig:
    """A file's settings, the caller's to change."""
    try:
        piece = deepcopy(_parsed(path.read_text("utf-8")))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {_one_line(error)}") from error
    if not isinstance(piece, DictConfig):
        raise ConfigError(f"{path} is a list: expected settings, such as steps: 1000")
    return piece


@lru_cache
def _parsed(text: str) -> DictConfig | ListConfig:
    """What a YAML file says, not to be changed; parsed once, for benchmarks compose many configurations of few files."""
    return OmegaConf.load(StringIO(text))


def _nearest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(words)}"


def _override(config: DictConfig, entries: Sequence[str]) -> DictConfig:
    """Sets keys that exist, and `OPTIONS`, to values of their type."""
    for entry in entries:
        key = entry.partition("=")[0]
        try:
            value = OmegaConf.select(OmegaConf.from_dotlist([entry]), key)
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"{entry!r} is not readable: {_one_line(error)}") from error
        if key in WORDS and value is not None and not isinstance(value, str):
            value = entry.partition("=")[2]
        known = OPTIONS | _keys(config)
        if key not in known:
            raise ConfigError(f"unknown key {key!r}: {_nearest(key, list(known))}")
        _require_type(key, OPTIONS.get(key) if (old := _value(config, key)) is None else old, value)
        OmegaConf.update(config, key, value, merge=False)
    return config


def _value(config: DictConfig, key: str) -> Any:
    """What the key stands for now, its reference followed."""
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    return _resolve(value) if OmegaConf.is_config(value) else value


def leaves(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no mapping, and of empty mappings."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _require_type(key: str, old: Any, new: Any) -> None:
    """Refuses a value of another kind; a null may become anything, and `check` looks at what has several forms."""
    new = OmegaConf.to_container(new) if OmegaConf.is_config(new) else new
    if key in EXPECTED and isinstance(new, Mapping) and not EXPECTED[key][1](new):
        raise ConfigError(f"{key}={new}: expected {EXPECTED[key][0]}")  # `check` looks at what a mapping holds
    if key in EXPECTED or old is None or (new is None and (key in WORDS or key.partition(".")[0] in FREE)):
        return
    kinds = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "a word",
        list: "a list",
        dict: "a mapping",
    }
    wanted = (int, float) if type(old) is float else (type(old),)
    if type(new) not in wanted:
        raise ConfigError(f"{key}={new}: expected {kinds[type(old)]}, such as {old!r}")


def _is_sweeps(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and bool(value) and all(map(_is_range, value)))


def _is_range(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value))


def _resolve(config: DictConfig) -> dict:
    try:
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error


def check(config: Mapping, which: Callable[[str], bool] | None = None) -> None:
    """Ranges of what no constructor below the door sees; `which`: of these keys alone."""
    # Those first that others refer to, as critics.joint.hidden does to size.critic and graph.z.shape to size.z.
    for key, value in sorted(leaves(config), key=lambda leaf: (leaf[0] not in EXPECTED, leaf[0].startswith("graph."))):
        expected, fits = EXPECTED.get(key) or _kind(key)
        if (which is None or which(key)) and not fits(value):
            raise ConfigError(f"{key}={value}: expected {expected}")
    extra = config["data"].get("labelled")
    if which is None and extra and config["data"]["labels"] is None:
        raise ConfigError(f"data.labelled={extra}, but every label is known: say data.labels=K, or data.labelled=0")
    if config.get("mode"):
        _check_mode(config)


def _kind(key: str) -> tuple[str, Callable[[Any], bool]]:
    """What is expected of keys whose names a model chooses."""
    if key.startswith(("size.z", "size.apex")):
        return SIZE
    if re.match(r"chains\.\w+\.mode\.", key):
        return _stance(*key.split(".")[4:])
    if key.endswith(".width"):
        return WIDTH
    if re.fullmatch(r"critics\.[^.]+\.hidden", key):
        return "an integer of at least 1", lambda v: _is_int(v, 1)
    if re.fullmatch(r"graph\.[^.]+\.shape", key):
        return "integers of at least 1, or null", lambda v: v is None or (bool(v) and _are(v, _is_side))
    if key.startswith("supervised."):
        return LESSON.get(key.split(".", 2)[-1], (f"a lesson of {', '.join(LESSON)}", lambda v: False))
    return "", lambda value: True


def _stance(*option: str) -> tuple[str, Callable[[Any], bool]]:
    """What is expected of an option of a variable's stance; of the stance itself where none is named."""
    if not option:
        return "a stance, such as {potency: 0.5}", lambda v: v == {}
    return STANCE.get(".".join(option), (f"a stance of {', '.join(STANCE)}", lambda v: False))


def _check_mode(config: Mapping) -> None:
    """A mode names the variables of a graph of three levels."""
    chain, variables = config["chains"]["unclamped"], list(config["graph"])
    named = [*chain.get("mode", {}), *chain.get("present", [])]
    if unknown := sorted(set(named) - set(variables)):
        raise ConfigError(
            f"mode={config['mode']} names {', '.join(unknown)}, but model={config['model']['name']} has {', '.join(variables)}: "
            "choose a model that has them, for example gibbsnet2 (x, z1, z2)"
        )


def folder(config: Mapping) -> Path:
    """The run's folder: `run`, else runs/<experiment>/<data>/<model>/<seed>."""
    if config["run"]:
        return Path(config["run"])
    return Path("runs", config["experiment"], config["data"]["name"], config["model"]["name"], str(config["seed"]))


def write(config: Mapping, path: Path) -> None:
    """The configuration as plain YAML, whole or not at all."""
    said = yaml.safe_dump(dict(config), sort_keys=False)
    replace(path, lambda draft: draft.write_text(said), raced=True)  # by the ranks of one training


def read(run: str | Path) -> dict:
    """A run's resolved configuration.

    Raises:
        ConfigError: there is no run there, or its config.yaml is damaged.
    """
    path = home(run) / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: train first, for example python -m gibbsnet train run={run}")
    try:
        config = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {_one_line(error)}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is damaged: expected a mapping")
    if lacking := [key for key in ESSENTIAL if key not in config]:
        raise ConfigError(f"{path} is no run's: it has no {', '.join(lacking)}")
    if odd := [key for key in ESSENTIAL if key not in ("seed", "steps", *FREE) and not isinstance(config[key], dict)]:
        raise ConfigError(f"{path} is damaged: {', '.join(odd)}: expected settings, such as in conf/config.yaml")
    return _in_full(config)


def _in_full(config: dict) -> dict:
    """The configuration with its precision by the long name, so that 32 and 32-true are one."""
    said = str(config["trainer"].get("precision"))
    if said in PRECISIONS:
        config["trainer"]["precision"] = PRECISIONS[said]
    return config


def differences(a: Mapping, b: Mapping) -> list[str]:
    """The keys in which two configurations would train different weights.

    A chain that lacks an option, as a run's has that is older than the option, is as one whose option says nothing: [], {} or 0.
    """
    left, right = (dict(leaves(c)) for c in (a, b))
    keys = [k for k in {**left, **right} if not any(k == c or k.startswith(f"{c}.") for c in CIRCUMSTANCES)]
    idle = {k for k in left.keys() ^ right.keys() if k.startswith("chains.") and not (left.get(k) or right.get(k))}
    return [k for k in keys if left.get(k) != right.get(k) and k not in idle]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
