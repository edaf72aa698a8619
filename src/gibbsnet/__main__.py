"""python -m gibbsnet COMMAND [key=value ...]: the commands of the project."""

import os
import signal
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # A job's warning may come during the long imports, where it would kill: it waits until a training listens (`Stop`).
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

from .config import AFTERWARDS, GROUPS, ConfigError, choices, load, read, takes
from .files import home

COMMANDS = {
    "prepare": "read (or download) a data set and train its judge",
    "train": "train a model; go on where an interrupted run stopped",
    "evaluate": "score a trained run and draw its pictures",
    "sample": "draw chains from a trained run",
    "report": "one page about every run below a folder",
    "sweep": "run a W&B sweep file on this machine, without a server",
}
EXAMPLES = {
    "prepare": ["data=digits", "data=mnist data.root=$HOME/datasets"],
    "train": ["", "model=ali data=mnist steps=2000 seed=1 run=runs/mine", "model=hali optim.lr=5e-4 run=runs/hali",
              "data=folder data.path=my/images run=runs/own", "trainer.precision=bf16-mixed trainer.devices=2"],
    "evaluate": ["run=runs/mine", "run=runs/mine evaluation.samples=1000", "run=runs/mine evaluation.split=validation"],
    "sample": ["run=runs/mine chains.unclamped.steps=100", "run=runs/mine clamp.hole=left",
               "run=runs/two mode=daydreaming"],
    "report": ["runs out=reports", "runs out=reports records=docs", "runs out=reports records="],
    "sweep": ["sweeps/steps.yaml", "sweeps/bayes.yaml trials=8 steps=2000 tracking.mode=disabled",
              "sweeps/steps.yaml data=ring out=runs/sweeps/ring"],
}  # fmt: skip
REPORT_KEYS = [
    "",
    "Keys:",
    "  out=FOLDER      where the page goes: reports",
    "  records=FOLDER  pages of recorded results, shown below the runs: this project's docs, where they lie; records= shows none",
]


def usage(command: str | None = None) -> str:
    """What a command does, what it may be told, and examples."""
    if command is None:
        lines = [f"  {name:10} {text}" for name, text in COMMANDS.items()]
        return "\n".join(
            ["usage: python -m gibbsnet COMMAND [key=value ...]", "", *lines, "", "COMMAND --help says more."]
        )
    groups = [f"  {group:11} {', '.join(choices(group))}" for group in GROUPS]
    examples = [f"  python -m gibbsnet {command} {example}".rstrip() for example in EXAMPLES[command]]
    keys = [
        "",
        "Groups, group=name (conf/<group>/<name>.yaml):",
        *groups,
        "",
        "Keys, a.b=value: see conf/config.yaml and the files above.",
        *["trials=N in all, out=FOLDER; the other keys are every trial's."] * (command == "sweep"),
    ]
    if command == "report":
        keys = REPORT_KEYS
    if command in AFTERWARDS:
        keys = ["", f"After the training {takes(command)}: see conf/config.yaml."]
    return "\n".join([f"{command}: {COMMANDS[command]}", "", "Examples:", *examples, *keys])


def run(command: str, arguments: Sequence[str]) -> None:
    """One command; its modules are imported only now, so that help and mistakes answer at once."""
    if command == "report":
        from .report import report, usual

        folders, said = _report_arguments(arguments)
        records = said["records"] or None if "records" in said else usual()
        print(report(folders[0], home(said.get("out", "reports")), folders if len(folders) > 1 else None, records))
        return
    if command == "sweep":
        from .sweep import sweep

        sweep(arguments)
        return
    trained = read(_run_of(arguments)) if command in AFTERWARDS else None
    config = load(arguments, into=trained, command=command)
    module = __import__(f"gibbsnet.{command}", fromlist=[command])
    getattr(module, command)(config)


def _run_of(arguments: Sequence[str]) -> str:
    named = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    if not named:
        raise ConfigError("which run? Say run=FOLDER, for example run=runs/mine")
    return named[-1]  # as everywhere the last one counts


def _report_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The folders to look in, and what was said of out= and records=."""
    # A folder's name may have a "=", as those of the benchmarks' runs have.
    settings = [a for a in arguments if "=" in a and not os.path.isdir(a)]
    said = dict(a.split("=", 1) for a in settings)
    if unknown := [key for key in said if key not in ("out", "records")]:
        raise ConfigError(f"unknown key {unknown[0]!r}: report takes folders, out=FOLDER and records=FOLDER")
    if said.get("out") == "":
        raise ConfigError("out=: expected a folder")
    return [a for a in arguments if a not in settings] or ["runs"], said


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or one line on the standard error and 1; mistakes of this program itself keep their traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(usage())
        return 0
    if command not in COMMANDS:
        print(f"gibbsnet: unknown command {command!r}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(arguments):
        print(usage(command))
        return 0
    if not _first():
        # What is to be told, the first process tells.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        run(command, arguments[1:])
    except KeyboardInterrupt as stopped:
        # As a shell says it: a pipeline must not take the stage for done.
        return 128 + (stopped.args or (signal.SIGINT,))[0]
    except (ValueError, OSError, RuntimeError) as error:
        if not clear(error):
            raise
        print(f"gibbsnet {command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _first() -> bool:
    """Whether this is the first of the processes that torchrun, srun or Lightning started together."""
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ), "0")
    return int(rank) == 0 and int(os.environ.get("LOCAL_RANK", 0)) == 0


def clear(error: Exception) -> bool:
    """Whether an error was raised by this project to be read by its user, as its own ValueErrors and the system's are."""
    if isinstance(error, ConfigError | OSError):
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return (
        trace is not None
        and "gibbsnet" in trace.tb_frame.f_globals.get("__name__", "")
        and type(error) is not RuntimeError
    )


if __name__ == "__main__":
    sys.exit(main())
