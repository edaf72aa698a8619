"""The numbers mean what EVALUATION says: known values, independent computations, and modules whose faults are known."""

import itertools
import json
import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import nn
from torchmetrics.image.kid import poly_mmd

from gibbsnet.classifier import plan, train_judge
from gibbsnet.data import DataSet, load, units
from gibbsnet.evaluation import evaluate, find_inception, inception, suite, toys, validation_distance
from gibbsnet.evaluation.distances import JointDistance, Whitening, energy_distance, sliced_wasserstein, split_band
from gibbsnet.evaluation.latents import non_gaussianity, probe_accuracy
from gibbsnet.evaluation.references import Components, gaussian_draws, pixel_mse
from gibbsnet.evaluation.scores import Statistics, class_score, classes, frechet, kernel_distance, switch_rate
from gibbsnet.evaluation.yardsticks import batches
from gibbsnet.noise import Noise, seed_of


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return Noise(seed, "test").normal(shape, dtype=torch.float64)


def one_hot(labels, k: int = 10) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(labels), k).double()


# Scores of probabilities


def test_class_score_of_confident_and_balanced_samples_is_the_number_of_classes():
    assert class_score(one_hot(torch.arange(700) % 7, 7)) == pytest.approx((7, 0))


def test_class_score_of_samples_that_are_all_alike_is_one():
    assert class_score(normal(1, 5).softmax(1).expand(100, 5)) == pytest.approx((1, 0))


def test_class_score_equals_the_formula_written_out():
    probs = normal(203, 6).mul(3).softmax(1)
    scores = []
    for part in np.split(probs.numpy()[:200], 10):
        marginal = part.mean(0)
        scores.append(np.exp(np.mean([scipy.stats.entropy(p, marginal) for p in part])))
    assert class_score(probs) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)


