"""SLURM: what Lightning is told of it, and how a job is put back into the queue."""

import os
import signal
import subprocess

from pytorch_lightning.plugins.environments import SLURMEnvironment

from .config import ConfigError

PATIENCE = 180  # seconds in which a file server may still think that the node which failed holds its locks


def plugins(devices: int | str | list, nodes: int) -> list[SLURMEnvironment]:
    """For the Trainer: under SLURM an environment without Lightning's own handlers, which save in the middle of a batch.

    Raises:
        ConfigError: the job's tasks are not laid out as Lightning wants them, or are not as many as the devices.
    """
    if not SLURMEnvironment.detect():
        return []
    try:
        environment = SLURMEnvironment(auto_requeue=False)
        if isinstance(devices, int):
            environment.validate_settings(devices, nodes)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"trainer.devices={devices} trainer.num_nodes={nodes}: {error}") from error
    return [environment]


def job() -> str | None:
    """The job this process belongs to, as scontrol names it; None outside of SLURM."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # one task of an array: the number alone may mean all of them
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def go_on(caught: signal.Signals, stopped: str) -> None:
    """Says how a training that a signal stopped goes on, and queues its job again where that is up to us; `stopped`: by what.

    SIGUSR1 is a job's warning that its time is nearly up: the job is queued again, so only one process may call this.
    After SIGTERM whoever sent it decides: a preempted job is queued again by SLURM, a cancelled one is not wanted.
    """
    number = job()
    if number is None or caught != signal.SIGUSR1:
        print(f"{stopped}; the same command goes on from there", flush=True)
        return
    # Said before it is done: that the request is granted is the end of the job, and of its output.
    print(f"{stopped}; job {number} is to go back into the queue", flush=True)
    if refused := _requeue(number):
        print(f"job {number} is not queued again ({refused}), submit it again", flush=True)


def _requeue(number: str) -> str | None:
    """The reason, if it did not work."""
    try:
        done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return " ".join(done.stderr.split()) or "scontrol failed" if done.returncode else None
