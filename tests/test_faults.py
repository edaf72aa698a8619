"""Faults put in on purpose: no network, a tracker that goes away, a full disk, a NaN, altered data, a wrong setting.

What is tested elsewhere: killed processes and damaged checkpoints in test_resume, dying ranks in test_ranks.
"""

import errno
import os
import shutil
import socket
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import wandb
from fsspec.implementations.local import LocalFileOpener
from matplotlib.figure import Figure

import gibbsnet.callbacks as ours
from gibbsnet import files, train
from gibbsnet.__main__ import main
from gibbsnet.callbacks import history, tracking
from gibbsnet.callbacks.history import read
from gibbsnet.classifier import load_judge, save_judge
from gibbsnet.game import Outcome
from gibbsnet.modules import GibbsNet
from tests.pair import pair
from tests.test_callbacks import OPTIONS, same
from tests.toy import Toy, fit
from tests.wandb_service import Service


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take most of a short training's time."""
    monkeypatch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())


@pytest.fixture(scope="module")
def settings(judges):
    return ["model=ali", "steps=20", "every.log=5", "every.validate=20", "every.checkpoint=10", "tracking.mode=disabled",
            f"judges={judges}", "trainer.accelerator=cpu", "trainer.progress=false"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
    """A training that nothing befalls."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
        assert main(["train", f"run={run}", *settings]) == 0
    return run


def load(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_equal(a, b):
    for name in ("last", "best"):
        left, right = load(a, name), load(b, name)
        assert all(same(left[part], right[part]) for part in ("state_dict", "optimizer_states", "global_step")), name
    assert (a / "history.jsonl").read_bytes() == (b / "history.jsonl").read_bytes()


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *words):
    """The one line that was said on the standard error."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words), said
    return said


# No network


def test_without_a_network_a_run_is_tracked_offline_and_a_download_is_one_line(tmp_path, settings, monkeypatch, capsys):
    connect = socket.socket.connect

    def unplugged(self, address):
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return connect(self, address)

    def nameless(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket.socket, "connect", unplugged)
    monkeypatch.setattr(socket, "getaddrinfo", nameless)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert main(["train", f"run={tmp_path / 'run'}", *settings, "tracking.mode=auto"]) == 0
    assert "W&B: offline (https://api.wandb.ai does not answer)" in capsys.readouterr().err
    assert load(tmp_path / "run")["global_step"] == 20 and list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert main(["train", f"run={tmp_path / 'no'}", *settings, "tracking.mode=online"]) == 1
    refused(capsys, "tracking mode online", "does not answer")
    assert main(["prepare", "data=mnist", f"data.root={tmp_path / 'data'}"]) == 1
    assert "train-images-idx3-ubyte" in capsys.readouterr().err.splitlines()[-1]


# Two trainings in one folder


def test_a_second_training_in_a_folder_is_refused_and_touches_nothing(tmp_path, settings, monkeypatch, capsys):
    run, tried = tmp_path / "run", []

    def try_it(*_, **__):
        with pytest.raises(BlockingIOError, match="busy"), files.alone(run / ".lock", "busy"):
            pytest.fail("the training that is at work holds the folder")
        tried.append(run)
        return {"distance": 1.0}

    monkeypatch.setattr("gibbsnet.train.validation_distance", try_it)
    assert main(["train", f"run={run}", *settings, "steps=10", "every.validate=5"]) == 0 and len(tried) == 2
    for more in (["steps=10", "restart=true"], ["steps=10", "optim.lr=0.5", "restart=true"]):
        with files.alone(run / ".lock"):
            before = everything(run)
            assert main(["train", f"run={run}", *settings, *more]) == 1
            refused(capsys, f"another training is at work in {run}", "wait", "run=")
            assert everything(run) == before
    assert main(["train", f"run={run}", *settings, *more]) == 0, "free again"


def test_a_training_that_came_and_went_between_the_look_and_the_lock_is_seen(tmp_path, settings, monkeypatch, capsys):
    """The one that waited, for a judge perhaps, looked into an empty folder."""
    run, waited = tmp_path / "run", train.prepare

    def meanwhile(config):
        monkeypatch.setattr(train, "prepare", waited)
        assert main(["train", f"run={run}", *settings, "steps=10"]) == 0
        before.update(everything(run))
        return waited(config)

    for more, words in (
        ([], "another training was at work"),
        (["optim.lr=0.5"], "holds another configuration (optim.lr)"),
    ):
        before = {}
        monkeypatch.setattr(train, "prepare", meanwhile)
        capsys.readouterr()
        assert main(["train", f"run={run}", *settings, "steps=10", *more]) == 1
        refused(capsys, words)
        assert everything(run) == before
        shutil.rmtree(run)


def test_a_lock_may_be_waited_for(tmp_path, monkeypatch):
    """As a node's that failed: a file server forgets it only after a while."""
    waited = []
    with ExitStack() as other:
        other.enter_context(files.alone(tmp_path / "lock"))
        monkeypatch.setattr(files.time, "sleep", lambda seconds: (waited.append(seconds), other.close()))
        with files.alone(tmp_path / "lock", "busy", patience=60):
            assert waited == [1]


@pytest.mark.parametrize("reason", files.LOCKLESS)
def test_a_file_system_without_locks_is_no_reason_not_to_train(tmp_path, monkeypatch, reason):
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(reason, "no locks here")))
    with files.alone(tmp_path / "lock"), files.alone(tmp_path / "lock", "busy"):
        pass
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"), files.alone(tmp_path / "lock"):
        pytest.fail("what is no lack of locks is told")


