"""Holes, chains that hold parts of images and listen to them, and the numbers of their fills."""

import json
import shutil
from itertools import islice, product

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from benchmarks import fill
from gibbsnet import plots, sample
from gibbsnet.__main__ import main
from gibbsnet.chain import Attentive, Chain, Stance
from gibbsnet.classifier import load_judge
from gibbsnet.config import load as load_config
from gibbsnet.config import read
from gibbsnet.data import HOLES, DataError, hole, load
from gibbsnet.evaluation import evaluate_apart, evaluate_fills, evaluate_latent_holes, evaluate_mixes, fills
from gibbsnet.evaluation.fills import mixed, nearest, ridge, scores
from gibbsnet.modules import build_chain
from gibbsnet.noise import Noise
from gibbsnet.train import load_run
from tests.models import GIBBS, GIBBS2, HELD, PAIR, TOWER, graph, module, normal

B = 6
X = {"x": normal(B, 3)}
SWEEP = Chain(["z", "x"], ["z", "x"], mode=HELD)


def seen_of(kind, shape=(3,), n=B):
    return {"x": ~hole(kind, shape, n, Noise(0, "hole"))}


# Holes


@pytest.mark.parametrize("kind", HOLES)
def test_a_hole_takes_its_part_and_nothing_else(kind):
    missing = hole(kind, (2, 8, 6), 50, Noise(1))
    assert missing.dtype == torch.bool and missing.shape == (50, 2, 8, 6)
    where = {"left": np.s_[..., :3], "right": np.s_[..., 3:], "top": np.s_[..., :4, :], "bottom": np.s_[..., 4:, :]}
    if kind == "random":
        share = missing.double().mean()
        assert (share - 0.5).abs() < 5 * (0.25 / (50 * 48)) ** 0.5
        assert torch.equal(missing[:, 0], missing[:, 1]), "a pixel is missing in all of its channels"
        assert torch.equal(missing, hole(kind, (2, 8, 6), 50, Noise(1)))
        assert not torch.equal(missing, hole(kind, (2, 8, 6), 50, Noise(2)))
    elif kind == "row":
        assert missing[..., 3, :].all() and missing.sum() == 50 * 2 * 6
    else:
        assert missing[where[kind]].all() and missing.sum() == missing.numel() / 2


def test_a_hole_can_lie_in_one_channel_and_in_a_vector():
    missing = hole("left", (3, 8, 8), 2, Noise(0), channels=[1])
    assert missing[:, 1, :, :4].all() and missing.sum() == 2 * 32
    assert hole("right", (4,), 2, Noise(0)).tolist() == [[False, False, True, True]] * 2
    assert hole("random", (1000,), 1, Noise(0), share=0.1).double().mean() < 0.2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("middle", (1, 8, 8)), "hole 'middle': .* expected one of left, right"),
        (("top", (16,)), r"hole 'top': for values of shape \(16,\) expected one of left, right, random"),
        (("random", (16,), 0.0), "more than 0 and less than 1"),
        (("random", (16,), 1.0), "more than 0 and less than 1"),
        (("left", (3, 8, 8), 0.5, [3]), r"channels \[3\]: expected some of 0..2"),
        (("left", (3, 8, 8), 0.5, []), "expected some of 0..2"),
        (("left", (16,), 0.5, [0]), "have none"),
        (("left", (1,)), r"hole 'left': of values of shape \(1,\) it leaves all or nothing"),
        (("right", (1,)), "leaves all or nothing"),
        (("top", (3, 1, 8)), "leaves all or nothing"),
        (("row", (3, 1, 8)), "leaves all or nothing"),
        (("random", (1, 8, 8), 1e-6), "leaves all or nothing"),
    ],
)
def test_holes_that_there_are_not(arguments, words):
    kind, shape, *rest = arguments
    with pytest.raises(DataError, match=words):
        hole(kind, shape, 2, Noise(0), *rest)


@pytest.mark.parametrize(
    "given, seen, words",
    [
        ({"x": normal(B, 2)}, {}, r"the values of x: shape \(6, 2\), expected \(6, 3\)"),
        ({"x": normal(B + 1, 3)}, {}, r"the values of x: shape \(7, 3\)"),
        (X, {"x": torch.ones(3, dtype=torch.bool)}, r"the mask of x: shape \(3,\), expected \(6, 3\)"),
        (X, {"x": torch.ones(B, 3)}, "the mask of x must be bool"),
        ({**X, "w": normal(B, 3)}, {}, "no variable is called w: expected some of x, z"),
    ],
)
def test_values_and_masks_of_another_kind_are_refused(given, seen, words):
    with pytest.raises(ValueError, match=words):
        SWEEP.run(graph(), Noise(0), given, seen, B)


# Chains that listen


