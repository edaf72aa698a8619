"""Which trial comes next, and what came of those before: the only place that knows Optuna."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..files import replace
from .file import Plan, Range

GOALS = {"minimize": min, "maximize": max}


class Search:
    """A search that lies in a file, so that it outlives the process.

    What is tried next depends on the trials so far alone: the sampler of trial n is seeded by n, and an interrupted search goes
    on as if nothing had happened.

    Arguments:
        plan: what is searched.
        folder: where the search lies, as study.log.
        overrides: the user's own settings; with the plan they say which search it is.

    Raises:
        ConfigError: Optuna is missing, or the folder holds another search.
    """

    def __init__(self, plan: Plan, folder: Path, overrides: list[str]):
        self.plan, self.optuna = plan, _optuna()
        log = _mended(folder / "study.log")
        known = {
            "study_name": "sweep",
            "storage": self.optuna.storages.JournalStorage(self.optuna.storages.journal.JournalFileBackend(str(log))),
            "pruner": self._pruner(),
        }
        old = log.stat().st_size > 0
        self.study = self.optuna.load_study(**known) if old else self.optuna.create_study(direction=plan.goal, **known)
        self._claim({**plan.source, "overrides": overrides}, folder)

    def _claim(self, identity: Mapping[str, Any], folder: Path) -> None:
        known = self.study.user_attrs.get("identity")
        if known is None:
            self.study.set_user_attr("identity", identity)
        elif changed := [key for key in identity if known.get(key) != identity[key]]:
            raise ConfigError(
                f"{folder} holds another sweep ({', '.join(changed)}): choose another out=FOLDER, or remove that one"
            )

    @property
    def finished(self) -> int:
        """How many trials have come to an end, good or bad."""
        return sum(trial.state.is_finished() for trial in self.study.trials)

    def ask(self) -> tuple[Any, dict[str, str]]:
        """The next trial and its parameters as words; one that was cut off comes first."""
        cut = [trial for trial in self.study.trials if not trial.state.is_finished()]
        self.study.sampler = self._sampler(cut[0].number if cut else len(self.study.trials))
        trial = self.optuna.trial.Trial(self.study, cut[0]._trial_id) if cut else self.study.ask()
        return trial, {key: _suggest(trial, key, space) for key, space in self.plan.space.items()}

    def report(self, trial: Any, values: list[float]) -> bool:
        """Tells the values of the metric so far, in order; whether the trial lags behind and should be stopped.

        It depends on the values alone, not on how many of them come at a time.
        """
        known = self.study.trials[trial.number]
        told = known.intermediate_values
        if known.user_attrs.get("lags"):  # decided before an interruption; the pruner judges each rung but once
            return True
        for k, value in enumerate(values, 1):
            if k not in told:
                trial.report(value, k)
            if k >= max(told, default=0) and trial.should_prune():
                trial.set_user_attr("lags", True)
                return True
        return False

    def tell(self, trial: Any, values: list[float], stopped: bool, error: str | None) -> dict[str, Any]:
        """Records how a trial ended; its record. A stopped one is judged by what it had reported until then."""
        state = self.optuna.trial.TrialState
        if stopped:
            values = list(self.study.trials[trial.number].intermediate_values.values())
        best = GOALS[self.plan.goal](values) if values and not error else None
        trial.set_user_attr("value", best)
        trial.set_user_attr("error", error)
        # A grid's own sampler would now end Study.optimize after the last point; there is no such loop here.
        self.study.sampler = self.optuna.samplers.RandomSampler()
        if error or stopped:
            self.study.tell(trial, state=state.FAIL if error else state.PRUNED)
        else:
            self.study.tell(trial, best)
        return self.records()[trial.number]

    def records(self) -> list[dict[str, Any]]:
        """Every trial as plain values: number, state (complete, stopped, failed, interrupted), params, value, error."""
        words = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}
        return [
            {
                "number": trial.number,
                "state": words.get(trial.state.name, "interrupted"),
                "params": {key: str(value) for key, value in trial.params.items()},
                "value": trial.user_attrs.get("value"),
                "reports": len(trial.intermediate_values),
                "error": trial.user_attrs.get("error"),
            }
            for trial in self.study.trials
        ]

    def _sampler(self, seed: int) -> Any:
        samplers = self.optuna.samplers
        if self.plan.method == "grid":
            return samplers.GridSampler(self.plan.space, seed=0)  # which point is the trial's number: one order for all
        return (samplers.RandomSampler if self.plan.method == "random" else samplers.TPESampler)(seed=seed)

    def _pruner(self) -> Any:
        """W&B's hyperband is one bracket of successive halving, and so is this: the same rungs, counted in reports."""
        if not self.plan.early:
            return self.optuna.pruners.NopPruner()
        return self.optuna.pruners.SuccessiveHalvingPruner(self.plan.early["first"], self.plan.early["eta"])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("a local sweep needs optuna: pip install optuna, or the extra gibbsnet[sweep]") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _mended(path: Path) -> Path:
    """The search's record as Optuna can go on with it, for the only process that is at work there.

    A power loss may have torn its last line, behind which Optuna would write on; a kill may have left Optuna's own lock, for
    which it would wait.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    lines = path.read_bytes() if path.exists() else b""
    if not lines.endswith(b"\n"):
        replace(path, lambda draft: draft.write_bytes(lines[: lines.rfind(b"\n") + 1]))
    return path


def _suggest(trial: Any, key: str, space: list[str] | Range) -> str:
    if isinstance(space, list):
        return trial.suggest_categorical(key, space)
    if space.whole:
        return str(trial.suggest_int(key, space.low, space.high))
    return str(trial.suggest_float(key, space.low, space.high, step=space.step, log=space.log))


def finite(value: Any) -> bool:
    """Whether it is a number that can be compared."""
    return isinstance(value, int | float) and math.isfinite(value)