def test_class_score_splits_are_contiguous():
    labels = torch.arange(1000)
    assert class_score(one_hot(labels // 100))[0] == pytest.approx(1)  # each tenth holds one class
    assert class_score(one_hot(labels % 10))[0] == pytest.approx(10)


def test_class_score_needs_a_sample_per_split():
    with pytest.raises(ValueError, match="9 samples"):
        class_score(one_hot(range(9)))


def test_classes_count_confident_samples_only():
    sure, unsure = one_hot([0] * 50 + [1] * 2 + [2], 4), torch.tensor([[0.0, 0.0, 0.11, 0.89]]).expand(47, 4)
    assert classes(torch.cat([sure, unsure.double()])) == 2  # 50 %, 2 % exactly; 1 % and .89 are too little


def test_switch_rate_of_frozen_chains_is_zero_and_of_redraws_one():
    n, steps = 3000, 12
    draws = [one_hot((Noise(i).uniform((n,)) ** 2 * 10).long()) for i in range(steps)]  # classes of unequal shares
    assert switch_rate([draws[0]] * steps) == 0
    assert switch_rate(draws) == pytest.approx(1, abs=0.02)
    half = [draws[0].clone()]
    for new in draws[1:]:  # every other redraw is kept
        stays = Noise(len(half), "stays").uniform((n,)) < 0.5
        half.append(torch.where(stays[:, None], half[-1], new))
    assert switch_rate(half) == pytest.approx(0.5, abs=0.02)


def test_switch_rate_knows_collapse_and_doubt():
    assert switch_rate([one_hot([3] * 10)] * 3) == 0
    assert math.isnan(switch_rate([torch.full((10, 2), 0.5)] * 3))
    doubt = torch.cat([one_hot([0, 1], 2), torch.full((2, 2), 0.5)])
    after = torch.cat([one_hot([1, 0], 2), one_hot([0, 1], 2)])  # the doubtful two do not count
    assert switch_rate([doubt, after]) == 2  # always, where independent draws would switch half of the time


# Distances of features


def test_frechet_equals_the_textbook_formula():
    a, b = normal(200, 6, seed=1) @ normal(6, 6, seed=2), normal(300, 6, seed=3) * 2 + 1
    ours = frechet(Statistics.of(a), Statistics.of(b))
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert ours == pytest.approx(expected, rel=1e-8)


def test_frechet_of_two_gaussians_on_a_line():
    one = Statistics(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    two = Statistics(torch.tensor([4.0]).double(), torch.tensor([[25.0]]).double())
    assert frechet(one, two) == pytest.approx(3**2 + (5 - 2) ** 2)


def test_frechet_bears_dead_features_and_says_nan():
    a = torch.cat([normal(100, 3), torch.zeros(100, 4)], 1)
    assert frechet(Statistics.of(a), Statistics.of(a)) == pytest.approx(0, abs=1e-9)
    assert frechet(Statistics.of(a), Statistics.of(a + 1)) == pytest.approx(7)
    assert math.isnan(frechet(Statistics.of(a), Statistics.of(a * math.nan)))


def test_kernel_distance_equals_the_sum_over_pairs_and_torchmetrics():
    a, b = normal(9, 4, seed=1), normal(7, 4, seed=2) + 1

    def k(u, v):
        return (float(u @ v) / 4 + 1) ** 3

    within = [np.mean([k(u, v) for u, v in itertools.permutations(side, 2)]) for side in (a, b)]
    expected = sum(within) - 2 * np.mean([k(u, v) for u in a for v in b])
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-10)
    a, b = normal(1500, 4, seed=1), normal(1500, 4, seed=2) * 1.1  # more than one block of rows
    assert kernel_distance(a, b) == pytest.approx(float(poly_mmd(a, b)), rel=1e-8)


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(normal(20, 3, seed=i), normal(20, 3, seed=-1 - i)) for i in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0


def test_energy_distance_equals_scipys_on_a_line():
    a, b = normal(50, 1, seed=1), normal(70, 1, seed=2) * 2 + 1
    assert energy_distance(a, b) == pytest.approx(scipy.stats.energy_distance(a[:, 0], b[:, 0]) ** 2, rel=1e-6)
    assert energy_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_band_is_made_of_energy_distances_of_halves():
    pool = normal(41, 3)
    order = Noise(5, "split_band").uniform((1, 40)).argsort(dim=1)[0]
    expected = energy_distance(pool[:40][order < 20], pool[:40][order >= 20])
    assert split_band(pool, splits=1, seed=5) == pytest.approx(expected, rel=1e-6)


def test_ninety_five_percent_of_equal_distributions_stay_inside_the_band():
    pool = normal(400, 2)
    band = split_band(pool)
    fresh = [energy_distance(normal(200, 2, seed=2 * i + 1), normal(200, 2, seed=2 * i + 2)) for i in range(200)]
    assert 0.88 <= np.mean([value <= band for value in fresh]) <= 1
    assert max(fresh) > band
    assert energy_distance(pool[:200], pool[200:] + 0.5) > 2 * band


def test_whitening_gives_unit_covariance_and_drops_what_is_dead():
    x = torch.cat([normal(500, 3) @ torch.diag(torch.tensor([10.0, 5.0, 2.0]).double()) + 7, torch.zeros(500, 2)], 1)
    white = Whitening.fit(x)(x)
    assert white.shape == (500, 3)
    assert torch.allclose(torch.cov(white.T), torch.eye(3).double(), atol=1e-9)
    assert Whitening.fit(x, keep=2)(x).shape == (500, 2)
    assert bool(Whitening.fit(torch.ones(9, 4))(torch.ones(9, 4)).eq(0).all())


def pairs(n: int, seed: int) -> list[torch.Tensor]:
    x = normal(n, 4, seed=seed)
    return [x, x[:, :3] + 0.5 * normal(n, 3, seed=seed + 1000)]


def test_joint_distance_sees_dependence_that_no_marginal_shows():
    joint = JointDistance(pairs(1000, 0))
    x, z = pairs(500, 1)
    assert joint([x, z]) <= joint.band()
    assert joint([x, z.roll(1, 0)]) > 1.5 * joint.band()
    assert joint.shuffled() > 1.5 * joint.band()
    marginal = JointDistance([pairs(1000, 0)[1]])
    assert marginal([z.roll(1, 0)]) <= marginal.band()


def test_joint_distance_of_what_is_not_finite_is_nan():
    joint = JointDistance(pairs(100, 0))
    x, z = pairs(50, 1)
    assert math.isnan(joint([x, z * math.nan]))
    broken = JointDistance([x * math.inf, z])
    assert all(map(math.isnan, (broken([x[:25], z[:25]]), broken.band(), broken.shuffled())))


def test_sliced_wasserstein_of_a_shift_and_of_sorted_points():
    x, shift = normal(100, 2), torch.tensor([3.0, 4.0])
    assert sliced_wasserstein(x, x + shift, directions=20_000) == pytest.approx(5 / math.sqrt(2), rel=0.02)
    assert sliced_wasserstein(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    a, b = normal(50, 1, seed=1), normal(50, 1, seed=2) * 3
    assert sliced_wasserstein(a, b) == pytest.approx(
        (a.sort(0).values - b.sort(0).values).square().mean().sqrt().item()
    )
    with pytest.raises(ValueError, match="differ"):
        sliced_wasserstein(a, b[:9])


# Latents, references, toys


def test_probe_finds_the_class_and_nothing_else():
    y = torch.arange(400) % 4
    codes = torch.cat([normal(400, 2), 1e-3 * one_hot(y, 4) + 50], 1)  # tiny and far off: standardising finds it
    assert probe_accuracy(codes[:300], y[:300], codes[300:], y[300:]) == 1
    assert probe_accuracy(codes[:300, :2], y[:300], codes[300:, :2], y[300:]) < 0.45
    assert math.isnan(probe_accuracy(codes * math.nan, y, codes, y))


def test_non_gaussianity_is_nothing_for_a_gaussian_and_known_for_a_mixture():
    mix = normal(5, 5, seed=1)
    assert non_gaussianity(normal(4000, 5) @ mix, normal(2000, 5, seed=9) @ mix) == pytest.approx(0, abs=0.03)
    # two far modes on one of two axes: log-likelihood -log 2 - .5 log 2 pi e against -.5 log (2 pi e 26) on that axis
    far = [
        normal(n, 2, seed=n) + torch.tensor([10.0, 0.0]) * (torch.arange(n) % 2 - 0.5)[:, None] for n in (6000, 4000)
    ]
    assert non_gaussianity(*far) == pytest.approx((0.5 * math.log(26) - math.log(2)) / 2, abs=0.04)
    assert non_gaussianity(*(1000 * z + 5 for z in far)) == pytest.approx(non_gaussianity(*far), abs=1e-6)
    assert math.isnan(non_gaussianity(far[0] * math.nan, far[1]))


def test_gaussian_reference_has_the_moments_of_the_data_and_stays_in_range():
    x = (normal(50, 1, 3, 3) @ normal(3, 3, seed=1) * 0.1).float()
    draws = gaussian_draws(x, 20_000, Noise(0), low=-100, high=100)
    assert torch.allclose(draws.mean(0), x.mean(0), atol=0.02)
    assert torch.allclose(torch.cov(draws.flatten(1).T), torch.cov(x.flatten(1).T), atol=0.02)
    clipped = gaussian_draws(x * 10, 100, Noise(0))
    assert clipped.shape == (100, 1, 3, 3)
    assert (clipped.min(), clipped.max()) == (-1, 1)


def test_mse_is_that_of_pixels_in_unit_range():
    assert pixel_mse(-torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2)) == 1


def test_components_of_all_dimensions_lose_nothing_and_fewer_lose_the_rest():
    x = normal(40, 1, 2, 3)
    assert pixel_mse(x, Components(x, 99).reconstruct(x)) == pytest.approx(0, abs=1e-12)
    values = np.linalg.eigvalsh(np.cov(x.flatten(1).numpy().T, bias=True))
    assert pixel_mse(x, Components(x, 2).reconstruct(x)) == pytest.approx(values[:4].sum() / 6 / 4, rel=1e-6)


def test_modes_and_share_of_a_ring():
    ring = load("ring")
    probs = toys.mode_probs(ring.test.x, ring.modes)
    assert toys.modes_covered(probs) == 8
    assert toys.share(probs) == pytest.approx(1 - math.exp(-4.5), abs=0.004)
    few = torch.cat([ring.modes.centres[:1].expand(970, 2), ring.modes.centres[1:2].expand(30, 2)])
    assert toys.modes_covered(toys.mode_probs(few, ring.modes)) == 1  # 3 % is less than a quarter of an eighth
    assert toys.share(toys.mode_probs(torch.zeros(10, 2), ring.modes)) == 0


def test_distance_of_modes_counts_what_lies_elsewhere():
    ring = load("ring")
    real = toys.mode_probs(ring.validation.x, ring.modes)
    assert toys.mode_distance(real, real) == 0
    evenly = toys.mode_probs(ring.modes.centres, ring.modes)
    half = toys.mode_probs(torch.cat([ring.modes.centres, torch.zeros(8, 2)]), ring.modes)
    assert toys.mode_distance(half, evenly) == pytest.approx(0.5)
    assert toys.mode_distance(evenly[:4], evenly) == pytest.approx(0.5)


# The real Inception score and FID


class StandIn:
    """Takes the place of the Inception network: mean colours as features, and as logits the first of them."""

    def __init__(self):
        self.seen = 0

    def __call__(self, x):
        assert x.dtype == torch.uint8
        self.seen += len(x)
        means = x.double().mean((2, 3))
        return means, means * 0.1


def test_bytes_are_the_inverse_of_dequantisation():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for noise in (None, Noise(0)):
        back = inception.to_bytes(units(x, 256, noise))
        assert back.shape == (1, 3, 16, 16)
        assert all(torch.equal(back[:, c], x[:, 0]) for c in range(3))
    assert inception.to_bytes(torch.tensor([-9.0, 9.0]).reshape(1, 1, 1, 2))[0, 0, 0].tolist() == [0, 255]


def test_inception_scores_are_of_the_extractors_outputs():
    images = (Noise(0).uniform((100, 3, 4, 4)) * 256).to(torch.uint8)
    extractor = StandIn()
    samples = [inception.extract(extractor, part) for part in images[:60].split(25)]
    real = [inception.extract(extractor, part)[0] for part in images[60:].split(25)]
    scores = inception.inception_scores(samples, real)
    features, logits = StandIn()(images)
    score, std = class_score(logits[:60].softmax(1))
    assert extractor.seen == 100
    assert (scores["inception_score"], scores["inception_score_std"]) == pytest.approx((score, std))
    assert scores["fid"] == pytest.approx(frechet(Statistics.of(features[:60]), Statistics.of(features[60:])))


@pytest.mark.parametrize("wrong", [torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)])
def test_inception_refuses_anything_but_rgb_bytes(wrong):
    with pytest.raises(ValueError, match="uint8"):
        inception.extract(StandIn(), wrong)


def test_inception_is_left_out_with_a_line_that_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    assert find_inception() is None
    assert "torch-fidelity cannot be imported" in caplog.text
    made = []
    extractor = nn.Identity()
    library = types.SimpleNamespace(FeatureExtractorInceptionV3=lambda *a, **k: made.append((a, k)) or extractor)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", library)
    monkeypatch.setenv("INCEPTION_WEIGHTS", str(tmp_path / "weights.pth"))
    assert find_inception() is None
    assert "no weights" in caplog.text
    (tmp_path / "weights.pth").touch()
    assert find_inception() is extractor
    assert made[0][0][1] == ["2048", "logits_unbiased"]
    assert made[0][1] == {"feature_extractor_weights_path": str(tmp_path / "weights.pth")}


# The whole, on modules whose faults are known


class Replay(nn.Module):
    """Draws x from the data, and z = x + .1 noise: a perfect model. Its faults are options.

    noise_from: from this i on, x is noise.  frozen: the chain stays where it is.  shuffled: z belongs to another x.
    forgetful: z, and with it codes and reconstructions, is noise.
    """

    latents, N = ("z",), 1

    def __init__(self, data: DataSet, noise_from=None, frozen=False, shuffled=False, forgetful=False):
        super().__init__()
        self.data, self.noise_from, self.frozen = data, noise_from, frozen
        self.shuffled, self.forgetful = shuffled, forgetful
        self.register_buffer("unused", torch.zeros(()))

    def trajectory(self, batch, seed, given={}, seen={}):
        for i in itertools.count():
            noise = Noise(seed, 0 if self.frozen else i)
            real = self.data.train.x
            x = units(real[(noise.uniform((batch,)) * len(real)).long()], self.data.levels, noise)
            if self.noise_from is not None and i >= self.noise_from:
                x = 2 * noise.uniform(x.shape) - 1
            z = self.infer({"x": x}, seed_of(seed, 0 if self.frozen else i))["z"]
            yield {"x": x, "z": z.roll(1, 0) if self.shuffled else z}

    def infer(self, given, seed):
        x, noise = given["x"], Noise(seed, "infer")
        z = noise.normal(x.flatten(1).shape)
        return {"x": x, "z": z if self.forgetful else x.flatten(1) + 0.1 * z}

    def posterior_mean(self, given, latent, seed):
        x = given["x"].flatten(1)
        return Noise(seed).normal(x.shape) if self.forgetful else x

    def reconstruct(self, state, latent, seed):
        return state[latent].reshape(state["x"].shape)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


@pytest.fixture(scope="module")
def judge(digits):
    return train_judge(digits, plan=replace(plan(digits.shape), epochs=8), log=lambda line: None)[0]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(suite, "DRAWS", 300)


FEW = dict(samples=2000, steps=(0, 10), batch=900)


@pytest.fixture(scope="module")
def perfect(digits, judge):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "DRAWS", 1000)
        return evaluate(Replay(digits), digits, judge, untrained=Replay(digits, forgetful=True), **FEW)


