"""What benchmarks.drift tells of a chain: the weights of the classes, and what the critic knows by heart."""

import json

import pytest
import torch

from benchmarks import drift
from gibbsnet.__main__ import main
from gibbsnet.classifier import load_judge
from gibbsnet.data import DataModule
from gibbsnet.evaluation.scores import Statistics
from gibbsnet.evaluation.yardsticks import Look, yardstick
from tests.models import normal


def test_equal_weights_give_the_plain_statistics_and_a_double_weight_is_seen_twice():
    x = normal(40, 3)
    plain, equal = Statistics.of(x), drift.weighted(x, torch.full((40,), 1 / 40))
    assert torch.allclose(plain.mean, equal.mean) and torch.allclose(plain.cov, equal.cov)
    weights = torch.tensor([2.0, 1.0, 1.0]).double() / 4
    found, twice = drift.weighted(x[:3], weights), Statistics.of(x[[0, 0, 1, 2]])
    assert torch.allclose(found.mean, twice.mean)
    biased = twice.cov * 3 / 4  # without Bessel's correction, which counts the doubled one twice
    assert torch.allclose(found.cov * (1 - weights.square().sum()), biased)


def test_balanced_labels_have_the_data_s_proportions():
    label, real = torch.tensor([0] * 6 + [1] * 2), torch.tensor([0, 1, 1, 2])
    weights, shares = drift.balance(label, real, 4)  # of a fourth class the data have none
    assert torch.allclose(shares, torch.tensor([3.0, 0.5, 0.0]).double())
    assert torch.allclose(weights[:6], torch.full((6,), 1 / 18).double()), (
        "a third for class 0, the missing class aside"
    )
    assert weights.sum() == pytest.approx(1) and weights[6:].sum() == pytest.approx(2 / 3)
    weights, shares = drift.balance(torch.tensor([0, 1, 1, 3]), real, 4)
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0]) and shares.tolist() == pytest.approx([1, 1, 0])


def test_real_images_of_wrong_weights_are_far_away_and_near_when_balanced(judges):
    data = DataModule("digits")
    data.setup()
    judge = load_judge(judges / "digits.pt")[0]
    stick = yardstick(data.data, judge, data.data.development, samples=2000)
    look = stick.look_at(data.data.development, "again", 4000)
    keep = torch.arange(4000)[(look.probs.argmax(1) != 3) | (torch.arange(4000) % 4 == 0)]  # a quarter of the threes
    found = drift.drifted(stick, Look(look.features[keep], look.probs[keep]))
    assert found["class_frechet_ratio"] > 0.02 > 5 * found["balanced"]
    assert 0.2 < found["least"] < 0.33 and 1 < found["most"] < 1.2


@pytest.fixture(scope="module")
def run(tmp_path_factory, judges):
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    every = ["steps=4", "every.log=1", "every.validate=4", "every.checkpoint=4", "tracking.mode=disabled"]
    assert main(["train", "model=gibbsnet", "game.shift=1", *every, f"run={folder}", f"judges={judges}",
                 "trainer.accelerator=cpu", "trainer.progress=false"]) == 0  # fmt: skip
    return folder


def test_the_benchmark_writes_what_it_prints(run, capsys):
    drift.main([f"run={run}", "samples=60"])
    found, printed = json.loads((run / "drift.json").read_text()), capsys.readouterr().out
    assert found["chain"].keys() == {"0", "1", "3", "10", "100", "1000"}
    assert found["critic"].keys() == {"train", "validation", "samples"}
    row = " | ".join(f"{found['chain']['3'][name]:.3g}" for name in drift.NAMES)
    assert f"| 3 | {row} |" in printed and f"train {found['critic']['train']:.2f}" in printed
    for row in found["chain"].values():
        assert row["class_frechet_ratio"] > 0 and row["least"] <= 1 <= row["most"]


def test_points_have_no_classes(run, tmp_path, judges):
    other = tmp_path / "ring"
    every = ["steps=2", "every.log=1", "every.validate=2", "every.checkpoint=2", "tracking.mode=disabled"]
    assert main(["train", "data=ring", *every, f"run={other}", f"judges={judges}", "trainer.accelerator=cpu",
                 "trainer.progress=false"]) == 0  # fmt: skip
    with pytest.raises(SystemExit, match="ring has no classes whose weights could drift"):
        drift.main([f"run={other}"])


@pytest.mark.parametrize(
    "arguments, words", [(["samples=0"], "samples=0: expected at least 10"), (["seed=-1"], "seed=-1")]
)
def test_what_cannot_be_measured_is_one_line(run, arguments, words):
    with pytest.raises(SystemExit, match=words):
        drift.main([f"run={run}", *arguments])


def test_a_model_without_a_joint_critic_is_one_line(run, monkeypatch):
    make = drift.load_run
    monkeypatch.setattr(drift, "load_run", lambda *args: renamed(make(*args)))

    def renamed(module):
        module.critics["pairs"] = module.critics.pop("joint")
        return module

    with pytest.raises(SystemExit, match="its critics are pairs; expected one called joint"):
        drift.main([f"run={run}", "samples=60"])
