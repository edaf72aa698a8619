"""A sweep file, in Weights & Biases' own format: what is searched, by which method, and the command of a trial."""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import ConfigError, load
from ..game import Game
from ..modules import build_chain

METHODS = ("grid", "random", "bayes")
HYPERBAND = {"eta": 3, "min_iter": 0, "max_iter": 0, "s": 0}
ARGUMENTS = "${args_no_hyphens}"
# What W&B's files may say besides, and no search on this machine hangs on.
ELSEWHERE = (
    "program", "name", "description", "project", "entity", "apiVersion", "kind", "controller", "job", "image_uri", "scheduler",
)  # fmt: skip
DEFAULT = ("${env}", "${interpreter}", "-m", "gibbsnet", "train", ARGUMENTS)


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included: integers if both are; on a logarithmic scale if `log`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return type(self.low) is int and type(self.high) is int


@dataclass(frozen=True)
class Plan:
    """What a sweep file says.

    Arguments:
        constants: key -> the word that follows key= in every trial.
        space: key -> the words to choose from, or a range.
        early: W&B's `early_terminate`, {} for none.
        command: a trial's command with W&B's macros still in it.
        cap: the file's own limit on the number of trials.
        source: the parts of the file that decide which trials there are.
    """

    path: Path
    method: str
    metric: str
    goal: str
    constants: Mapping[str, str]
    space: Mapping[str, list[str] | Range]
    early: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = DEFAULT
    cap: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def points(self) -> list[dict[str, str]]:
        """The whole grid."""
        return [dict(zip(self.space, words, strict=True)) for words in itertools.product(*self.space.values())]


def read(path: Path) -> Plan:
    """The plan in a sweep file.

    Raises:
        ConfigError: it cannot be read, or says what only W&B's own service can do.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; the sweeps that come with the project lie in sweeps/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no sweep: expected method, metric and parameters")
    try:
        return _plan(path, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _only(what: str, given: Mapping[str, Any], *known: str) -> None:
    """Refuses keys that are not looked at: a slip of the pen would leave a default in silence."""
    if unknown := sorted(map(str, given.keys() - set(known))):
        raise ConfigError(f"{what}{unknown[0]!r} is not known here: expected some of {', '.join(known)}")


def _plan(path: Path, content: Mapping[str, Any]) -> Plan:
    _only("", content, "method", "metric", "parameters", "early_terminate", "run_cap", "command", *ELSEWHERE)
    if content.get("method") not in METHODS:
        raise ConfigError(f"method {content.get('method')!r}: expected one of {', '.join(METHODS)}")
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ConfigError("no metric: expected for example metric: {name: val/distance, goal: minimize}")
    _only("metric: ", metric, "name", "goal", "target", "impute", "impute_while_running")
    if metric.get("target") is not None:
        raise ConfigError(f"metric.target={metric['target']} is for W&B's own service: leave it out")
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise ConfigError(f"goal {metric['goal']!r}: expected minimize or maximize")
    cap = content.get("run_cap")
    if cap is not None and not (type(cap) is int and cap > 0):
        raise ConfigError(f"run_cap: {cap}: expected a whole number of at least 1")
    constants, space = _parameters(content.get("parameters"), content["method"])
    return Plan(
        path=path,
        method=content["method"],
        metric=metric["name"],
        goal=metric.get("goal", "minimize"),
        constants=constants,
        space=space,
        early=_early(content.get("early_terminate")),
        command=_command(content),
        cap=cap,
        source={key: content.get(key) for key in ("method", "metric", "early_terminate", "parameters", "command")},
    )


def _parameters(parameters: Any, method: str) -> tuple[dict[str, str], dict[str, list[str] | Range]]:
    if not isinstance(parameters, dict) or not parameters:
        raise ConfigError("no parameters: expected for example parameters: {seed: {values: [1, 2, 3]}}")
    constants = {key: str(p["value"]) for key, p in parameters.items() if isinstance(p, dict) and "value" in p}
    for key in constants:
        _only(f"parameter {key}: beside its value ", parameters[key], "value", "distribution")
    space = {key: _space(key, p) for key, p in parameters.items() if key not in constants}
    if not space:
        raise ConfigError("nothing is searched: every parameter has one value")
    return constants, {k: _listed(k, v) if method == "grid" else v for k, v in space.items()}


def _space(key: str, parameter: Any) -> list[str] | Range:
    """What one parameter may be. Values become the words that the agent would put on the command line."""
    parameter = parameter if isinstance(parameter, dict) else {}
    unknown = sorted(parameter.keys() - {"values", "distribution", "min", "max", "q"})
    if unknown:
        raise ConfigError(
            f"parameter {key}: {unknown[0]!r} is for W&B's own service; here: value, values, or min and max"
        )
    if isinstance(parameter.get("values"), list) and parameter["values"]:
        return list(dict.fromkeys(map(str, parameter["values"])))
    low, high, kind = parameter.get("min"), parameter.get("max"), parameter.get("distribution", "uniform")
    if not all(type(end) in (int, float) and math.isfinite(end) for end in (low, high)) or low >= high:
        raise ConfigError(f"parameter {key}: expected value, values, or min below max")
    if kind == "int_uniform":
        return Range(int(low), int(high))
    if kind in ("uniform", "q_uniform"):
        whole = type(low) is int and type(high) is int and "distribution" not in parameter
        step = parameter.get("q", 1.0) if kind == "q_uniform" else None
        if step is not None and not (type(step) in (int, float) and step > 0):
            raise ConfigError(f"parameter {key}: q: {step}: expected a number above 0")
        return Range(low, high) if whole else Range(float(low), float(high), step)
    if kind == "log_uniform_values" and low > 0:
        return Range(float(low), float(high), log=True)
    raise ConfigError(
        f"parameter {key}: distribution {kind!r} from {low} is for W&B's own service; here: uniform, q_uniform, int_uniform, "
        "log_uniform_values above 0"
    )


def _listed(key: str, space: list[str] | Range) -> list[str]:
    if isinstance(space, list):
        return space
    if not space.whole:
        raise ConfigError(f"parameter {key}: a grid needs values, or whole numbers from min to max")
    return [str(value) for value in range(space.low, space.high + 1)]


def _early(early: Any) -> dict[str, Any]:
    """Hyperband's first number of reports and its factor."""
    if early is None:
        return {}
    if not isinstance(early, dict) or early.get("type") != "hyperband":
        raise ConfigError("early_terminate: expected for example {type: hyperband, min_iter: 3, eta: 2}")
    _only("early_terminate: ", early, "type", "strict", *HYPERBAND)
    if early.get("strict"):
        raise ConfigError("early_terminate.strict is for W&B's own service: leave it out")
    eta, least, most, brackets = (early.get(name, usual) for name, usual in HYPERBAND.items())
    if type(eta) is not int or eta < 2:
        raise ConfigError(f"early_terminate.eta={eta}: expected a whole number of at least 2")
    if not all(type(value) is int and value >= 0 for value in (least, most, brackets)):
        raise ConfigError("early_terminate: min_iter, max_iter and s are whole numbers")
    first = least or most // eta**brackets
    if first < 1:
        raise ConfigError("early_terminate: expected min_iter of at least 1, or max_iter and s")
    return {"first": first, "eta": eta}


