"""What signals do to the train command, and what SLURM is told then, with a stand-in for scontrol (test_cluster.py: SLURM)."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from gibbsnet import cluster
from gibbsnet.__main__ import main
from gibbsnet.config import ConfigError
from gibbsnet.modules import GibbsNet

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name
)


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    """No SLURM but the test's."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Writes down what it is asked, and succeeds unless told to fail."""

    def stand_in(answer="exit 0"):
        program = tmp_path / "bin" / "scontrol"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\n{answer}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        return lambda: (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []

    return stand_in


def train_until(step, number, monkeypatch, arguments):
    """The train command's exit code; the signal comes in the middle of a batch."""
    contest = GibbsNet.contest

    def disturbed(self, *given):
        if int(self.step) == step:
            os.kill(os.getpid(), number)
        return contest(self, *given)

    monkeypatch.setattr(GibbsNet, "contest", disturbed)
    code = main(["train", "model=ali", *arguments])
    monkeypatch.setattr(GibbsNet, "contest", contest)
    return code


@SIGNALS
def test_a_signal_ends_a_training_with_its_exit_code_and_a_checkpoint(
    tmp_path, quick, monkeypatch, capsys, scontrol, number
):
    run, asked = tmp_path / "mine", scontrol()
    assert train_until(13, number, monkeypatch, [f"run={run}", *quick]) == 128 + number
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 14
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"{run}: {number.name} at step 14; the same command goes on from there"
    assert asked() == []


def test_a_warned_job_is_queued_again(tmp_path, quick, monkeypatch, capsys, scontrol):
    run, asked = tmp_path / "mine", scontrol()
    # An interactive job: Lightning then asks for no ranks.
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert train_until(13, signal.SIGUSR1, monkeypatch, [f"run={run}", *quick]) == 128 + signal.SIGUSR1
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: SIGUSR1 at step 14; job 17 is to go back into the queue"
    assert asked() == ["requeue 17"]
    assert train_until(16, signal.SIGTERM, monkeypatch, [f"run={run}", *quick]) == 128 + signal.SIGTERM
    assert asked() == ["requeue 17"], "whoever ends a job decides whether it goes on"


def test_a_task_of_an_array_is_queued_again_alone(monkeypatch, scontrol, capsys):
    asked = scontrol()
    for name, value in (("JOB_ID", "20"), ("ARRAY_JOB_ID", "17"), ("ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    cluster.go_on(signal.SIGUSR1, "stopped")
    assert capsys.readouterr().out == "stopped; job 17_3 is to go back into the queue\n"
    assert asked() == ["requeue 17_3"]


def test_the_request_is_told_though_it_ends_the_job_at_once(monkeypatch, scontrol):
    scontrol("kill -KILL $PPID")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    code = "import signal; from gibbsnet import cluster; cluster.go_on(signal.SIGUSR1, 'stopped')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "stopped; job 17 is to go back into the queue\n")


@pytest.mark.parametrize(
    ("answer", "reason"), [("echo not permitted >&2; exit 1", "not permitted"), ("exit 1", "failed")]
)
def test_a_refusal_is_told(monkeypatch, scontrol, capsys, answer, reason):
    scontrol(answer)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    cluster.go_on(signal.SIGUSR1, "stopped")
    before, said = capsys.readouterr().out.splitlines()
    assert before == "stopped; job 17 is to go back into the queue"
    assert "not queued again" in said and reason in said and "submit it again" in said


def test_a_missing_scontrol_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    cluster.go_on(signal.SIGUSR1, "stopped")
    assert "not queued again" in capsys.readouterr().out


def test_lightning_s_own_handlers_are_off_under_slurm(monkeypatch):
    assert cluster.plugins(2, 1) == []
    tasks = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "JOB_ID": "17", "JOB_NAME": "gibbsnet"}
    for name, value in tasks.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    (environment,) = cluster.plugins(2, 1)
    assert not environment.auto_requeue and environment.world_size() == 2
    for devices, nodes in ((4, 1), (2, 3)):
        with pytest.raises(ConfigError, match=f"trainer.devices={devices} trainer.num_nodes={nodes}: .*HINT"):
            cluster.plugins(devices, nodes)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ConfigError, match="ntasks-per-node=2"):
        cluster.plugins(2, 1)
