"""Two processes that train together, forked from this one: the imports, most of a process's start, are already done."""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "NODE_RANK",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "SLURM_",
    "TORCHELASTIC_",
    "PMI_",
    "WANDB_SERVICE",  # this process's own, which would hold a killed one's run in use
)


def pair(folder: Path, work: Callable[[int], object], patience: float = 600) -> list[object]:
    """work(rank) on two ranks over gloo; what each returned, the exception it raised, or the code it was killed with."""
    folder.mkdir(parents=True, exist_ok=True)
    port, fork = free_port(), multiprocessing.get_context("fork")
    processes = [fork.Process(target=_rank, args=(rank, port, folder / f"rank{rank}", work)) for rank in range(2)]
    for process in processes:
        process.start()
    end = time.monotonic() + patience
    for process in processes:
        process.join(max(0, end - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of two ranks still hung after {patience} s"
    return [_result(folder / f"rank{rank}", process.exitcode) for rank, process in enumerate(processes)]


def _rank(rank: int, port: int, out: Path, work: Callable[[int], object]) -> None:
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        del os.environ[name]
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(None)  # coverage's, whose record this process would not write
    torch.set_num_threads(1)
    try:
        result = work(rank)
    except BaseException as error:
        traceback.print_exc()
        result = RuntimeError(f"{type(error).__name__}: {error}")
    out.write_bytes(pickle.dumps(result))


def _result(out: Path, code: int | None) -> object:
    return pickle.loads(out.read_bytes()) if out.exists() else code


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    """For a process of its own: this code, one thread, loopback, and nothing that another launcher left behind."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    mine = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return kept | mine | more


def torchrun(*arguments: str) -> list[str]:
    """The command line of two processes on one node."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "gibbsnet",
        *arguments,
    ]


def start(command: list[str], **more: str) -> subprocess.Popen:
    """The command in a session of its own, its output piped."""
    return subprocess.Popen(command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)  # fmt: skip


def end(process: subprocess.Popen) -> None:
    """Ends whatever is left of a command and of what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def until(condition: Callable[[], object], patience: float = 300, every: float = 0.02) -> object:
    """Waits for a condition to hold; what it gave."""
    give_up = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(every)
    return value
