r"""Whether interruption leaves a trace: python -m benchmarks.soak [--runs N]

Short trainings on digits are sent signals at random moments, several times each, and started again with the same command until
they are done.  Each must then hold, byte for byte, the record of the same training that nobody disturbed, and in both of its
checkpoints bit for bit the same weights, averages, optimiser, chains and best values.

Each training is a process of its own, forked from this one, which has imported everything and computed nothing: so a start takes
no ten seconds of imports, and a moment is as likely to lie in a checkpoint's writing as anywhere else.  Everything random here
comes from --seed, but when a signal meets a process depends on the machine.
"""

import argparse
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

import gibbsnet.evaluate
import gibbsnet.train  # noqa: F401  what a child would import
from gibbsnet.__main__ import main as gibbsnet_main

RUNS, KILLS, STEPS = 50, 3, 30
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMON = ["data=digits", f"steps={STEPS}", "every.log=1", "every.validate=15", "every.checkpoint=3", "tracking.mode=disabled",
          "trainer.accelerator=cpu", "trainer.progress=false", "trainer.threads=1"]  # fmt: skip
SWEPT = ["model=gibbsnet", "chains.unclamped.steps=[1,3]"]
MODELS = {
    "ALI": ["model=ali"],
    "HALI": ["model=hali"],
    "GibbsNet": ["model=gibbsnet", "chains.unclamped.steps=[0,3]"],
    "GibbsNet, persistent chains": [*SWEPT, "chains.unclamped.persistent=0.5"],
    "GibbsNet, relativistic, from data": [*SWEPT, "chains.unclamped.start_from_data=0.5", "game.loss=relativistic"],
}


@dataclass
class Tally:
    """What happened to the runs of one model: signals that ended a process, starts after them, and what was not equal."""

    runs: int = 0
    kills: Counter = field(default_factory=Counter)
    resumes: int = 0
    wrong: list[str] = field(default_factory=list)


class Soak:
    """The trainings of one soak, in a folder of their own."""

    def __init__(self, folder: Path, kills: int, seed: int):
        self.folder, self.kills, self.chance = folder, kills, random.Random(seed)
        self.seconds: dict[str, float] = {}

    def start(self, run: Path, model: str) -> int:
        """Forks a process that trains into the run's folder; its id."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            with self.log(run).open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            code = gibbsnet_main(["train", *COMMON, *MODELS[model], f"judges={self.folder / 'judges'}", f"run={run}"])
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        finally:
            sys.stdout.flush()
            os._exit(code)

    def log(self, run: Path) -> Path:
        """What a run's processes said."""
        return self.folder / f"{run.name}.log"

    def undisturbed(self, model: str) -> Path:
        """The training that nobody disturbs; how long it takes says when to disturb the others."""
        run = self.folder / f"undisturbed {model}"
        began = time.monotonic()
        if code := wait(self.start(run, model)):
            raise SystemExit(
                f"the undisturbed training of {model} failed with code {code}:\n{self.log(run).read_text()}"
            )
        self.seconds[model] = time.monotonic() - began
        return run

    def await_moment(self, run: Path, model: str, pid: int, step: int) -> None:
        """Until the record has come to a step, and for a random part of a second, or of some steps, beyond."""
        while rows(run) < step and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0, 3 * self.seconds[model] / STEPS))

    def disturbed(self, run: Path, model: str, tally: Tally) -> str:
        """One training, ended by signals and started again until it is done; what went wrong, or nothing."""
        for target in [*sorted(self.chance.choices(range(STEPS), k=self.kills)), None]:
            pid = self.start(run, model)
            number = None if target is None else self.chance.choice(SIGNALS)
            if number:
                self.await_moment(run, model, pid, target)
                os.kill(pid, number)  # it may have ended, but nobody has waited for it: its id is still its own
            code = wait(pid)
            if code == 0:
                return ""
            if number is None:
                break
            tally.kills[number.name] += 1
            tally.resumes += 1
        return f"{run.name} did not go on (code {code}): {self.log(run).read_text().strip().splitlines()[-1:]}"


def rows(run: Path) -> int:
    """How many lines a run's record has."""
    record = run / "history.jsonl"
    return record.read_bytes().count(b"\n") if record.exists() else 0


