"""A run that is killed, or whose disk lies, goes on and ends where it would have ended anyway, to the last bit."""

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from gibbsnet import files
from gibbsnet.__main__ import main
from gibbsnet.callbacks.history import read
from gibbsnet.modules import GibbsNet
from tests.offline_run import read_offline
from tests.pair import end, start, until
from tests.test_callbacks import same
from tests.test_tracking import folders, untold

SWEPT = ["model=gibbsnet", "chains.unclamped.steps=[1,3]", "chains.unclamped.persistent=0.5", "chains.unclamped.learned=[z]",
         "chains.unclamped.rise=10", "game.lazy=3", "game.cycle=0.5", "game.whiten=0.5", "optim.floor_from=0.9"]  # fmt: skip


@pytest.fixture
def plain(quick, monkeypatch):
    """Settings without pictures, which take most of a short training's time."""
    monkeypatch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
    return quick


def load(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def trained(run, *settings):
    """A whole training in this process; its folder."""
    assert main(["train", f"run={run}", *settings]) == 0
    return run


def assert_equal(a, b):
    """Everything that a training leaves, but for its times: both checkpoints with all they hold, and the record."""
    for name in ("last", "best"):
        left, right = load(a, name), load(b, name)
        assert left.keys() == right.keys()
        for part in left.keys() - {"loops", "hparams_name"}:  # the loops count what this process did
            assert same(left[part], right[part]), (name, part)
    assert (a / "history.jsonl").read_bytes() == (b / "history.jsonl").read_bytes()


def test_every_row_holds_the_penalties_of_the_last_batch_that_took_them(tmp_path, plain, monkeypatch):
    """Rows come after batches 1, 3, 5, ..., counted from 0, and penalties are taken in batches 0, 4, 8, ..."""
    taken, update = {}, GibbsNet._update

    def spy(self, outcome, step):
        taken.update({step: float(outcome.diagnostics["penalty_x"])} if "penalty_x" in outcome.diagnostics else {})
        return update(self, outcome, step)

    monkeypatch.setattr(GibbsNet, "_update", spy)
    settings = [*plain, "model=ali", "steps=12", "every.log=2", "every.checkpoint=6", "game.lazy=4"]
    run = trained(tmp_path / "run", *settings)
    rows = [row for row in read(run / "history.jsonl") if "train/loss_critic" in row]
    assert sorted(taken) == [0, 4, 8]
    expected = {2 * k + 2: taken[(2 * k + 1) // 4 * 4] for k in range(6)}
    assert {row["step"]: row["train/penalty_x"] for row in rows} == pytest.approx(expected)
    # Gone on with from a checkpoint between two of them: batch 4 took them, the row of step 8 comes before batch 8.
    half = copy(run, tmp_path / "half")
    (half / "checkpoints" / "last.ckpt").unlink()
    trained(half, *settings)
    assert load(half, "previous")["global_step"] == 6
    assert_equal(run, half)


# A damaged checkpoint


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Payload:
    """What a stranger might put into a checkpoint: it makes a file as soon as it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def malicious(path):
    torch.save({"global_step": 20, "state_dict": Payload(path.parent / "owned")}, path)


DAMAGES = {
    "truncated": truncated,
    "garbage": lambda path: path.write_bytes(b"no checkpoint" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "malicious": malicious,
    "a plain pickle": lambda path: path.write_bytes(pickle.dumps(Payload(path.parent / "owned"))),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, judges):
    """A finished run and the settings that made it."""
    settings = ["model=ali", "steps=20", "every.log=5", "every.validate=20", "every.checkpoint=10", "tracking.mode=disabled",
                f"judges={judges}", "trainer.accelerator=cpu", "trainer.progress=false"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
        return trained(tmp_path_factory.mktemp("whole") / "run", *settings), settings


def copy(run, to):
    import shutil

    return Path(shutil.copytree(run, to))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, plain, whole, damage, capsys):
    run, settings = copy(whole[0], tmp_path / "run"), whole[1]
    DAMAGES[damage](run / "checkpoints" / "last.ckpt")
    damaged = (run / "checkpoints" / "last.ckpt").read_bytes()
    assert main(["train", f"run={run}", *settings]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert "last.ckpt" in line and "previous.ckpt" in line
    assert_equal(whole[0], run)
    assert load(run, "previous")["global_step"] == 10, "the damaged one did not take the whole one's place"
    assert (run / "checkpoints" / "last.damaged").read_bytes() == damaged
    assert not list(tmp_path.rglob("owned")), "a stranger's checkpoint ran its code"


@pytest.mark.parametrize("damage", ["truncated", "malicious"])
def test_two_damaged_checkpoints_are_one_line_and_nothing_is_lost(tmp_path, whole, damage, capsys):
    run, settings = copy(whole[0], tmp_path / "run"), whole[1]
    for name in ("last", "previous"):
        DAMAGES[damage](run / "checkpoints" / f"{name}.ckpt")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["train", f"run={run}", *settings]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in ("last.ckpt", "previous.ckpt", "restart=true"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.rglob("owned"))


def narrower(saved):
    name = next(n for n, w in saved["state_dict"].items() if w.ndim and len(w) > 1)
    return saved | {"state_dict": saved["state_dict"] | {name: saved["state_dict"][name][:1]}}


@pytest.mark.parametrize(
    "other",
    [narrower, lambda saved: {"global_step": 10}, lambda saved: {"global_step": 10, "state_dict": saved["state_dict"]},
     lambda saved: saved | {"state_dict": 3}, lambda saved: saved | {"state_dict": {"a": 3}}],
    ids=["other shapes", "no weights", "weights alone", "no mapping", "no tensors"],
)  # fmt: skip
def test_a_checkpoint_of_another_model_is_one_line_and_nothing_is_lost(tmp_path, plain, whole, other, capsys):
    run, settings = copy(whole[0], tmp_path / "run"), whole[1]
    last = run / "checkpoints" / "last.ckpt"
    torch.save(other(torch.load(run / "checkpoints" / "previous.ckpt", weights_only=True)), last)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["train", f"run={run}", *settings]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "last.ckpt is no checkpoint of this model" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    last.unlink()  # as the line says
    trained(run, *settings)
    assert_equal(whole[0], run)


def test_a_missing_last_checkpoint_is_the_one_before_it(tmp_path, plain, whole):
    run, settings = copy(whole[0], tmp_path / "run"), whole[1]
    (run / "checkpoints" / "last.ckpt").unlink()
    trained(run, *settings)
    assert_equal(whole[0], run)


def test_restart_begins_anew_where_everything_is_damaged(tmp_path, plain, whole):
    run, settings = copy(whole[0], tmp_path / "run"), whole[1]
    for name in ("last", "previous", "best"):
        truncated(run / "checkpoints" / f"{name}.ckpt")
    trained(run, *settings, "restart=true")
    assert_equal(whole[0], run)


def test_a_stranger_s_best_checkpoint_runs_no_code(tmp_path, whole, capsys):
    run = copy(whole[0], tmp_path / "run")
    malicious(run / "checkpoints" / "best.ckpt")
    for command in ("evaluate", "sample"):
        assert main([command, f"run={run}"]) == 1
        assert "best.ckpt" in capsys.readouterr().err
    assert not list(tmp_path.rglob("owned"))


# Power loss in the middle of writing


class PowerLoss(BaseException):
    pass


@pytest.mark.parametrize("moment", range(5))
def test_power_loss_while_a_checkpoint_is_written(tmp_path, plain, whole, moment, monkeypatch):
    """After each step of writing the first checkpoint (bytes, name) and the second one (bytes, old name, new name)."""
    run, done = tmp_path / "run", []

    def until_the_moment(act):
        def acting(*paths):
            act(*paths)
            if "last.ckpt" in str(paths[0]):
                done.append(paths)
            if len(done) == moment + 1:
                if len(paths) == 1:
                    truncated(paths[0])  # its bytes were not all there yet
                raise PowerLoss

        return acting

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", until_the_moment(files.sync))
        patch.setattr(files.os, "replace", until_the_moment(os.replace))
        with pytest.raises(PowerLoss):
            main(["train", f"run={run}", *whole[1]])
    there = {path.name for path in (run / "checkpoints").iterdir()} & {"last.ckpt", "previous.ckpt"}
    assert there == [set(), {"last.ckpt"}, {"last.ckpt"}, {"previous.ckpt"}, {"last.ckpt", "previous.ckpt"}][moment]
    trained(run, *whole[1])
    assert_equal(whole[0], run)


def test_bytes_are_on_the_disk_before_their_name_is(tmp_path, monkeypatch):
    done = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(
        files.os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle))
    )
    monkeypatch.setattr(files.os, "replace", lambda a, b: (done.append((Path(a).name, Path(b).name)), move(a, b)))
    (tmp_path / "a").write_text("old")
    (tmp_path / ".a.part").write_text("new")
    files.settle(tmp_path / ".a.part", tmp_path / "a", tmp_path / "b")
    assert done == [str(tmp_path / ".a.part"), ("a", "b"), (".a.part", "a"), str(tmp_path)]
    assert (tmp_path / "a").read_text() == "new" and (tmp_path / "b").read_text() == "old"


# A killed process


LONG = ["steps=300", "every.log=5", "every.validate=100", "every.checkpoint=50"]


def kill(run, number, settings, step):
    """Starts a training, and sends it a signal when its record has come to a step."""
    process = start([sys.executable, "-m", "gibbsnet", "train", f"run={run}", *settings])
    try:
        until(lambda: process.poll() is not None or any(row["step"] >= step for row in read(run / "history.jsonl")))
        os.kill(process.pid, number)
        process.wait(timeout=600)
        said = process.stdout.read()
    finally:
        end(process)
    return process.returncode, said


def torn(folder, share=0.6):
    """W&B's file as a machine leaves it that goes down with W&B's own process: without its end."""
    (log,) = folder.glob("*.wandb")
    size = -1
    while size != log.stat().st_size:  # that process outlives the training by a moment
        size = log.stat().st_size
        time.sleep(1)
    os.truncate(log, int(share * size))


def test_a_killed_run_ends_where_it_would_have_and_its_tracker_lacks_nothing(tmp_path, plain):
    short = ["steps=150", "every.log=2", "every.validate=150", "every.checkpoint=25"]
    settings, run = [*SWEPT, *plain, *short], tmp_path / "run"
    tracked = [*settings, "tracking.mode=offline"]
    code, said = kill(run, signal.SIGKILL, tracked, 70)
    assert code == -signal.SIGKILL, said
    began, last = load(run)["global_step"], read(run / "history.jsonl")[-1]["step"]
    assert 50 <= began < 150 and last >= 70
    torn(folders(run)[0])
    trained(run, *tracked)
    assert_equal(trained(tmp_path / "whole", *settings), run)
    first, second = (
        read_offline(folder, patience=patience) for folder, patience in zip(folders(run), (0, 20), strict=True)
    )
    assert first.identity == second.identity and 0 < len(first.history) < began // 2, "nothing was torn off"
    rows = read(run / "history.jsonl")
    everything = first.history + second.history
    assert untold(everything, rows) == []
    told = [{name: row[name] for name in ("step", "images_seen")} for row in everything]
    assert [row for row in rows if {name: row[name] for name in ("step", "images_seen")} not in told] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("model", ["ali", "hali", "gibbsnet"])
def test_killed_again_and_again(tmp_path, plain, number, model):
    settings = [*(SWEPT if model == "gibbsnet" else [f"model={model}"]), *plain, *LONG]
    run = tmp_path / "run"
    for step in (60, 170, 240):
        code, said = kill(run, number, settings, step)
        assert load(run)["global_step"] < 300, (code, said)
    trained(run, *settings)
    assert_equal(trained(tmp_path / "whole", *settings), run)
    assert json.loads((run / "train.json").read_text())["steps"] == 300
