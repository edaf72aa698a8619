"""The real `wandb sweep` and `wandb agent` against a stand-in for the service on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.wandb_service import ENTITY, Service

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TINY = {
    "data": "ring",
    "steps": 20,
    "every.log": 5,
    "every.validate": 20,
    "trainer.accelerator": "cpu",
    "trainer.progress": False,
}


def environment(url, home):
    """Nothing of this process's ranks, cluster or tracker, and every folder of W&B's below `home`."""
    strangers = ("WANDB_", "SLURM_", "MASTER_", "TORCHELASTIC_", "PYTEST_")
    plain = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(strangers) and k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    places = {f"WANDB_{name}": str(home / "tracker") for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR")}
    path = os.pathsep.join([str(ROOT / "src"), plain.get("PYTHONPATH", "")]).strip(os.pathsep)
    return plain | places | {
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": "x" * 40,
        "HOME": str(home),
        "NETRC": str(home / "netrc"),
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip


def wandb(service, *arguments, seconds=1800):
    """One call of W&B's command line; what it said."""
    home = Path.cwd()
    (home / "tracker").mkdir(exist_ok=True)
    called = subprocess.run(
        [sys.executable, "-m", "wandb", *arguments],
        env=environment(service.url, home),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return called.returncode, called.stdout + called.stderr


def searched(trials, command=None, stop=None, name="steps"):
    """The service after an agent has worked through these trials of a sweep file of the project."""
    with Service([{**TINY, **trial} for trial in trials], stop) as service:
        file = ROOT / "sweeps" / f"{name}.yaml"
        if command:
            content = yaml.safe_load(file.read_text())
            file = Path(f"{name}.yaml")
            file.write_text(yaml.safe_dump(content | {"command": command(content["command"])}))
        code, said = wandb(service, "sweep", str(file))
        assert code == 0 and f"wandb agent {ENTITY}/gibbsnet/sweep1" in said, said
        code, said = wandb(service, "agent", f"{ENTITY}/gibbsnet/sweep1")
        assert code == 0, said
        assert service.handed == [f"trial{k}" for k in range(len(trials))], said
        return service, said


def run(k, name="steps"):
    return Path("runs", "sweeps", name, f"trial{k}")


def config(k):
    return yaml.safe_load((run(k) / "config.yaml").read_text())


def test_an_agent_works_through_a_sweep_and_past_a_failing_trial():
    trials = [{"chains.unclamped.steps": -1, "seed": 1}, {"chains.unclamped.steps": [0, 3], "seed": 2}]
    service, said = searched(trials)
    assert service.runs.keys() == {"trial1"}, f"the first one's configuration is refused before it opens a run: {said}"
    assert "chains.unclamped.steps" in said and "-1" in said
    tracked = service.runs["trial1"]
    assert (tracked.sweep, tracked.exit_code, tracked.opened >= 1) == ("sweep1", 0, True)
    assert config(1)["chains"]["unclamped"]["steps"] == [0, 3] and config(1)["seed"] == 2
    assert any("val/distance" in row for row in tracked.history), "what the sweep's metric names has arrived"
    assert torch.load(run(1) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 20
    assert (run(1) / "wandb_id.txt").read_text().strip() == "trial1"


def torchrun(command):
    """The file's command with two processes in place of one."""
    return ["${env}", "torchrun", "--standalone", "--nproc_per_node=2", *command[2:]]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun", "devices"])
def test_only_the_first_of_two_processes_opens_a_run(how):
    trials = [{"seed": seed, "trainer.strategy": "ddp", "trainer.devices": 2} for seed in (1, 2)]
    service, said = searched(trials, torchrun if how == "torchrun" else None)
    assert service.runs.keys() == {"trial0", "trial1"}, said
    for k in (0, 1):
        tracked = service.runs[f"trial{k}"]
        assert (tracked.sweep, tracked.exit_code) == ("sweep1", 0)
        assert len(list((run(k) / "wandb").glob("run-*"))) == 1, "one process has a run, the other has none"
        evaluations = [row for row in tracked.history if "val/distance" in row]
        assert len(evaluations) == 1 and config(k)["seed"] == k + 1


@pytest.mark.slow
def test_a_trial_that_the_service_stops_keeps_its_checkpoint_and_the_next_one_runs():
    long = {"steps": 100000, "every.validate": 20, "every.checkpoint": 20}
    service, said = searched([long | {"seed": 1}, {"seed": 2}], stop={"trial0": 10})
    reached = torch.load(run(0) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 20 <= reached < 100000, said
    assert service.runs["trial1"].exit_code == 0, said