def test_metrics_have_the_layout_of_metrics_json(perfect):
    assert set(perfect) == {"samples", "chain", "latent", "reconstruction", "reference"}
    score = {"class_score", "class_score_std", "class_frechet", "class_frechet_ratio", "class_kid"}
    assert set(perfect["samples"]) == score | {"class_score_ratio"}
    assert list(perfect["chain"]) == ["0", "1", "10", "switch_rate"]
    assert set(perfect["chain"]["1"]) == {"class_score", "class_frechet_ratio", "classes", "joint_distance"}
    assert set(perfect["latent"]["z"]) == {"probe_accuracy", "non_gaussianity"}
    assert set(perfect["reconstruction"]["z"]) == {"mse", "same_class"}
    names = {"test", "gaussian", "mean_image", "pca", "raw_pixels", "untrained_encoder"}
    assert set(perfect["reference"]) == names
    assert json.loads(json.dumps(perfect, allow_nan=False)) == perfect
    assert perfect["chain"]["1"]["class_score"] == perfect["samples"]["class_score"]


def test_a_perfect_model_is_at_the_floor(perfect):
    test, chain = perfect["reference"]["test"], perfect["chain"]
    assert test["class_frechet_ratio"] < 0.1
    assert test["joint_distance_shuffled"] > test["joint_distance"]
    assert perfect["samples"]["class_score_ratio"] == pytest.approx(1, abs=0.1)
    for i in ("0", "1", "10"):
        assert chain[i]["class_frechet_ratio"] < 0.1
        assert chain[i]["classes"] == 10
        assert chain[i]["joint_distance"] < 1.1 * test["joint_distance"]
    assert chain["switch_rate"] == pytest.approx(1, abs=0.05)