def _command(content: Mapping[str, Any]) -> list[str]:
    macros = {"${env}": "/usr/bin/env", "${interpreter}": sys.executable, "${program}": content.get("program")}
    given = content.get("command") or DEFAULT
    words = [str(word) for word in given] if isinstance(given, list | tuple) else []
    if ARGUMENTS not in words:
        raise ConfigError(f"command: expected {ARGUMENTS} in it, since the doors take key=value")
    words = [str(macros.get(word, word)) for word in words]
    if strange := [word for word in words if word.startswith("${") and word != ARGUMENTS]:
        raise ConfigError(f"command: {strange[0]} is for W&B's own agent; here: {', '.join([*macros, ARGUMENTS])}")
    return words


def settings(plan: Plan, params: Mapping[str, str], overrides: Sequence[str]) -> list[str]:
    """A trial's key=value: the file's constants, what was chosen, and the user's own, of which the last one counts."""
    return [f"{key}={value}" for key, value in {**plan.constants, **params}.items()] + list(overrides)


def command(plan: Plan, params: Mapping[str, str], overrides: Sequence[str], run: Path) -> list[str]:
    """A trial's command; the folder that the file names is the agent's."""
    words = [word for word in plan.command if not word.startswith("run=")]
    at = words.index(ARGUMENTS)
    return [*words[:at], *settings(plan, params, overrides), f"run={run}", *words[at + 1 :]]


def check(plan: Plan, overrides: Sequence[str]) -> None:
    """Loads the configuration with every value of every parameter, once, before anything runs.

    Raises:
        ConfigError: a key that conf/ does not have, or a value that it, a game or a chain refuses.
    """
    keys = [override.partition("=")[0] for override in overrides]
    if swept := [key for key in keys if key in plan.space]:
        raise ConfigError(f"{swept[0]} is what {plan.path} searches: leave it out")
    if owned := [key for key in (*keys, *plan.space) if key in ("run", "restart")]:
        raise ConfigError(f"{owned[0]}=: every trial has its own folder; out=FOLDER moves the whole sweep")
    load(overrides)
    for params in _probes(plan.space):
        try:
            rules(load(settings(plan, params, overrides)))
        except ValueError as error:
            raise ConfigError(f"{plan.path}: {error}") from None


def rules(config: Mapping[str, Any]) -> None:
    """Refuses a game and chains that cannot be, as far as they can be told without the data and the networks."""
    Game(**config["game"])
    for chain in config["chains"].values():
        build_chain(**chain)


def _probes(space: Mapping[str, list[str] | Range]) -> Iterator[dict[str, str]]:
    """Every value of every parameter, the others at their first: all of them are points of the search."""
    words = {k: v if isinstance(v, list) else [str(v.low), str(v.high)] for k, v in space.items()}
    first = {key: values[0] for key, values in words.items()}
    for key, values in words.items():
        yield from ({**first, key: word} for word in values)
