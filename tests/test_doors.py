"""The commands, in this process: what they write, what they refuse, and that interruption leaves no trace."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from gibbsnet.__main__ import COMMANDS, main
from gibbsnet.classifier import load_judge
from gibbsnet.config import AFTERWARDS
from gibbsnet.modules import GibbsNet
from gibbsnet.report.runs import read as read_run


def weights(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_groups_and_examples(command, capsys):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"python -m gibbsnet {command}" in said
    if command in AFTERWARDS:
        assert all(word in said for word in AFTERWARDS[command]) and "hali" not in said
    else:
        assert command == "report" or all(word in said for word in ("gibbsnet", "hali", "digits", "experiment"))


def test_the_whole_road_on_digits(tmp_path, quick, judges, capsys):
    run = tmp_path / "runs" / "mine"
    assert main(["train", "model=gibbsnet", f"run={run}", *quick]) == 0
    assert "for this model and data set there are (README): experiment=digits, digits_floor," in capsys.readouterr().out
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "config.yaml",
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["name"] == "gibbsnet"
    assert [row["step"] for row in rows(run) if "train/loss_critic" in row] == [5, 10, 15, 20]
    assert json.loads((run / "train.json").read_text())["steps"] == 20
    assert main(["evaluate", f"run={run}"]) == 0
    metrics = (run / "metrics.json").read_bytes()
    assert {"samples", "chain", "latent", "reconstruction", "reference"} <= json.loads(metrics).keys()
    for name in ("samples", "chain", "tsne_x", "tsne_z", "latent_z", "interpolations", "reconstructions_z"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000, name
    assert main(["evaluate", f"run={run}"]) == 0
    assert (run / "metrics.json").read_bytes() == metrics, "the same weights and seed give the same bytes"
    scored, judge = json.loads((run / "scored.json").read_text()), load_judge(judges / "digits.pt")[1]
    assert scored["judge"] == judge["sha256"] and scored["samples"] == 500 and scored["device"] == "cpu"
    pictures = {p: p.stat().st_mtime_ns for p in (run / "figures").iterdir()}
    assert main(["evaluate", f"run={run}", "evaluation.split=validation"]) == 0
    assert {p: p.stat().st_mtime_ns for p in (run / "figures").iterdir()} == pictures
    assert (run / "metrics.json").read_bytes() == metrics != (run / "metrics_validation.json").read_bytes()
    other = json.loads((run / "scored_validation.json").read_text())
    assert scored.pop("metrics") != other.pop("metrics") and scored == other
    assert main(["sample", f"run={run}", "chains.unclamped.steps=5", "mode=dreaming"]) == 0
    assert (run / "samples" / "chain.png").exists()
    assert main(["report", "runs", "out=reports"]) == 0
    assert "gibbsnet" in (tmp_path / "reports" / "index.html").read_text()
    assert not read_run(run).caveats
    shutil.copy(run / "checkpoints" / "previous.ckpt", run / "checkpoints" / "best.ckpt")
    assert read_run(run).caveats == ["its scores are of other weights than it has now: evaluate again"]


def test_a_sample_asks_nothing_of_what_is_about_training_alone(tmp_path, quick):
    """Starts from the data need a sweep, in training."""
    run = tmp_path / "run"
    starts = ["chains.unclamped.start_from_data=0.5", "chains.unclamped.steps=1", "chains.unclamped.persistent=0.0"]
    assert main(["train", "model=gibbsnet", *starts, f"run={run}", *quick]) == 0
    assert main(["sample", f"run={run}", "chains.unclamped.steps=0"]) == 0
    assert (run / "samples" / "samples.npz").exists()


@pytest.mark.parametrize("model", ["ali", "hali", "gibbsnet2", "persistent"])
def test_resumed_training_ends_bitwise_where_uninterrupted_training_ends(tmp_path, quick, model, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    if model == "persistent":
        model, quick = "gibbsnet", [*quick, "chains.unclamped.persistent=0.5"]
    assert main(["train", f"model={model}", f"run={whole}", *quick]) == 0

    class PowerLoss(Exception):
        pass

    contest = GibbsNet.contest

    def until_13(self, *arguments):
        if int(self.step) == 13:
            raise PowerLoss
        return contest(self, *arguments)

    monkeypatch.setattr(GibbsNet, "contest", until_13)
    with pytest.raises(PowerLoss):
        main(["train", f"model={model}", f"run={broken}", *quick])
    monkeypatch.setattr(GibbsNet, "contest", contest)
    assert main(["train", f"model={model}", f"run={broken}", *quick]) == 0
    assert equal(weights(whole), weights(broken))
    assert equal(weights(whole, "best"), weights(broken, "best"))
    assert (whole / "history.jsonl").read_bytes() == (broken / "history.jsonl").read_bytes()


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tmp_path, quick):
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["train", "model=ali", f"seed={seed}", f"run={tmp_path / run}", *quick]) == 0
    a, b, c = (weights(tmp_path / run) for run in "abc")
    assert equal(a, b) and not equal(a, c)


def test_another_configuration_never_resumes_silently(tmp_path, quick, capsys):
    run = tmp_path / "mine"
    assert main(["train", "model=ali", f"run={run}", *quick]) == 0
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    assert main(["train", "model=ali", "optim.lr=0.5", f"run={run}", *quick]) == 1
    said = capsys.readouterr().err
    assert "optim.lr" in said and "restart=true" in said and said.count("\n") == 1
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    for name in ([], ["model.name=mine"]):
        assert main(["train", "model=ali", *name, f"run={run}", *quick]) == 0
        assert "trained already" in capsys.readouterr().out
    scores = [
        run / f"{name}{suffix}.json" for name in ("metrics", "scored", "labels") for suffix in ("", "_validation")
    ]
    (run / "samples").mkdir()
    scores += [run / "samples" / name for name in ("fill.png", "fill.npz")]
    for path in scores:
        path.write_text("{}")
    assert main(["train", "model=ali", "optim.lr=0.5", "restart=true", f"run={run}", *quick]) == 0
    assert not any(path.exists() for path in scores), "they were of the weights that are gone"
    assert yaml.safe_load((run / "config.yaml").read_text())["optim"]["lr"] == 0.5
    assert len([r for r in rows(run) if "train/loss_critic" in r]) == 4, "the history is the new run's alone"


@pytest.mark.parametrize(
    "tracking, variable",
    [
        (["mode=onlin"], ""),
        (["mode=online"], ""),
        (["mode=auto"], "ofline"),
        (["mode=offline", "tags=[2024]"], ""),
        (["mode=offline", f"tags=[{'long' * 20}]"], ""),  # only W&B itself knows how long one may be
        (["mode=auto", f"tags=[{'long' * 20}]"], ""),
        (["mode=offline", "project=my/project"], ""),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused_before_anything_is_forgotten(
    tmp_path, quick, tracking, variable, capsys, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    run = tmp_path / "mine"
    assert main(["train", "model=ali", f"run={run}", *quick]) == 0
    (run / "wandb_id.txt").write_text("before\n")

    def kept():
        return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and "wandb" not in p.relative_to(run).parts}

    before = kept()
    capsys.readouterr()
    settings = [*quick, "optim.lr=0.5", "restart=true", *(f"tracking.{said}" for said in tracking)]
    assert main(["train", "model=ali", f"run={run}", *settings]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "anew" not in said.out
    assert kept() == before


def test_a_run_that_begins_anew_is_another_run_to_the_tracker_too(tmp_path, quick):
    run = tmp_path / "mine"
    for mode, anew in (("disabled", False), ("offline", True), ("disabled", True)):
        if anew:
            (run / "wandb_id.txt").write_text("before\n")
        more = [f"tracking.mode={mode}", *["optim.lr=0.5", "restart=true"] * anew]
        assert main(["train", "model=ali", f"run={run}", *quick, *more]) == 0
        known = (run / "wandb_id.txt").read_text().strip() if (run / "wandb_id.txt").exists() else None
        assert known != "before" and (known is not None) == (mode == "offline"), mode


def test_of_two_runs_named_the_last_one_counts(tmp_path, quick, capsys):
    assert main(["sample", f"run={tmp_path / 'one'}", f"run={tmp_path / 'two'}"]) == 1
    assert str(tmp_path / "two") in capsys.readouterr().err


def test_what_the_pipeline_deletes_does_not_confuse_a_stage(tmp_path, quick):
    """DVC removes config.yaml and train.json before it reruns a stage; last.ckpt stays, and may be another configuration's."""
    run = tmp_path / "stage"
    assert main(["train", "model=ali", f"run={run}", "restart=true", *quick]) == 0
    for out in ("config.yaml", "train.json"):
        (run / out).unlink()
    assert main(["train", "model=ali", "optim.lr=0.001", "game.lazy=3", f"run={run}", "restart=true", *quick]) == 0
    fresh = tmp_path / "fresh"
    assert main(["train", "model=ali", "optim.lr=0.001", "game.lazy=3", f"run={fresh}", *quick]) == 0
    assert equal(weights(run), weights(fresh))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], ["fly", "train"]),
        (["train", "model=alli"], ["alli", "ali"]),
        (["train", "data.batch_size=5000"], ["5000", "1221"]),
        (["train", "chains.unclamped.steps=-1"], ["steps", "-1"]),
        (["train", "model=ali", "chains.unclamped.steps=2"], ["ALI", "chains"]),
        (["train", "game.loss=hinge"], ["hinge", "relativistic"]),
        (["train", "chains.unclamped.blocks=[x,z]"], ["both chains end on z given x", "blind"]),
        (["train", "data=npz", "data.path=nowhere.npz"], ["nowhere.npz"]),
        (["train", "trainer.precision=12"], ["precision"]),
        (["train", "trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "bf16-mixed"]),
        (["train", "evaluation.split=validation"], ["evaluation.split=validation", "evaluate"]),
        (["evaluate", "run=nowhere"], ["nowhere/config.yaml", "train"]),
        (["evaluate"], ["run="]),
        (["sample", "run=nowhere"], ["nowhere"]),
        (["report", "nowhere"], ["nowhere"]),
        (["report", "runs", "into=x"], ["into", "out"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, quick, capsys, arguments, words):
    extra = quick if arguments[0] == "train" else []
    extra = [e for e in extra if e.partition("=")[0] not in {a.partition("=")[0] for a in arguments}]
    assert main([*arguments, *extra]) != 0
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and all(word in said for word in words), said
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_damaged_checkpoint_is_named(tmp_path, quick, capsys):
    run = tmp_path / "mine"
    assert main(["train", "model=ali", f"run={run}", *quick]) == 0
    (run / "checkpoints" / "best.ckpt").write_bytes(b"not a checkpoint")
    assert main(["sample", f"run={run}"]) == 1
    assert "best.ckpt" in capsys.readouterr().err


def test_a_best_checkpoint_that_is_gone_is_told_with_what_to_do(tmp_path, quick, capsys):
    run = tmp_path / "mine"
    assert main(["train", "model=ali", f"run={run}", *quick]) == 0
    (run / "checkpoints" / "best.ckpt").unlink()
    assert main(["evaluate", f"run={run}"]) == 1
    assert "best.ckpt does not exist: put it back, or train again with restart=true" in capsys.readouterr().err
    (run / "checkpoints" / "last.ckpt").unlink()
    assert main(["evaluate", f"run={run}"]) == 1
    assert "go on with the command that the training was begun with" in capsys.readouterr().err


def test_fast_dev_run_keeps_nothing(tmp_path, quick):
    assert main(["train", "model=hali", f"run={tmp_path / 'dry'}", *quick, "trainer.fast_dev_run=true"]) == 0
    assert not list(tmp_path.rglob("*.ckpt")) and not (tmp_path / "dry").exists()


def test_training_needs_neither_wandb_nor_dvc(tmp_path, quick, monkeypatch):
    import sys

    for name in ("wandb", "dvc", "pooch"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["train", "model=ali", f"run={tmp_path / 'bare'}", *quick]) == 0
    assert main(["evaluate", f"run={tmp_path / 'bare'}"]) == 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions(tmp_path, quick, precision):
    run = tmp_path / precision
    assert main(["train", "model=gibbsnet", f"run={run}", *quick, f"trainer.precision={precision}"]) == 0
    assert all(torch.isfinite(w).all() for w in weights(run).values())


def test_max_time_stops_says_so_and_resumes(tmp_path, quick, capsys):
    run = tmp_path / "short"
    settings = ["model=ali", f"run={run}", *quick, "steps=100000"]
    assert main(["train", *settings, "trainer.max_time=00:00:00:02"]) == 0
    done = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < done < 100000
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said[0] == f"{run}: trainer.max_time=00:00:00:02 ends it at step {done} of 100000; with more it goes on"
    assert said[1] == f"{run}: its best checkpoint, which is scored, is that of step {best}"
    assert main(["train", *settings, "trainer.max_time=00:00:00:15"]) == 0, "the limit is on the run's whole time"
    went_on = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert went_on > done
    capsys.readouterr()
    assert main(["evaluate", f"run={run}", "evaluation.split=validation"]) == 0
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    said = f"{run}: trained for {went_on} of 100000 steps; the scores are of its best checkpoint so far, that of step {best}\n"
    assert said in capsys.readouterr().out


def test_a_file_is_no_folder(tmp_path, quick, capsys):
    file, run = tmp_path / "notes.txt", tmp_path / "run"
    file.write_text("mine")
    assert main(["train", "model=ali", f"run={run}", *quick]) == 0
    for command, setting, words in (("train", f"run={file}", quick), ("report", f"out={file}", [str(run)])):
        capsys.readouterr()
        assert main([command, setting, *words]) == 1
        assert capsys.readouterr().err == f"gibbsnet {command}: {setting} is a file: say a folder\n"
    assert main(["train", "model=ali", f"run={file / 'run'}", *quick]) == 1
    assert capsys.readouterr().err == f"gibbsnet train: {file} is a file: say another folder\n"
    assert main(["sweep", "sweeps/steps.yaml", f"out={file}"]) == 1
    assert capsys.readouterr().err == f"gibbsnet sweep: out={file}: expected a folder\n"
    assert file.read_text() == "mine"


def test_clipping_is_ours_and_bounds_the_step(tmp_path, quick):
    for run, clip in (("free", "null"), ("clipped", "1e-9")):
        assert main(["train", "model=ali", f"run={tmp_path / run}", *quick, f"optim.clip={clip}"]) == 0
    assert not equal(weights(tmp_path / "free"), weights(tmp_path / "clipped"))


def test_a_user_s_own_images(tmp_path, quick, capsys):
    images = np.random.default_rng(0).integers(0, 256, (300, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    run = tmp_path / "own"
    assert main(["train", "data=npz", f"data.path={tmp_path / 'own.npz'}", f"run={run}", *quick]) == 0
    assert main(["evaluate", f"run={run}"]) == 0
    moved = (tmp_path / "own.npz").rename(tmp_path / "moved.npz")
    assert main(["train", "data=npz", f"data.path={moved}", f"run={run}", *quick]) == 0, "the same images"
    np.savez(tmp_path / "other.npz", images=255 - images)
    assert main(["train", "data=npz", f"data.path={tmp_path / 'other.npz'}", f"run={run}", *quick]) == 1
    assert f"{run} was trained on other data" in capsys.readouterr().err


@pytest.mark.parametrize("n, labels", [(20, 2), (40, 1)])
def test_very_few_images_and_a_single_class(tmp_path, quick, n, labels):
    """What is fitted to classes, or to pairs of images, has next to nothing to go by."""
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    named = {} if labels is None else {"labels": np.arange(n) % labels}
    np.savez(tmp_path / "own.npz", images=images, **named)
    run, own = tmp_path / "own", [f"data.path={tmp_path / 'own.npz'}", f"judges={tmp_path / 'judges'}"]
    assert main(["train", "data=npz", f"run={run}", *quick, *own, "data.batch_size=8"]) == 0
    assert main(["evaluate", f"run={run}", "evaluation.samples=20"]) == 0
    scores = json.loads((run / "metrics.json").read_text())
    assert ("class_score" in scores["samples"]) == (labels == 2) == ("probe_accuracy" in scores["latent"]["z"])
    assert (run / "figures" / "latent_z.png").exists()
