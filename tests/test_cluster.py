"""Jobs on a real SLURM of one node: warned, queued again, cancelled, and ending where an undisturbed job ends.

make test-cluster installs SLURM and runs this.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.one_node import OneNode, free_ports, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(missing()), reason=f"SLURM is not installed (make test-cluster): no {', '.join(missing())}"
    ),
]
STEPS = 400
LIMIT = 600  # seconds for anything to happen, on a machine however busy
BLOCKED = 1 << (signal.SIGUSR1 - 1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with OneNode(tmp_path_factory.mktemp("slurm")) as started:
        yield started
    assert not started.processes()


@pytest.fixture(scope="module")
def submit(cluster, judges):
    """Submits a training of two tasks on CPUs, by the script's own lines, into a run folder; the job's number."""

    def submit(run: Path) -> str:
        settings = [f"run={run}", f"steps={STEPS}", f"judges={judges}", "model=gibbsnet", "chains.unclamped.persistent=0.5",
                    "every.log=10", f"every.validate={STEPS}", f"every.checkpoint={STEPS}", "trainer.accelerator=cpu",
                    "tracking.mode=disabled"]  # fmt: skip
        where = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{cluster.environment['PATH']}"}
        where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "GLOO_SOCKET_IFNAME": "lo"}
        options = ["--gpus-per-node=0", f"--output={cluster.folder}/%j.out"]
        return cluster.sbatch(*options, str(ROOT / "slurm/train.sbatch"), *settings, cwd=ROOT, **where)

    return submit


@pytest.fixture(scope="module")
def whole(cluster, submit, tmp_path_factory):
    """The run of an undisturbed job."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    cluster.wait_for(submit(run), LIMIT, JobState="COMPLETED")
    assert json.loads((run / "train.json").read_text())["ranks"] == 2
    return run


def checkpoint(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same(a, b):
    left, right = checkpoint(a), checkpoint(b)
    assert left["global_step"] == right["global_step"] == STEPS
    assert left["state_dict"].keys() == right["state_dict"].keys()
    assert all(torch.equal(value, right["state_dict"][name]) for name, value in left["state_dict"].items())
    assert (a / "history.jsonl").read_bytes() == (b / "history.jsonl").read_bytes()


def wait_until_under_way(cluster, run, step):
    """Until the history shows a step beyond this one."""
    history = run / "history.jsonl"
    cluster.wait(
        lambda: history.exists() and history.read_text().count("\n") > step // 10, LIMIT, f"step {step} of {run}"
    )


def blocked(pid):
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return bool(int(lines["SigBlk"], 16) & BLOCKED)


def start_now(cluster, job):
    """SLURM lets a job that was queued again wait for two minutes."""
    cluster.run("scontrol", "update", f"jobid={job}", "StartTime=now")


def test_a_warned_job_is_queued_again_and_ends_where_an_undisturbed_one_ends(cluster, submit, whole, tmp_path):
    run, last = tmp_path / "warned", tmp_path / "warned/checkpoints/last.ckpt"
    job = submit(run)

    def importing():
        tasks = cluster.tasks(job)
        return len(tasks) == 2 and all(map(blocked, tasks))

    cluster.wait(importing, LIMIT, "both tasks to import")
    assert not (run / "config.yaml").exists(), "the warning is to come before the training"
    cluster.run("scancel", "--signal=USR1", job)
    cluster.wait_for(job, LIMIT, JobState="PENDING", Restarts="1")
    assert checkpoint(run)["global_step"] == 10, "the first batch after which the ranks agree"

    start_now(cluster, job)
    wait_until_under_way(cluster, run, 50)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.wait_for(job, LIMIT, JobState="PENDING", Restarts="2")
    assert 50 <= checkpoint(run)["global_step"] < STEPS and checkpoint(run)["global_step"] % 10 == 0
    written = last.stat().st_mtime_ns

    start_now(cluster, job)
    cluster.wait_for(job, LIMIT, JobState="COMPLETED", Restarts="2")
    assert last.stat().st_mtime_ns > written
    assert_same(run, whole)
    said = (cluster.folder / f"{job}.out").read_text()
    assert said.count(f"job {job} is to go back into the queue") == 2, (
        "one rank alone says and does it; the output goes on in one file"
    )


def test_a_cancelled_job_keeps_its_last_batch(cluster, submit, whole, tmp_path):
    run = tmp_path / "cancelled"
    job = submit(run)
    wait_until_under_way(cluster, run, 50)
    cluster.run("scancel", job)
    facts = cluster.wait_for(job, LIMIT, JobState="CANCELLED")
    assert facts["Restarts"] == "0"
    cluster.wait(lambda: not cluster.run("squeue", "-h").strip(), LIMIT, "the cancelled job to be gone")
    assert 50 <= checkpoint(run)["global_step"] < STEPS
    cluster.wait_for(submit(run), LIMIT, JobState="COMPLETED")
    assert_same(run, whole)