@pytest.mark.parametrize("kind", ["left", "right", "random", "nothing", "everything"])
@pytest.mark.parametrize("dreams", [0, 40])
@pytest.mark.parametrize("variables, chain", [(PAIR, GIBBS[1]), (TOWER, GIBBS2[1])])
def test_what_is_held_stays_bit_equal_at_every_step(kind, dreams, variables, chain):
    g, chain = graph(variables), Chain(chain.start, chain.blocks, mode=HELD)
    whole = torch.ones(B, 3, dtype=torch.bool)
    seen = {"nothing": {"x": ~whole}, "everything": {"x": whole}}.get(kind) or seen_of(kind)
    found = next(Chain(chain.start).trajectory(g, Noise(9), batch=dreams)) if dreams else {}
    states = list(islice(Attentive(chain, {"x": 0.5}).trajectory(g, Noise(0), X, seen, B, found), 8))
    for state in states:
        assert state.keys() == set(variables)
        assert torch.equal(state["x"][seen["x"]], X["x"][seen["x"]])
        assert not (state["x"] == X["x"])[~seen["x"]].any()
    assert any(not torch.equal(a["z" if "z" in a else "z1"], states[0]["z" if "z" in a else "z1"]) for a in states[1:])


def test_a_latent_s_part_is_held_too():
    m, z = module("gibbsnet", "ring"), normal(B, 2)
    seen = {"z": ~hole("left", z.shape[1:], B, Noise(0))}
    for state in islice(m.fill({"z": z}, seen, 0), 5):
        assert torch.equal(state["z"][seen["z"]], z[seen["z"]]) and not (state["z"] == z)[~seen["z"]].any()


@pytest.mark.parametrize("unseen", [float("nan"), 1e9])
def test_a_listening_chain_does_not_know_the_answer(unseen):
    m, x = module("gibbsnet", "ring"), normal(B, 2)
    seen = {"x": ~hole("left", (2,), B, Noise(0))}
    other = torch.where(seen["x"], x, torch.tensor(unseen, dtype=torch.float64))
    for a, b in islice(
        zip(m.fill({"x": x}, seen, 0, 0.5, 50), m.fill({"x": other}, seen, 0, 0.5, 50), strict=False), 4
    ):
        assert all(torch.equal(a[v], b[v]) for v in a)


def test_a_sweep_is_taken_with_metropolis_s_probability():
    """The share of examples that take it against min(1, L'/L), computed here from the means; one state, many examples."""
    g, n, scale = graph(), 20000, 0.4
    x, seen = {"x": X["x"][:1].expand(n, 3).clone()}, seen_of("left", n=n)
    listening = Attentive(SWEEP, {"x": scale})
    state = SWEEP.init(g, Noise(0), x, seen, n)
    new, plain = listening.step(g, state, Noise(1), x, seen), SWEEP.step(g, state, Noise(1), x, seen)
    taken = (new["z"] == plain["z"]).all(1)
    assert torch.equal(new["x"], torch.where(taken[:, None], plain["x"], state["x"]))
    assert torch.equal(new["z"], torch.where(taken[:, None], plain["z"], state["z"]))

    def likelihood(s):
        square = (g["x"].mean({"z": s["z"]}, n) - x["x"]).square()
        return (-(square * seen["x"]).sum(1) / (2 * scale**2)).exp()

    p = (likelihood(plain) / likelihood(state)).clamp(max=1)
    assert 0.05 < 1 - taken.double().mean() < 0.95
    assert (taken.double().mean() - p.mean()).abs() < 5 * (p * (1 - p)).mean().sqrt() / n**0.5
    assert taken[p == 1].all()


def test_the_start_is_the_dream_that_explains_what_is_held():
    g = graph()
    dreams = next(Chain(["z", "x"]).trajectory(g, Noise(3), batch=500))
    means, seen = g["x"].mean({"z": dreams["z"]}, 500), seen_of("left")
    x = means[[7, 50, 99, 200, 400, 450]].detach()
    sharp = Attentive(SWEEP, {"x": 1e-4}).init(g, Noise(0), {"x": x}, seen, B, dreams)
    assert torch.equal(sharp["z"], dreams["z"][[7, 50, 99, 200, 400, 450]])
    # With the scale a law is drawn from: every dream's share against exp(-d^2 / 2 s^2).
    n, scale = 20000, 0.3
    many, held = {"x": x[:1].expand(n, 3).clone()}, seen_of("left", n=n)
    z = Attentive(SWEEP, {"x": scale}).init(g, Noise(0), many, held, n, {v: d[:20] for v, d in dreams.items()})["z"]
    share = torch.stack([(z == d).all(1).double().mean() for d in dreams["z"][:20]])
    weight = -((means[:20] - x[0]).square() * held["x"][0]).sum(1) / (2 * scale**2)
    assert (share - weight.softmax(0)).abs().max() < 5 * (0.25 / n) ** 0.5 and share.sum() == 1