# A tracker that goes away


@pytest.fixture
def tracker_anew():
    """W&B's own process remembers the server that it was started for."""
    wandb.teardown()
    yield
    wandb.teardown()


def test_a_training_outlives_its_tracker_s_server(tmp_path, tracker_anew, monkeypatch, capsys):
    with Service() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setattr(tracking, "PATIENCE", 3)
        logger = ours.tracker(tmp_path / "run", {}, "online")

        def gone(module):
            service.server.shutdown()
            service.server.server_close()

        fit(ours.callbacks(tmp_path / "run", **OPTIONS), module=Toy({9: gone}), logger=logger)
    assert capsys.readouterr().err.count("history.jsonl is its record") == 1
    fit(ours.callbacks(tmp_path / "alone", **OPTIONS))
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == (tmp_path / "alone" / "history.jsonl").read_bytes()
    assert load(tmp_path / "run")["global_step"] == 20


def test_a_tracker_that_raises_is_told_of_once_and_each_call_is_survived(capsys):
    class Broken:
        id = "broken"

        def log(self):
            raise ConnectionResetError("its process is gone")

    for _ in range(3):
        tracking._tell(Broken, lambda: Broken().log())
    refused(capsys, "W&B", "its process is gone", "the training goes on")


def test_scores_outlive_a_tracker_that_raises(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise ConnectionResetError("its process is gone")

    monkeypatch.setattr("wandb.Table", broken)
    ours.log_metrics(tmp_path, {"samples": {"class_score": 5.5}}, mode="offline")
    assert capsys.readouterr().err.splitlines()[-1] == "W&B: its process is gone; metrics.json holds them"


# A full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("evaluate", "metrics.json"),
        ("sample", "chain.png"),
        ("sample", "samples.npz"),
        ("prepare", "digits.pt"),
        ("train", "config.yaml"),
    ],
)
def test_a_disk_that_is_full_at_the_end_of_a_command(
    tmp_path, settings, whole, judges, command, name, monkeypatch, capsys
):
    """A disk that takes bytes when they are written may have no room for them when they are to be kept."""
    run, own, sync = shutil.copytree(whole, tmp_path / "run"), shutil.copytree(judges, tmp_path / "judges"), files.sync
    if command == "prepare":
        (own / "digits.pt").unlink()
    (run / "metrics.json").write_text("old")
    before = everything(tmp_path)
    monkeypatch.setattr("gibbsnet.prepare.train_judge", lambda data: load_judge(judges / "digits.pt"))
    monkeypatch.setattr(files, "sync", lambda path: full() if f".{name}." in path.name else sync(path))
    words = {"evaluate": [f"run={run}", "evaluation.samples=20", "evaluation.steps=[0]"], "sample": [f"run={run}"],
             "prepare": [], "train": [*settings, f"run={tmp_path / 'new'}"]}[command]  # fmt: skip
    assert main([command, *words, f"judges={own}"]) == 1
    refused(capsys, f"{name} cannot be written (No space left on device)")
    after = everything(tmp_path)
    assert before.items() <= after.items() and not [path for path in after if path.suffix == ".part"]


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_disk_that_is_full_when_a_checkpoint_is_written(tmp_path, settings, whole, name, monkeypatch, capsys):
    run, write = tmp_path / "run", LocalFileOpener.write

    def filling(self, data):
        if f".{name}.part" in str(self.path) and (run / "checkpoints" / "last.ckpt").exists():
            write(self, data[:1000])
            full()
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileOpener, "write", filling)
        assert main(["train", f"run={run}", *settings]) == 1
    refused(capsys, str(run / "checkpoints" / name), "No space left on device")
    assert load(run)["global_step"] == 10
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == (
        ["best.ckpt"] * (name == "last.ckpt") + ["config.yaml", "last.ckpt"]
    )
    assert main(["train", f"run={run}", *settings]) == 0
    assert_equal(run, whole)