def test_references_are_what_they_are_called(perfect):
    reference, latent = perfect["reference"], perfect["latent"]["z"]
    assert reference["gaussian"]["class_frechet_ratio"] == pytest.approx(1)
    assert reference["mean_image"]["mse"] == pytest.approx(0.066, abs=0.001)
    assert reference["pca"]["z"]["mse"] == pytest.approx(0, abs=1e-6)  # 64 components of 64 pixels
    assert reference["raw_pixels"]["probe_accuracy"] == latent["probe_accuracy"] > 0.93  # here the codes are the pixels
    assert reference["untrained_encoder"]["z"]["probe_accuracy"] < 0.2  # here the codes are noise
    assert perfect["reconstruction"]["z"]["mse"] == pytest.approx(0.1**2 / 4, rel=0.05)
    assert perfect["reconstruction"]["z"]["same_class"] > 0.97
    assert latent["non_gaussianity"] > -0.5


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(digits, judge, perfect, monkeypatch):
    monkeypatch.setattr(suite, "DRAWS", 1000)
    torch.manual_seed(5)  # the global generator has no say
    module, control = Replay(digits), Replay(digits, forgetful=True)
    assert evaluate(module, digits, judge, untrained=control, **FEW) == perfect
    other = evaluate(module, digits, judge, seed=1, samples=50, steps=())
    assert other["samples"]["class_frechet"] != perfect["samples"]["class_frechet"]