def test_a_start_agrees_with_what_is_held_whole():
    """TOWER with z2 held: a dream is chosen among those that have the example's z2, by x; where none has it, among all."""
    g, n = graph(TOWER), 8000
    chain = Chain(["z2", "z1", "x"], ["z1", ["x", "z2"]], mode=HELD | {"z2": Stance(clamped=True)})
    ways = normal(3, 2, seed=4)
    held = ways[torch.arange(30) % 2]  # no dream has the third
    dreams = next(Chain(chain.start, mode={"z2": Stance(clamped=True)}).trajectory(g, Noise(3), {"z2": held}, {}, 30))
    given = {"x": X["x"][:1].expand(n, 3), "z2": ways[torch.arange(n) % 3]}
    state = Attentive(chain, {"x": 0.3}).init(g, Noise(0), given, seen_of("left", n=n), n, dreams)
    which = (state["z1"][:, None] == dreams["z1"]).all(2).double().argmax(1)
    mean, seen = g["x"].mean({"z1": dreams["z1"]}, 30), seen_of("left", n=1)["x"]
    weight = (-((mean - X["x"][0]).square() * seen).sum(1) / (2 * 0.3**2)).exp()
    for way in range(3):
        expected = weight * (torch.arange(30) % 2 == way if way < 2 else 1)
        found = which[torch.arange(n) % 3 == way].bincount(minlength=30) / (torch.arange(n) % 3 == way).sum()
        assert (found - expected / expected.sum()).abs().max() < 5 * (0.25 / (n / 3)) ** 0.5
        assert not found[expected == 0].any()


def test_a_chain_that_refuses_nothing_is_plain_after_its_chosen_start():
    g, dreams = graph(), next(Chain(SWEEP.start).trajectory(graph(), Noise(9), batch=40))
    free = Attentive(SWEEP, {"x": 0.5}, refuses=False)
    walk = free.trajectory(g, Noise(0), X, seen_of("left"), B, dreams)
    state = Attentive(SWEEP, {"x": 0.5}).init(g, Noise(0), X, seen_of("left"), B, dreams)
    assert all(torch.equal(state[v], x) for v, x in next(walk).items())
    for i, found in enumerate(islice(walk, 4), 1):
        state = SWEEP.step(g, state, Noise(0).at(i), X, seen_of("left"))
        assert all(torch.equal(state[v], found[v]) for v in state)


@pytest.mark.parametrize("dreams, drawn", [(7, 7), (2, 3)])
def test_dreams_hold_in_turn_what_the_examples_hold_whole(dreams, drawn, monkeypatch):
    m, z2 = module("gibbsnet2", "digits"), normal(3, 16).repeat(2, 1)
    x, seen = normal(6, 1, 8, 8), {"x": ~hole("left", (1, 8, 8), 6, Noise(0))}
    given, init = [], Attentive.init
    monkeypatch.setattr(Attentive, "init", lambda *args: (given.append(args[-1]), init(*args))[1])
    next(m.fill({"x": x, "z2": z2}, seen, 0, 0.5, dreams))
    found = {tuple(row) for row in given[0]["z2"].tolist()}
    assert len(given[0]["z2"]) == drawn and found == {tuple(row) for row in z2.tolist()}
    assert given[0]["z1"].unique(dim=0).shape[0] == drawn  # each is a dream of its own
    next(m.fill({"x": x}, seen, 0, 0.5, dreams))  # nothing is held whole: free dreams
    free = next(islice(m.trajectory(dreams, 0), m.N, None))
    assert all(torch.equal(given[1][v], free[v]) for v in free)


def test_a_scale_must_be_positive():
    with pytest.raises(ValueError, match="the scale of what is held must be positive"):
        Attentive(SWEEP, {"x": 0.0})


def test_misfit_is_what_the_latents_do_not_know():
    m, x = module("ali", "ring"), {"x": normal(5000, 2)}
    state = m.infer(x, 0)
    expected = (m.ema.module["x"].mean({"z": state["z"]}, 5000) - x["x"]).square().mean().sqrt().detach()
    assert m.misfit(x, 0) == pytest.approx(float(expected))


# Numbers


def test_references_are_scikit_learn_s():
    known, x = torch.randn(80, 1, 4, 4).float(), torch.randn(5, 1, 4, 4)
    missing = hole("random", (1, 4, 4), 5, Noise(0))
    filled, index = ridge(known, x, missing), nearest(known, x, ~missing)
    for k in range(5):
        gone = missing[k].flatten().numpy()
        rows, row = known.flatten(1).numpy(), x[k].flatten().numpy()
        fit = Ridge(alpha=1.0).fit(rows[:, ~gone], rows[:, gone])
        assert np.allclose(filled[k].flatten().numpy()[gone], fit.predict(row[None, ~gone])[0], atol=1e-4)
        assert np.array_equal(filled[k].flatten().numpy()[~gone], row[~gone])
        found = NearestNeighbors(n_neighbors=1).fit(rows[:, ~gone]).kneighbors(row[None, ~gone])[1]
        assert index[k] == found[0, 0]