def test_where_nothing_can_be_written_the_file_is_named_and_not_its_draft(tmp_path, monkeypatch):
    def refusing(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.unlink", refusing)
    with pytest.raises(OSError, match=r"metrics\.json cannot be written .Read-only file system"):
        files.replace(tmp_path / "metrics.json", refusing)


def test_a_disk_that_is_full_when_a_figure_is_written_costs_the_figure_alone(tmp_path, monkeypatch, capsys):
    save, drawn = Figure.savefig, []

    def filling(self, path, **options):
        drawn.append(path)
        return full() if len(drawn) == 2 else save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", filling)
    _, trainer = fit(ours.callbacks(tmp_path, **OPTIONS))
    assert trainer.global_step == 20 and len(drawn) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]
    assert len(lines) == 1 and str(tmp_path / "figures" / "samples.png") in lines[0]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["samples.png"]
    assert [row["step"] for row in read(tmp_path / "history.jsonl") if "val/distance" in row] == [8, 16, 20]


def test_a_disk_that_is_full_when_a_row_is_written_names_the_history(tmp_path, monkeypatch):
    line = history._line
    monkeypatch.setattr(history, "_line", lambda row: full() if row["step"] > 10 else line(row))
    with pytest.raises(OSError, match=r"history\.jsonl cannot be written .No space left on device"):
        fit(ours.callbacks(tmp_path, **OPTIONS))
    assert [row["step"] for row in read(tmp_path / "history.jsonl")] == [5, 8, 10]


# A NaN


def poisoned(*steps, end=None, rank=None):
    """A game whose outcome is not finite in these batches (on that rank), and that is over at batch `end`."""
    contest = GibbsNet.contest

    def play(self, real, fake, noise, step, *rest):
        outcome = contest(self, real, fake, noise, step, *rest)
        if step == end:
            raise EOFError
        if step not in steps or rank not in (None, noise.rank):
            return outcome
        real["x"] = real["x"] * torch.nan  # which the supervised terms read, where there are any
        nan = [g * torch.nan for g in outcome.graph]
        return Outcome(nan, outcome.critic, outcome.diagnostics | {"loss_graph": torch.tensor(torch.nan)})

    return play


LABELLED = ["model=labelled", "supervised.y.dreams=0.5"]


@pytest.mark.parametrize("model", [[], LABELLED, ["model=attributes"]], ids=["ali", "labelled", "attributes"])
def test_a_nan_ends_the_run_with_the_step_the_term_and_the_last_good_checkpoint(
    tmp_path, settings, monkeypatch, capsys, model
):
    run = tmp_path / "run"
    monkeypatch.setattr(GibbsNet, "contest", poisoned(12))
    assert main(["train", f"run={run}", *settings, *model]) == 1
    refused(capsys, "step 15", "loss_", "= nan", str(run / "checkpoints" / "last.ckpt"))
    state = load(run)
    assert state["global_step"] == 10 and all(torch.isfinite(w).all() for w in state["state_dict"].values())


def test_permission_to_skip_changes_nothing_where_nothing_is_skipped(tmp_path, settings, whole):
    run = tmp_path / "run"
    assert main(["train", f"run={run}", *settings, "optim.skip_nonfinite=2"]) == 0
    assert same(load(run)["state_dict"], load(whole)["state_dict"])
    assert [row["train/skipped"] for row in read(run / "history.jsonl") if "train/skipped" in row] == [0] * 4


