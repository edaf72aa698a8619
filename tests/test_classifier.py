"""The judge: good enough to judge, the same every time, and never read from a file that is not it."""

from dataclasses import replace

import pytest
import torch

from gibbsnet.classifier import Judge, load_judge, plan, save_judge, shifted, train_judge, view, weights_hash
from gibbsnet.data import DataSet, Split, load
from gibbsnet.noise import Noise

QUIET = dict(log=lambda line: None)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


@pytest.fixture(scope="module")
def trained(judges) -> tuple[Judge, dict]:
    """The one that other tests are judged by: trained once."""
    return load_judge(judges / "digits.pt")


def test_judge_of_digits_is_accurate(digits, trained):
    judge, facts = trained
    assert facts["accuracy"] >= 0.97
    assert facts["n"] == len(digits.test) == 360
    assert facts["sha256"] == weights_hash(judge)
    assert judge.features(torch.zeros(3, 1, 8, 8)).shape == (3, 32)


def test_the_logits_are_those_of_the_features(trained):
    judge, _ = trained
    x = Noise(1).uniform((5, 1, 8, 8)) * 2 - 1
    assert not judge.training
    assert torch.equal(judge(x), judge.head(judge.features(x)))


def test_same_seed_gives_the_same_judge_and_leaves_the_global_generator_alone(digits):
    short = replace(plan(digits.shape), epochs=1)
    before = torch.get_rng_state()
    hashes = [train_judge(digits, seed, plan=short, **QUIET)[1]["sha256"] for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(before, torch.get_rng_state())


def test_the_number_of_threads_makes_no_other_judge(digits):
    short = replace(plan(digits.shape), epochs=4)
    threads, hashes = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            hashes.append(train_judge(digits, plan=short, device="cpu", **QUIET)[1]["sha256"])
    finally:
        torch.set_num_threads(threads)
    assert hashes[0] == hashes[1]


def test_the_test_split_has_no_part_in_training(digits):
    other = replace(digits, test=Split(255 - digits.test.x[:100], digits.test.y[:100]))
    short = replace(plan(digits.shape), epochs=1)
    facts = [train_judge(data, plan=short, **QUIET)[1] for data in (digits, other)]
    assert facts[0]["sha256"] == facts[1]["sha256"]
    assert facts[0]["validation_accuracy"] == facts[1]["validation_accuracy"]
    assert facts[0]["accuracy"] != facts[1]["accuracy"]


def test_the_best_epoch_is_kept(digits):
    """A schedule that ends in ruin: the epochs' accuracies are told, and the kept one is the best of them."""
    lines = []
    wild = replace(plan(digits.shape), epochs=4, rate=3.0)
    _, facts = train_judge(digits, plan=wild, log=lines.append)
    told = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert len(told) == 4
    assert min(told) < max(told)
    assert facts["validation_accuracy"] == pytest.approx(max(told), abs=5e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 48, 64), (1, 64, 64), (3, 20, 20)])
def test_there_is_a_plan_for_every_image_size(shape):
    made = plan(shape)
    judge = Judge(shape, 7, made.widths, made.features).eval()
    with torch.no_grad():
        assert judge(torch.zeros(2, *shape)).shape == (2, 7)
        assert judge.features(torch.zeros(2, *shape)).shape == (2, made.features)


def test_data_without_labels_have_no_judge(digits):
    with pytest.raises(ValueError, match="labelled images"):
        train_judge(replace(digits, classes=0), **QUIET)
    with pytest.raises(ValueError, match="labelled images"):
        train_judge(load("ring"), **QUIET)


def test_shifts_are_translations_of_at_most_so_many_pixels():
    x = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 1, 5, 5).expand(200, 1, 5, 5)
    moved = shifted(x, 1, Noise(0))
    padded = torch.nn.functional.pad(x[0, 0], (1, 1, 1, 1))
    windows = {padded[i : i + 5, j : j + 5].numpy().tobytes() for i in range(3) for j in range(3)}
    assert {image[0].numpy().tobytes() for image in moved} == windows
    assert torch.equal(shifted(x, 0, Noise(0)), x)


def test_only_photographs_are_flipped(digits):
    one = torch.zeros(300, dtype=torch.int64)
    for name, versions in (("digits", 1), ("cifar10", 2)):
        x, y = view(replace(digits, name=name), one, 0, Noise(0))
        pixels = ((x + 1) / 2 * digits.levels).floor()
        assert len({image.numpy().tobytes() for image in pixels}) == versions
        assert (y == digits.train.y[0]).all()
        assert len({image.numpy().tobytes() for image in x}) == 300  # dequantised anew every time


def test_saved_and_loaded_are_equal(trained, tmp_path):
    judge, facts = trained
    save_judge(judge, facts, tmp_path / "judges" / "digits.pt")
    again, read = load_judge(tmp_path / "judges" / "digits.pt")
    x = Noise(1).uniform((5, 1, 8, 8)) * 2 - 1
    assert torch.equal(judge(x), again(x))
    assert read == facts
    assert not again.training
    assert [file.name for file in (tmp_path / "judges").iterdir()] == ["digits.pt"]


def test_a_missing_or_broken_judge_is_one_line_that_says_what_to_do(trained, tmp_path):
    judge, facts = trained
    path = tmp_path / "digits.pt"
    with pytest.raises(ValueError, match="no judge at") as missing:
        load_judge(path)
    path.write_bytes(b"not a file of weights")
    with pytest.raises(ValueError, match="not a readable judge") as broken:
        load_judge(path)
    torch.save({"weights": 3}, path)
    with pytest.raises(ValueError, match="not a readable judge") as empty:
        load_judge(path)
    save_judge(judge, facts | {"sha256": "0" * 64}, path)
    with pytest.raises(ValueError, match="hash") as altered:
        load_judge(path)
    for error in (missing, broken, empty, altered):
        assert str(path) in str(error.value)
        assert "python -m gibbsnet prepare data=digits" in str(error.value)
        assert "\n" not in str(error.value)