def test_start_and_refusals_are_told_apart(judges):
    m = module("gibbsnet", "digits").float()
    data, judge = load("digits"), load_judge(judges / "digits.pt")[0]
    options = dict(holes=["right"], steps=[0, 3], images=40, dreams=30)
    apart = evaluate_apart(m, data, judge, **options)["right"]
    usual = evaluate_fills(m, data, judge, **options)["right"]
    assert apart.keys() == {f"{name} {i}" for name in ("plain", "attentive", "refused", "chosen") for i in (0, 3)}
    for name, row in apart.items():
        assert row == usual.get(name, row)
    assert apart["refused 0"] == apart["plain 0"] != apart["chosen 0"] == apart["attentive 0"]
    assert len({tuple(apart[f"{name} 3"].values()) for name in ("plain", "attentive", "refused", "chosen")}) == 4


def test_a_part_of_a_latent_is_held_and_all_of_the_image_is_drawn(judges, monkeypatch):
    m = module("gibbsnet2", "digits").float()
    data, judge = load("digits"), load_judge(judges / "digits.pt")[0]
    calls, fill_of = [], type(m).fill
    monkeypatch.setattr(type(m), "fill", lambda *rest, **more: calls.append(rest[1:3]) or fill_of(*rest, **more))
    infer, inferences = type(m).infer, []

    def inferring(self, given, seed):
        inferences.append((given["x"], infer(self, given, seed), seed))
        return inferences[-1][1]

    monkeypatch.setattr(type(m), "infer", inferring)
    found = evaluate_latent_holes(m, data, judge, steps=[1, 2], images=40)
    x, _, known, _ = fills._examples(data, 40, 0)
    (of, inferred, seed), (of_known, known_z, other) = inferences
    assert torch.equal(of, x) and torch.equal(of_known, known)
    assert seed != other, "else the k-th known image would have the k-th test image's noise"
    assert found.keys() == {"z1", "z2"}
    assert all(of.keys() == {"none", "random", "left"} for of in found.values())
    for (given, seen), (v, kind) in zip(calls, product(found, fills.IN_LATENT), strict=True):
        assert given.keys() == seen.keys() == {v} and given[v].shape[0] == 40 * fills.FILLS
        held, entries = seen[v].double().mean(0), torch.arange(given[v].shape[1])
        if kind == "random":
            assert ((held - 0.5).abs() < 0.4).all() and seen[v].double().mean() == pytest.approx(0.5, abs=0.1)
        else:
            assert torch.equal(held.bool(), (entries >= len(entries) // 2) | (kind == "none"))
        assert torch.equal(given[v].view(fills.FILLS, 40, -1)[3], inferred[v]), "as the model infers it of these images"
    whole, half = found["z1"]["none"], found["z1"]["left"]
    assert whole.keys() == {"real", "mean", "nearest", "ridge", "plain 1", "plain 2"}
    assert (
        whole["real"]["mse"] == 0 < whole["ridge"]["mse"] != half["ridge"]["mse"]
        and whole["plain 1"] != half["plain 1"]
    )
    assert whole["mean"] == half["mean"], "all of x is missing"
    told = dict(
        fills._told_by(known, known_z["z1"], x, inferred["z1"], hole("left", inferred["z1"][0].shape, 40, Noise(0)))
    )
    for name, shown in told.items():
        expected = scores(judge, x, shown[None], torch.ones_like(x, dtype=torch.bool))
        assert half[name] == pytest.approx(expected), "by the z of the very images"


def test_references_see_of_an_image_no_more_than_the_latent():
    known, x, missing = torch.randn(200, 1, 4, 4), torch.randn(5, 1, 4, 4), hole("left", (4,), 5, Noise(0))
    known_z, z = known.flatten(1)[:, :4] * 2, x.flatten(1)[:, :4] * 2
    told = dict(fills._told_by(known, known_z, x, z, missing))
    for k in range(5):
        fit = Ridge(alpha=1.0).fit(known_z[:, 2:].numpy(), known.flatten(1).numpy())
        assert np.allclose(told["ridge"][k].flatten(), fit.predict(z[k : k + 1, 2:].numpy())[0], atol=1e-4)
        index = NearestNeighbors(n_neighbors=1).fit(known_z[:, 2:].numpy()).kneighbors(z[k : k + 1, 2:].numpy())[1]
        assert torch.equal(told["nearest"][k], known[index[0, 0]])
    assert torch.allclose(told["mean"], known.mean(0).expand_as(x)) and torch.equal(told["real"], x)


class ByBrightness(torch.nn.Module):
    """Two classes: dark and bright."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(100.0))

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return self.slope * torch.stack([-mean, mean], 1)


def test_scores_of_fills_by_hand():
    x, missing = torch.full((14, 1, 2, 2), 0.5), hole("left", (1, 2, 2), 14, Noise(0))
    perfect = scores(ByBrightness(), x, x[None], missing)
    assert perfect["mse"] == perfect["mse_of_mean"] == perfect["diversity"] == 0 and perfect["class_kept"] == 1
    fills = torch.stack([torch.where(missing, v, x) for v in (0.3, 0.7, -3.5)])
    found = scores(ByBrightness(), x, fills, missing)
    assert found["mse"] == pytest.approx((0.04 + 0.04 + 16) / 12)
    assert found["mse_of_mean"] == pytest.approx((0.5 - (0.3 + 0.7 - 3.5) / 3) ** 2 / 4)
    assert found["diversity"] == pytest.approx((0.4**2 + 4.2**2 + 3.8**2) / 12)
    assert found["class_kept"] == pytest.approx(2 / 3) and found["class_voted"] == 1


def test_every_filler_is_scored(judges):
    m = module("gibbsnet", "digits").float()
    data, judge = load("digits"), load_judge(judges / "digits.pt")[0]
    found = evaluate_fills(m, data, judge, holes=["left"], steps=[0, 1], images=40, dreams=20)["left"]
    assert found.keys() == {"real", "mean", "nearest", "ridge", "plain 0", "plain 1", "attentive 0", "attentive 1"}
    assert found["real"]["mse"] == 0 and found["real"]["class_kept"] == 1
    assert 0 < found["ridge"]["mse"] < found["mean"]["mse"] and found["nearest"]["class_kept"] > 0.7
    assert found["plain 1"] != found["plain 0"] and found["plain 0"]["diversity"] > 0 == found["mean"]["diversity"]
    again = evaluate_fills(m, data, judge, holes=["left"], steps=[0, 1], images=40, dreams=20)["left"]
    assert again == found


def test_a_label_is_held_and_told_to_the_references(judges, monkeypatch):
    m = module("labelled", "digits").float()
    data, judge = load("digits"), load_judge(judges / "digits.pt")[0]
    given, fill_of = [], type(m).fill
    monkeypatch.setattr(type(m), "fill", lambda *rest, **more: given.append(rest[1]) or fill_of(*rest, **more))
    options = {"holes": ["left"], "steps": [0, 1], "images": 40, "dreams": 20}
    plain, told = (evaluate_fills(m, data, judge, **options, labelled=labelled)["left"] for labelled in (False, True))
    assert [set(values) for values in given] == [{"x"}] * 2 + [{"x", "y"}] * 2
    assert told.keys() == plain.keys() and told["real"] == plain["real"]
    asked = given[-1]["y"].view(fills.FILLS, 40)
    assert torch.equal(asked, asked[:1].expand_as(asked)) and len(asked[0].unique()) == 10
    read = judge(given[-1]["x"][:40]).argmax(1)
    assert (read == asked[0]).double().mean() > 0.9, "of the images that they stand beside"
    assert told["mean"]["mse"] < plain["mean"]["mse"] and told["mean"]["class_kept"] > plain["mean"]["class_kept"] + 0.2


def test_references_that_know_the_label_are_those_of_its_class():
    known, labels = torch.randn(60, 1, 4, 4), torch.arange(60) % 3
    x, y = torch.randn(9, 1, 4, 4), torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    missing = hole("random", (1, 4, 4), 9, Noise(0))
    found = fills.by_class(known, labels, x, y, missing)
    assert found.keys() == {"real", "mean", "nearest", "ridge"}
    for k in range(9):
        alone = dict(fills.references(known[labels == y[k]], x[k : k + 1], missing[k : k + 1]))
        assert all(torch.allclose(found[name][k], fill[0], atol=1e-12) for name, fill in alone.items())


def test_scores_of_mixes_by_hand():
    """Each x is mixed with the next: dark with bright, bright with bright, bright with dark."""
    x = torch.tensor([-0.5, 0.5, 0.5]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    mix = torch.where(hole("left", (1, 2, 2), 3, Noise(0)), x.roll(-1, 0), x)
    shown = torch.stack([torch.full_like(x, v) for v in (-0.3, 0.3)])
    found = mixed(ByBrightness(), x, mix, shown)
    assert found["either"] == pytest.approx(5 / 6), "the dark picture of two bright ones is neither's"
    pixels = [(a - m) ** 2 / 4 for a in (-0.3, 0.3) for m in (-0.5, 0.5, 0.5, 0.5, 0.5, -0.5)]  # halves of the three
    assert found["mse"] == pytest.approx(sum(pixels) / 12)
    assert found["class_score"] == scores(ByBrightness(), x, shown, mix > 0)["class_score"] > 1.5


def test_mixes_are_drawn_from_what_the_chain_makes_of_both_halves(judges):
    m = module("gibbsnet", "digits").float()
    data, judge = load("digits"), load_judge(judges / "digits.pt")[0]
    found, again = (
        evaluate_mixes(m, data, judge, holes=["top"], steps=[1, 2], images=40, dreams=20)["top"] for _ in "12"
    )
    assert found == again
    assert found.keys() == {"pasted", "mean", "nearest", "plain 1", "plain 2", "attentive 1", "attentive 2"}
    assert found["pasted"]["mse"] == 0 < found["nearest"]["mse"] < found["mean"]["mse"]
    assert found["mean"]["either"] < 0.5 < found["pasted"]["either"] and found["mean"]["class_score"] < 1.01
    assert found["plain 1"] != found["plain 2"] and found["plain 1"]["mse"] > 0, "x is held, and so drawn again"


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory, judges):
    """A short run of the two-latent model, for sampling."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    settings = ["steps=2", "every.log=1", "every.validate=2", "every.checkpoint=2", "tracking.mode=disabled", f"judges={judges}",
                "trainer.accelerator=cpu", "trainer.progress=false"]  # fmt: skip
    assert main(["train", "model=gibbsnet2", f"run={folder}", *settings]) == 0
    return folder


@pytest.mark.parametrize(
    "settings, held",
    [
        (["clamp.hole=top"], {"x": "top"}),
        (["clamp.hole=row"], {"x": "row"}),
        (["clamp.hole=random", "clamp.share=0.2", "clamp.attend=false"], {"x": "random"}),
        (["clamp.hole=left", "clamp.of=z1", "clamp.whole=[z2]"], {"z1": "left"}),
        (["clamp.hole=bottom", "clamp.mix=true", "clamp.dreams=30"], {}),
        (["clamp.hole=top", "mode=dreaming", "clamp.dreams=30"], {"x": "top"}),
        (["clamp.hole=top", "mode=ready_to_hand", "clamp.whole=[z2]", "clamp.dreams=30"], {"x": "top"}),
    ],
)
def test_fills_are_drawn_and_written(run, settings, held):
    assert main(["sample", f"run={run}", *settings]) == 0
    assert (run / "samples" / "fill.png").stat().st_size > 1000
    with np.load(run / "samples" / "fill.npz") as file:
        filled = {name: file[name] for name in file.files}
    assert filled["x"].shape == (4, 10, 1, 8, 8) and filled["z1"].shape[:2] == (4, 10)
    assert {name for name in filled if name.startswith("held_")} == {f"held_{v}" for v in held}
    for v, kind in held.items():
        mask = filled[f"held_{v}"]
        if kind != "random":
            assert np.array_equal(mask, ~hole(kind, mask.shape[1:], 10, Noise(0)).numpy())
        same = (filled[v] == filled[v][:1]).all(0)
        assert same[mask].all() and not same[~mask].any()


def test_fills_are_shown_after_the_sweeps_that_are_asked_for(run, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "fills", lambda columns, *_: seen.append(columns) or Figure((1, 1)))
    for steps in ("[1,4,30]", "[0,5]"):
        assert main(["sample", f"run={run}", "clamp.hole=top", "clamp.dreams=30", f"clamp.steps={steps}"]) == 0
    assert [name for name in seen[0] if name.startswith("i")] == ["i = 1", "i = 4", "i = 30"]
    assert [name for name in seen[1] if name.startswith("i")] == ["i = 0", "i = 5"]
    with np.load(run / "samples" / "fill.npz") as file:
        assert torch.equal(torch.from_numpy(file["x"][0]), seen[1]["i = 5"])


def test_fills_are_drawn_in_the_mode_that_is_asked_for(run):
    """Where x is impotent, other values of what is held change nothing that is drawn; in a dream they do."""
    m, x = load_run(run, read(run), (1, 8, 8)), normal(B, 1, 8, 8).float()
    chains = {}
    for mode in ("daydreaming", "dreaming"):
        chain = build_chain(**load_config([f"mode={mode}"], read(run))["chains"]["unclamped"])
        walks = [m.fill({"x": held}, {}, 0, chain=chain) for held in (x, x.flip(0))]
        chains[mode] = [list(islice(walk, 4))[-1]["z1"] for walk in walks]
    assert torch.equal(*chains["daydreaming"]) and not torch.equal(*chains["dreaming"])


def test_a_mix_holds_one_half_of_each_image_and_the_other_half_of_the_next(run):
    config = read(run)
    m, clamp = load_run(run, config, (1, 8, 8)), {**config["clamp"], "hole": "bottom", "mix": True}
    real = {"x": normal(B, 1, 8, 8).float()}
    given, seen = sample.held(m, real, clamp, 0)
    assert seen == {} and torch.equal(given["x"][:, :, :4], real["x"][:, :, :4])
    assert torch.equal(given["x"][:, :, 4:], real["x"].roll(-1, 0)[:, :, 4:]), "from the next image"
    for state in islice(m.fill(given, seen, 0), 5):
        assert torch.equal(state["x"], given["x"])


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("channels", [None, [1]])
@pytest.mark.parametrize("kind", HOLES)
def test_a_hole_in_images_is_filled_and_the_rest_stays_bit_equal(kind, channels, listens):
    """Step by step, in all of the channels or in one of them."""
    made = graph({**PAIR, "x": {**PAIR["x"], "shape": [3, 4, 4]}})
    chain = Chain(GIBBS[1].start, GIBBS[1].blocks, mode=HELD)
    chain = Attentive(chain, {"x": 0.5}) if listens else chain
    x, missing = normal(B, 3, 4, 4), hole(kind, (3, 4, 4), B, Noise(0), channels=channels)
    for state in islice(chain.trajectory(made, Noise(0), {"x": x}, {"x": ~missing}, B), 5):
        assert torch.equal(state["x"][~missing], x[~missing]) and (state["x"][missing] != x[missing]).all()


def test_parts_of_several_variables_are_held_at_once():
    """Half of an image and half of a latent, two masks; and half of an image beside its label, whole."""
    m = module("gibbsnet", "ring")
    given = {"x": normal(B, 2), "z": normal(B, 2)}
    seen = {v: ~hole(kind, (2,), B, Noise(0)) for v, kind in (("x", "left"), ("z", "right"))}
    for state in islice(m.fill(given, seen, 0), 5):
        for v, mask in seen.items():
            assert torch.equal(state[v][mask], given[v][mask]) and not (state[v] == given[v])[~mask].any()
    m = module("labelled", "digits")
    given = {"x": normal(B, 1, 8, 8).clamp(-1, 1), "y": torch.arange(B) % 10}
    seen = {"x": ~hole("bottom", (1, 8, 8), B, Noise(0))}
    states = list(islice(m.fill(given, seen, 0), 5))
    for state in states:
        assert torch.equal(state["x"][seen["x"]], given["x"][seen["x"]])
        assert torch.equal(state["y"], states[0]["y"]) and torch.equal(state["y"].argmax(-1), given["y"])
        assert not (state["x"] == given["x"])[~seen["x"]].any()


def test_any_mask_comes_from_a_file(run, tmp_path):
    missing = torch.rand(8, 8, generator=torch.Generator().manual_seed(3)) < 0.4
    picture = Image.fromarray((missing * 255).numpy().astype(np.uint8))
    picture.save(tmp_path / "a.png")
    picture.convert("RGBA").save(tmp_path / "opaque.png")
    np.save(tmp_path / "b.npy", missing.numpy())
    for name in ("a.png", "opaque.png", "b.npy"):
        assert main(["sample", f"run={run}", f"clamp.hole={tmp_path / name}", "clamp.dreams=30"]) == 0
        with np.load(run / "samples" / "fill.npz") as file:
            x, held = file["x"], file["held_x"]
        assert np.array_equal(held, ~missing.expand(10, 1, 8, 8).numpy())
        assert (x == x[:1]).all(0)[held].all() and not (x == x[:1]).all(0)[~held].any()


def test_a_file_may_say_it_of_every_channel_and_of_a_vector(tmp_path):
    colours, few = (torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.5 for size in ((3, 4, 4), (6,)))
    for mask, channels in ((colours, None), (few, None), (colours, [2])):
        np.save(tmp_path / "m.npy", mask.numpy())
        found = hole(str(tmp_path / "m.npy"), mask.shape, 2, Noise(0), channels=channels)
        expected = mask.clone()
        expected[:2] &= channels is None
        assert torch.equal(found, expected.expand(2, *mask.shape))


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "there is no such file"),
        (b"no array", "cannot be read as a mask"),
        (
            np.ones((4, 4), bool),
            r"of booleans of shape \(8, 8\) or \(1, 8, 8\), got bool of shape \(4, 4\)",
        ),
        (np.ones((8, 8)), "got float64 of shape"),
        (np.ones((8, 8), bool), "leaves all or nothing"),
        (np.array(["a", None], object), "cannot be read as a mask"),
    ],
)
def test_a_mask_file_that_cannot_be_used(tmp_path, content, words):
    path = tmp_path / "mask.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=words):
        hole(str(path), (1, 8, 8), 2, Noise(0))