@pytest.mark.parametrize("model", [["model=gibbsnet"], LABELLED], ids=["gibbsnet", "labelled"])
def test_bad_batches_pass_without_a_step_and_are_counted_across_a_resume(tmp_path, settings, monkeypatch, model):
    one, two = tmp_path / "one", tmp_path / "two"
    skipping = [*settings, *model, "chains.unclamped.steps=[1,3]", "chains.unclamped.persistent=0.5"]
    skipping += ["optim.skip_nonfinite=2"]
    with monkeypatch.context() as patch, pytest.raises(EOFError):
        patch.setattr(GibbsNet, "contest", poisoned(8, 9, 14, end=13))
        main(["train", f"run={two}", *skipping])
    assert load(two)["skipped"] == {"row": 2, "all": 2}
    monkeypatch.setattr(GibbsNet, "contest", poisoned(8, 9, 14))
    for run in (one, two):
        assert main(["train", f"run={run}", *skipping]) == 0
    assert_equal(one, two)
    told = {row["step"]: row for row in read(one / "history.jsonl") if "train/skipped" in row}
    assert [told[step]["train/skipped"] for step in (5, 10, 15, 20)] == [0, 2, 3, 3]
    assert "train/loss_graph" not in told[15] and told[20]["train/loss_graph"] > 0
    last = load(one)
    assert last["global_step"] == int(last["state_dict"]["step"]) == 20
    assert {float(s["step"]) for s in last["optimizer_states"][0]["state"].values()} == {17.0}


def test_one_bad_batch_more_ends_the_run_at_once(tmp_path, settings, monkeypatch, capsys):
    monkeypatch.setattr(GibbsNet, "contest", poisoned(11, 12, 13))
    assert main(["train", f"run={tmp_path / 'run'}", *settings, "optim.skip_nonfinite=2"]) == 1
    refused(capsys, "step 14", "loss_graph = nan", "last.ckpt")
    assert load(tmp_path / "run")["global_step"] == 10


def test_what_is_bad_on_one_rank_is_skipped_by_all(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(GibbsNet, "contest", poisoned(12, rank=1))
    skipping = [*settings, "optim.skip_nonfinite=1", "trainer.devices=2", f"run={tmp_path / 'run'}"]
    assert pair(tmp_path / "results", lambda rank: main(["train", *skipping]), patience=120) == [0, 0]
    assert read(tmp_path / "run" / "history.jsonl")[-1]["step"] == 20
    last = load(tmp_path / "run")
    assert last["skipped"] == {"row": 0, "all": 1}
    assert {float(s["step"]) for s in last["optimizer_states"][0]["state"].values()} == {19.0}
    assert all(torch.isfinite(w).all() for w in last["state_dict"].values())


# Altered data


def test_a_run_does_not_go_on_on_other_data(tmp_path, settings, monkeypatch, capsys):
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    own = [*settings, "data=npz", "data.path=own.npz"]
    np.savez(tmp_path / "own.npz", images=images)
    with monkeypatch.context() as patch, pytest.raises(EOFError):
        patch.setattr(GibbsNet, "contest", poisoned(end=13))
        main(["train", "run=run", *own])
    capsys.readouterr()
    altered = images.copy()
    altered[100, 3, 3] ^= 1
    np.savez(tmp_path / "own.npz", images=altered)
    before = everything(tmp_path)
    assert main(["train", "run=run", *own]) == 1
    refused(capsys, "run was trained on other data", "restart=true")
    assert everything(tmp_path) == before
    np.savez(tmp_path / "own.npz", images=images)
    for run in ("run", "undisturbed"):
        assert main(["train", f"run={run}", *own]) == 0
    assert_equal(tmp_path / "run", tmp_path / "undisturbed")
    np.savez(tmp_path / "own.npz", images=altered)
    before = everything(tmp_path)
    capsys.readouterr()
    for command in ("evaluate", "sample"):
        assert main([command, "run=run"]) == 1
        refused(capsys, "run was trained on other data")
    assert everything(tmp_path) == before


def test_a_judge_of_other_data_is_refused(tmp_path, judges, monkeypatch, capsys):
    """Two files of one's own have the same name, npz, and so the same judge's place."""
    x, y = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8), np.arange(200) % 10
    monkeypatch.setattr(
        "gibbsnet.prepare.train_judge",
        lambda data: (lambda judge, facts: (judge, facts | {"digest": data.digest}))(*load_judge(judges / "digits.pt")),
    )
    for name, images in (("one", x), ("two", 255 - x)):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=y)
    own = ["prepare", "data=npz", "judges=own"]
    assert main([*own, "data.path=one.npz"]) == main([*own, "data.path=one.npz"]) == 0
    assert main([*own, "data.path=two.npz"]) == 1
    refused(capsys, "own/npz.pt was trained on other data", "judges=FOLDER")
    assert main([*own, "data.path=two.npz", "judges=another"]) == 0