def wait(pid: int) -> int:
    """The code a process ended with, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def differences(a: Path, b: Path) -> list[str]:
    """What two finished runs do not have in common; times are not looked at."""
    found = [] if (a / "history.jsonl").read_bytes() == (b / "history.jsonl").read_bytes() else ["history.jsonl"]
    for name in ("last.ckpt", "best.ckpt"):
        left, right = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (a, b))
        parts = ("state_dict", "optimizer_states", "kept", "global_step", "callbacks")
        found += [f"{name}: {part}" for part in parts if not equal(left[part], right[part])]
    return found


def equal(a: object, b: object) -> bool:
    """Bit for bit, but for what the clock says."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a if key != "Speed")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def soak(folder: Path, runs: int, kills: int, seed: int) -> dict[str, Tally]:
    """The whole soak: models in turn, each compared with its undisturbed training."""
    trainings, tallies, whole = Soak(folder, kills, seed), {}, {}
    for number in range(runs):
        model = list(MODELS)[number % len(MODELS)]
        tally = tallies.setdefault(model, Tally())
        whole[model] = whole.get(model) or trainings.undisturbed(model)
        run = folder / f"run {number}"
        complaint = trainings.disturbed(run, model, tally)
        unequal = [] if complaint else differences(whole[model], run)
        tally.runs += 1
        tally.wrong += (
            [complaint] if complaint else [f"run {number} differs in {', '.join(unequal)}"] if unequal else []
        )
        print(f"run {number + 1}/{runs}: {model}: {tally.wrong[-1] if complaint or unequal else 'equal'}", flush=True)
        shutil.rmtree(run, ignore_errors=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The tallies as Markdown."""
    names = [number.name for number in SIGNALS]
    total = Tally()
    for tally in tallies.values():
        total.runs, total.kills, total.resumes = (
            total.runs + tally.runs,
            total.kills + tally.kills,
            total.resumes + tally.resumes,
        )
        total.wrong += tally.wrong
    head = ["model", "runs", *names, "resumes", "equal at the end"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, tally in {**tallies, "all": total}.items():
        counts = [
            tally.runs,
            *(tally.kills[n] for n in names),
            tally.resumes,
            f"{tally.runs - len(tally.wrong)} of {tally.runs}",
        ]
        lines.append([name, *map(str, counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(path: Path, tallies: dict[str, Tally], args: argparse.Namespace, seconds: float) -> None:
    """The table and how it came about."""
    wrong = [line for tally in tallies.values() for line in tally.wrong]
    path.write_text(
        "# Soak: killed at random moments\n\n"
        f"`python -m benchmarks.soak` (seed {args.seed}, {args.kills} signals a run, {STEPS} steps, a checkpoint every 3 "
        "steps and a row every step)\n"
        f"on {platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, {seconds / 60:.0f} minutes. "
        'Columns count processes that a signal ended; "equal" is\n'
        "history.jsonl byte for byte, and weights, averages, optimiser, chains and best values of last.ckpt and best.ckpt bit "
        "for bit, as without any\nsignal: `benchmarks/soak.py`.\n\n"
        f"{table(tallies)}\n" + "".join(f"\n- {line}" for line in wrong)
    )


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description="Whether interruption leaves a trace.")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"trainings; by default {RUNS}")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"most signals to each; by default {KILLS}")
    parser.add_argument("--seed", type=int, default=0, help="of models' signals and moments")
    parser.add_argument("--out", type=Path, help=f"the table; by default docs/soak.md after {RUNS} runs, else nowhere")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Soaks, prints, writes; 1 if anything was not as it is without interruption."""
    args = arguments(given)
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tempfile.tempdir = folder  # what killed processes leave half-written goes with it
        try:
            tallies = soak(Path(folder), args.runs, args.kills, args.seed)
        finally:
            tempfile.tempdir = None
    print(f"\n{table(tallies)}")
    out = args.out or (Path("docs/soak.md") if args.runs == RUNS else None)
    if out:
        write(out, tallies, args, time.monotonic() - began)
    return int(any(tally.wrong for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