def test_an_image_that_is_no_mask(tmp_path):
    for name, picture, words in (
        ("deep.png", Image.fromarray(np.full((8, 8), 40000, np.uint16)), "more than 8 bits"),
        ("large.png", Image.new("L", (9, 8)), r"expected an image of \(8, 8\) pixels.*got an image of \(8, 9\)"),
        ("erased.png", Image.new("RGBA", (8, 8), (0, 0, 0, 254)), "transparent in places: paint it"),
    ):
        picture.save(tmp_path / name)
        with pytest.raises(DataError, match=words):
            hole(str(tmp_path / name), (1, 8, 8), 2, Noise(0))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, mask=np.ones((8, 8), bool))
    with pytest.raises(DataError, match="an archive, no array"):
        hole(str(tmp_path / "archive.npy"), (1, 8, 8), 2, Noise(0))
    with pytest.raises(DataError, match=r"expected .npy of booleans of shape \(16,\)"):
        hole(str(tmp_path / "large.png"), (16,), 2, Noise(0))


@pytest.mark.parametrize(
    "settings, words",
    [
        (["clamp.hole=5"], "clamp.hole=5: expected one of left"),
        (["clamp.hole=[left]"], "clamp.hole=['left']: expected one of left"),
        (["clamp.hole=middle"], "hole 'middle'"),
        (["clamp.hole=none.png"], "hole 'none.png': there is no such file"),
        (["clamp.hole=left", "clamp.of=w"], "clamp names w: expected variables out of x, z1, z2"),
        (["clamp.whole=[y]"], "clamp names y"),
        (["clamp.hole=row", "clamp.of=z1"], "hole 'row'"),
        (["clamp.hole=random", "clamp.share=1.0"], "share 1.0"),
        (["clamp.holes=left"], "unknown key 'clamp.holes': did you mean 'clamp.hole'?"),
        (["clamp.attend=1"], "clamp.attend=1: expected true or false"),
        (["clamp.hole=left", "clamp.whole=[x]"], "clamp names x twice"),
        (["clamp.whole=[z1,z2,z1]"], "clamp names z1 twice"),
        (["clamp.hole=left", "clamp.of=z1", f"clamp.values={{z1: {[0] * 32}}}"], "clamp names z1 twice"),
        (
            ["clamp.hole=left", "chains.unclamped.steps=9"],
            "chains.unclamped.steps: beside parts of real images say clamp.steps",
        ),
        (
            ["clamp.hole=left", "mode=daydreaming"],
            "the chain takes z2 from real images, and nothing holds it: say clamp.whole=[z2], or mode=dreaming",
        ),
        (["clamp.steps=[]"], "clamp.steps=[]: expected one or more integers of at least 0"),
        (["clamp.hole=left", "clamp.steps=[1,-1]"], "clamp.steps=[1, -1]: expected"),
    ],
)
def test_a_clamp_that_cannot_be_is_one_line(run, settings, words, capsys):
    assert main(["sample", f"run={run}", *settings]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_of_several_processes_the_first_one_draws(run, monkeypatch):
    shutil.rmtree(run / "samples", ignore_errors=True)
    monkeypatch.setattr("gibbsnet.sample.join", lambda: False)
    assert main(["sample", f"run={run}"]) == 0 and not (run / "samples").exists()
    monkeypatch.setattr("gibbsnet.sample.join", lambda: True)
    assert main(["sample", f"run={run}", "chains.unclamped.steps=1"]) == 0 and (run / "samples" / "chain.png").exists()


def test_the_benchmark_writes_what_it_prints(run, capsys):
    fill.main([f"run={run}", "images=12"])
    printed = capsys.readouterr().out
    written = json.loads((run / "fill.json").read_text())
    assert written.keys() == set(HOLES) | {"mix_right", "mix_bottom"}
    assert written["row"].keys() >= {"ridge", "plain 30", "attentive 30"}
    assert written["mix_right"].keys() >= {"pasted", "nearest", "plain 30", "attentive 30"}
    assert all(line in printed for line in fill.table(written))
    assert sum(line.startswith("| mix_right |") for line in fill.table(written)) == len(written["mix_right"])
    with pytest.raises(SystemExit, match="which run"):
        fill.main([])


def test_the_benchmark_takes_a_hole_of_one_s_own_and_writes_nothing(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a short name, such as a table can hold
    missing = torch.zeros(8, 8, dtype=torch.bool)
    missing[3:4] = True  # the band of an eighth that `row` is
    np.save("band.npy", missing.numpy())
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    fill.main([f"run={run}", "images=12", "hole=band.npy"])
    own = capsys.readouterr().out.replace("| band.npy |", "| row |").splitlines()
    fill.main([f"run={run}", "images=12", "hole=row"])
    assert own == capsys.readouterr().out.splitlines() and sum(row.startswith("| row | attentive") for row in own) == 3
    assert not any("mixed" in row for row in own), "no table without a row"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    for bad, words in (
        ("none.npy", r"hole 'none\.npy': there is no such file"),
        ("", "hole '': .* expected one of left"),
    ):
        with pytest.raises(SystemExit, match=words):
            fill.main([f"run={run}", "images=12", f"hole={bad}"])
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