def test_tuning_reads_neither_the_test_split_nor_fits_the_validation_split(digits, judge):
    """Altered test images change nothing; validation images stand where the test images stood, and nothing is fitted on them."""
    few = dict(samples=500, steps=(0,), batch=500)
    found = evaluate(Replay(digits), digits.tuning, judge, **few)
    spoilt = replace(digits, test=replace(digits.test, x=digits.test.x.flip(0) // 2))
    assert evaluate(Replay(digits), spoilt.tuning, judge, **few) == found
    assert found["reference"]["test"] != evaluate(Replay(digits), digits, judge, **few)["reference"]["test"]
    assert torch.equal(digits.tuning.development.x, digits.train.x) and torch.equal(
        digits.tuning.test.x, digits.validation.x
    )
    mean, x = units(digits.train.x, digits.levels).mean(0), units(digits.validation.x, digits.levels)
    assert found["reference"]["mean_image"]["mse"] == pytest.approx(float((x - mean).square().mean()) / 4, abs=0.001)


def test_faults_show_in_their_scores(digits, judge):
    few = dict(samples=600, steps=(10,))
    frozen = evaluate(Replay(digits, frozen=True), digits, judge, **few)
    assert frozen["chain"]["switch_rate"] == 0
    assert frozen["chain"]["10"] == frozen["chain"]["1"]

    metrics = evaluate(Replay(digits, noise_from=5), digits, judge, **few)
    leaving, band = metrics["chain"], metrics["reference"]["test"]["joint_distance"]
    assert leaving["1"]["class_frechet_ratio"] < 0.1
    assert leaving["10"]["class_frechet_ratio"] > 0.5
    assert leaving["10"]["class_score"] < leaving["1"]["class_score"] - 2
    assert leaving["10"]["joint_distance"] > 2 * band

    shuffled = evaluate(Replay(digits, shuffled=True), digits, judge, samples=2000, steps=())
    assert shuffled["chain"]["1"]["class_frechet_ratio"] < 0.1
    assert shuffled["chain"]["1"]["joint_distance"] > shuffled["reference"]["test"]["joint_distance"]

    forgetful = evaluate(Replay(digits, forgetful=True), digits, judge, **few)
    assert forgetful["latent"]["z"]["probe_accuracy"] < 0.2
    assert forgetful["reconstruction"]["z"]["same_class"] < 0.3
    assert forgetful["reconstruction"]["z"]["mse"] > 0.1
    reference = forgetful["reference"]["test"]
    assert forgetful["chain"]["1"]["joint_distance"] < 1.1 * reference["joint_distance"]


def test_chains_that_leave_all_numbers_give_null(digits, judge):
    class Diverged(Replay):
        def trajectory(self, batch, seed, given={}, seen={}):
            for i, state in enumerate(super().trajectory(batch, seed)):
                yield {name: value * math.inf for name, value in state.items()} if i >= 3 else state

    metrics = evaluate(Diverged(digits), digits, judge, samples=100, steps=(3,))
    json.dumps(metrics, allow_nan=False)
    assert metrics["chain"]["3"]["class_frechet_ratio"] is None
    assert metrics["chain"]["3"]["joint_distance"] is None
    assert metrics["chain"]["1"]["class_frechet_ratio"] is not None


def test_images_without_labels_are_scored_in_pixels(digits):
    bare = replace(
        digits, classes=0, **{s: replace(getattr(digits, s), y=None) for s in ("train", "validation", "test")}
    )
    metrics, noisy = (evaluate(Replay(bare, noise_from=start), bare, **FEW) for start in (None, 0))
    assert set(metrics["samples"]) == {"sliced_wasserstein"}
    assert metrics["samples"]["sliced_wasserstein"] < 2 * metrics["reference"]["test"]["sliced_wasserstein"]
    assert noisy["samples"]["sliced_wasserstein"] > 3 * metrics["reference"]["test"]["sliced_wasserstein"]
    assert metrics["reference"]["gaussian"]["sliced_wasserstein"] > metrics["samples"]["sliced_wasserstein"]
    assert "switch_rate" not in metrics["chain"]
    assert set(metrics["latent"]["z"]) == {"non_gaussianity"}
    assert metrics["reconstruction"]["z"] == {"mse": pytest.approx(0.1**2 / 4, rel=0.05)}
    assert set(metrics["reference"]) == {"test", "gaussian", "mean_image", "pca"}


def test_toys_are_scored_by_their_modes():
    ring = load("ring")
    scores = {"modes", "share", "sliced_wasserstein"}
    metrics = evaluate(Replay(ring), ring, **FEW)
    assert set(metrics["samples"]) == scores
    assert set(metrics["chain"]["10"]) == scores | {"joint_distance"}
    assert metrics["samples"]["modes"] == 8
    assert metrics["samples"]["share"] == pytest.approx(0.989, abs=0.015)
    assert metrics["samples"]["sliced_wasserstein"] < 3 * metrics["reference"]["test"]["sliced_wasserstein"]
    assert metrics["chain"]["switch_rate"] == pytest.approx(1, abs=0.05)
    assert metrics["reconstruction"]["z"] == {"same_class": pytest.approx(1, abs=0.01)}
    noisy = evaluate(Replay(ring, noise_from=0), ring, **FEW)["samples"]
    assert noisy["share"] < 0.2
    assert noisy["sliced_wasserstein"] > 2 * metrics["reference"]["test"]["sliced_wasserstein"]


def test_two_latents_and_labels_among_the_variables(digits, judge):
    class Two(Replay):
        latents = ("z", "y", "w")

        def infer(self, given, seed):
            state = super().infer(given, seed)
            return state | {"y": torch.zeros(len(given["x"]), dtype=torch.int64), "w": state["z"][:, :5]}

        def trajectory(self, batch, seed, given={}, seen={}):
            for state in super().trajectory(batch, seed):
                yield state | self.infer({"x": state["x"]}, seed)

        def posterior_mean(self, given, latent, seed):
            return self.infer(given, seed)[latent]

        def reconstruct(self, state, latent, seed):
            return state["x"] if latent == "w" else super().reconstruct(state, latent, seed)

    metrics = evaluate(Two(digits), digits, judge, samples=100, steps=())
    assert set(metrics["latent"]) == set(metrics["reconstruction"]) == set(metrics["reference"]["pca"]) == {"z", "w"}
    assert metrics["latent"]["w"]["probe_accuracy"] < metrics["latent"]["z"]["probe_accuracy"]
    assert metrics["reconstruction"]["w"] == {"mse": 0, "same_class": 1}
    assert metrics["reference"]["pca"]["w"]["mse"] > 0.01


def test_the_real_scores_join_the_samples_of_byte_images_only(digits, judge):
    extractor = StandIn()
    few = dict(samples=50, steps=(), inception=extractor, inception_samples=70)
    assert "fid" not in evaluate(Replay(digits), digits, judge, **few)["samples"]
    assert extractor.seen == 0
    data = replace(digits, levels=256)
    metrics = evaluate(Replay(data), data, judge, **few)["samples"]
    assert {"inception_score", "inception_score_std", "fid"} < set(metrics)
    assert extractor.seen == 70 + len(data.development)


def test_reconstructions_are_of_all_test_images_and_of_no_others(digits, judge):
    seen = []

    class Recorder(Replay):
        def reconstruct(self, state, latent, seed):
            seen.append(((state["x"] + 1) / 2 * digits.levels).floor().to(torch.uint8))
            return super().reconstruct(state, latent, seed)

    evaluate(Recorder(digits), digits, judge, samples=20, steps=())
    images = [{image.numpy().tobytes() for image in x} for x in (torch.cat(seen), digits.test.x)]
    assert images[0] == images[1]


def test_too_few_samples_are_refused(digits, judge):
    with pytest.raises(ValueError, match="at least 10"):
        evaluate(Replay(digits), digits, judge, samples=9)


def test_as_many_samples_as_the_class_score_has_parts(digits, judge):
    """Each part holds one image then, of samples and of real ones: a score of 1, and nothing to take a share of."""
    found = evaluate(Replay(digits), digits, judge, samples=10, steps=())
    assert found["samples"]["class_score"] == found["reference"]["test"]["class_score"] == 1
    assert found["samples"]["class_score_ratio"] is None


def test_validation_distance_ranks_and_never_reads_the_test_split(digits, judge):
    good = validation_distance(Replay(digits), digits, judge, samples=300)
    bad = validation_distance(Replay(digits, noise_from=0), digits, judge, samples=300)
    assert set(good) == {"class_frechet", "classes", "distance"}
    assert good["distance"] == good["class_frechet"] < 0.2 * bad["distance"]
    assert good == validation_distance(Replay(digits), digits, judge, samples=300)
    blind = replace(digits, test=None)
    assert validation_distance(Replay(blind), blind, judge, samples=300) == good
    fewer = replace(digits, validation=digits.validation[torch.arange(50)])
    assert validation_distance(Replay(digits), fewer, judge, samples=300) != good


def test_validation_distance_is_that_of_the_samples_at_n(digits, judge):
    early, late = Replay(digits, noise_from=3), Replay(digits, noise_from=3)
    early.N, late.N = 2, 3
    distances = [validation_distance(module, digits, judge, samples=300)["distance"] for module in (early, late)]
    assert distances[0] < 0.2 * distances[1]


def test_validation_distance_is_there_for_toys_and_never_nan():
    ring = load("ring")
    good = validation_distance(Replay(ring), ring, samples=300)
    assert good["distance"] < 0.1  # 300 points: a share of 1/8 is known to .02
    assert good["modes"] == 8
    assert good["distance"] < validation_distance(Replay(ring, noise_from=0), ring, samples=300)["distance"]

    class Nowhere(Replay):
        def trajectory(self, batch, seed, given={}, seen={}):
            yield from ({"x": state["x"] * math.nan} for state in super().trajectory(batch, seed))

    assert validation_distance(Nowhere(ring), ring, samples=300)["distance"] == math.inf


def test_examples_come_all_before_any_comes_again(digits):
    indices = torch.cat([i for _, i in batches(digits, digits.test, (0,), 900, size=100)])
    assert sorted(indices[:360].tolist()) == sorted(indices[360:720].tolist()) == list(range(360))
    assert indices[:360].tolist() != indices[360:720].tolist()
    assert len(indices) == 900