def test_a_judge_of_an_earlier_version_is_said_to_be_one(tmp_path, judges, capsys):
    assert main(["prepare", "data=digits", f"judges={judges}"]) == 0
    assert "float32" not in capsys.readouterr().out
    judge, facts = load_judge(judges / "digits.pt")
    (tmp_path / "old").mkdir()
    save_judge(judge, {k: v for k, v in facts.items() if k != "exact"}, tmp_path / "old" / "digits.pt")
    assert main(["prepare", "data=digits", "judges=old"]) == 0
    assert "old/digits.pt was trained in float32, by an earlier version" in capsys.readouterr().out


# Wrong settings


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["optim.lrr=1"], ["optim.lrr", "optim.lr"]),
        (["steps=many"], ["steps=many", "an integer"]),
        (["steps=-3"], ["steps=-3", "at least 1"]),
        (["every.checkpoint=-1"], ["every.checkpoint=-1"]),
        (["data.batch_size=5000"], ["5000", "1221"]),
        (["data=npz", "data.path=empty.npz"], ["empty.npz", "0 images"]),
        (["optim.lr=-1"], ["optim.lr=-1", "a number of at least 0"]),
        (["optim.betas=[2,1]"], ["optim.betas=[2, 1]", "two numbers in [0, 1)"]),
        (["optim.betas=[0.5]"], ["optim.betas=[0.5]", "two numbers"]),
        (["optim.ema=2"], ["optim.ema=2"]),
        (["optim.clip=-1"], ["optim.clip=-1"]),
        (["optim.floor_from=0"], ["optim.floor_from=0", "a number in (0, 1], or null"]),
        (["optim.floor_from=0.1"], ["optim.floor_from=0.1", "no floor lies below it"]),
        (["trainer.replay=7"], ["trainer.replay=7", "true or false"]),
        (["optim.skip_nonfinite=-1"], ["optim.skip_nonfinite=-1"]),
        (["evaluation.steps=[-1]"], ["evaluation.steps=[-1]"]),
        (["size.z=[0]"], ["size.z=[0]", "at least 1"]),
        (["trainer.devices=0"], ["trainer.devices=0"]),
        (["trainer.threads=-1"], ["trainer.threads=-1"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_a_run_as_it_is(whole, settings, setting, words, capsys, tmp_path):
    np.savez(tmp_path / "empty.npz", images=np.zeros((0, 8, 8), np.uint8))
    before, names = everything(whole), {s.partition("=")[0] for s in setting}
    others = [s for s in settings if s.partition("=")[0] not in names]
    assert main(["train", f"run={whole}", *others, *setting, "restart=true"]) == 1
    refused(capsys, *words)
    assert everything(whole) == before


@pytest.mark.parametrize("setting", ["trainer.accelerator=tpux", "trainer.strategy=fast"])
def test_what_lightning_refuses_is_one_line(tmp_path, settings, setting, capsys):
    """And said before a judge is made."""
    others = [s for s in settings if s.partition("=")[0] not in (setting.partition("=")[0], "judges")]
    assert main(["train", f"run={tmp_path / 'run'}", *others, setting, f"judges={tmp_path / 'judges'}"]) == 1
    refused(capsys, "trainer:", setting.partition("=")[2])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("clamp", "words"),
    [(["clamp.hole=left", "clamp.channels=[5]"], ["channels"]), (["clamp.hole=row", "clamp.of=z"], ["hole 'row'"])],
)
def test_a_mask_of_another_shape_is_one_line(whole, clamp, words, capsys):
    before = everything(whole)
    assert main(["sample", f"run={whole}", *clamp]) == 1
    refused(capsys, *words)
    assert everything(whole) == before
