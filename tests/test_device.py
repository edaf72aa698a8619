"""Where a trained module is scored; and, on a machine with a GPU, that it can be trained and scored there."""

import json

import pytest
import torch

import gibbsnet.evaluate
from benchmarks import stability
from gibbsnet.__main__ import main
from gibbsnet.config import load, read
from gibbsnet.train import accelerator, device


@pytest.mark.parametrize(
    "accelerator, gpus, rank, expected",
    [
        ("auto", 1, None, "cuda:0"),
        ("gpu", 4, "2", "cuda:2"),
        ("cuda", 1, "3", "cuda:0"),
        ("cpu", 1, None, "cpu"),
        ("auto", 0, "1", "cpu"),
        ("gpu", 0, None, "cpu"),  # trained on a GPU elsewhere, scored here
    ],
)
def test_a_module_is_scored_on_this_process_s_gpu_if_there_is_one_and_may_be_used(
    accelerator, gpus, rank, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert device({"accelerator": accelerator}) == torch.device(expected)


@pytest.mark.parametrize(
    "said, gpus, expected", [("auto", 0, "cpu"), ("auto", 1, "auto"), ("gpu", 0, "gpu"), ("cpu", 1, "cpu")]
)
def test_by_itself_a_training_takes_a_gpu_of_cuda_or_none(said, gpus, expected, monkeypatch):
    """Lightning's own choice would be Apple's, which has no doubles."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    assert accelerator({"accelerator": said}) == expected


def test_what_scores_does_it_on_that_device(quick, tmp_path, monkeypatch):
    """A device that holds no values stands for a GPU: nothing is computed, only where the module is handed over is seen."""
    run, seen = tmp_path / "r", []

    def noted(module, *_, **__):
        seen.append(module.device.type)
        return {}

    assert main(["train", "data=digits", *quick, f"run={run}"]) == 0
    for command, name in ((gibbsnet.evaluate, "score"), (stability, "evaluate")):
        monkeypatch.setattr(command, "device", lambda options: torch.device("meta"))
        monkeypatch.setattr(command, name, noted)
    gibbsnet.evaluate.evaluate(load(["evaluation.split=validation"], into=read(run)))
    stability.score(read(run))
    assert seen == ["meta", "meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    "setting", ["model=gibbsnet", "model=hali", "experiment=labels", "trainer.precision=bf16-mixed"]
)
def test_a_gpu_trains_and_scores(setting, quick, tmp_path):
    own = [s for s in quick if not s.startswith("trainer.accelerator")]
    assert main(["train", "data=digits", setting, *own, f"run={tmp_path}/r"]) == 0
    assert main(["evaluate", f"run={tmp_path}/r"]) == 0
    found = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert 1 <= found["samples"]["class_score"] <= 10
    assert (
        json.loads((tmp_path / "r" / "train.json").read_text())["peak_memory_mib"] < 2000
    )  # the allocator's, not the process's
