"""Moments that follow the clamped chain: a start from them, a pull on them; and a number of sweeps that rises."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gibbsnet.chain import Chain, check_pairing
from gibbsnet.config import choices, load
from gibbsnet.graph import Moments
from gibbsnet.modules import GibbsNet, build
from gibbsnet.noise import Noise
from tests.models import GIBBS, graph, module, normal
from tests.test_modules import B, batch, trained

LEARNED = "chains.unclamped.learned=[z]"


def test_moments_begin_at_the_prior_and_follow():
    moments, values = Moments((2, 3), rate=0.3).double(), [normal(9, 2, 3, seed=k) + 1 for k in range(3)]
    noise = Noise(0).normal((5, 6), torch.float64)
    assert torch.equal(moments.draw(5, Noise(0)), noise.view(5, 2, 3)), "N(0, 1)"
    first, second = torch.zeros(6).double(), torch.eye(6).double()
    for value in values:
        moments.follow(*Moments.of(value))
        z = value.reshape(9, 6)
        first = 0.7 * first + 0.3 * sum(z) / 9
        second = 0.7 * second + 0.3 * sum(torch.outer(row, row) for row in z) / 9
    assert torch.allclose(moments.first, first) and torch.allclose(moments.second, second)


def test_draws_have_the_moments():
    moments, n = Moments((2,), rate=1.0).double(), 40000
    z = normal(500, 2) @ torch.tensor([[0.5, 0.0], [1.0, 0.2]]).double() + torch.tensor([2.0, -1.0]).double()
    moments.follow(*Moments.of(z))
    drawn, covariance = moments.draw(n, Noise(0)), torch.cov(z.T, correction=0)
    assert ((drawn.mean(0) - z.mean(0)).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    scale = covariance.diagonal().outer(covariance.diagonal()).sqrt()
    assert ((torch.cov(drawn.T) - covariance).abs() < 5 * scale * (2 / n) ** 0.5).all()


def exact(z):
    """KL( N(m, C) || N(0, 1) ) / d of a batch's moments, by torch."""
    z = z.flatten(1)
    m, d = z.mean(0), z.shape[1]
    fitted = MultivariateNormal(m, z.T @ z / len(z) - m.outer(m))
    return kl_divergence(fitted, MultivariateNormal(torch.zeros_like(m), torch.eye(d).to(m))) / d


def skewed(n=500):
    z = normal(n, 2, 3).flatten(1) @ (torch.eye(6) + 0.3 * torch.ones(6, 6).triu(1)).double() * 0.7 + 0.4
    return z.view(n, 2, 3).requires_grad_()


def test_the_moments_divergence_is_that_from_the_prior_and_its_gradient_the_batch_s_part():
    moments, z = Moments((2, 3), rate=1.0).double(), skewed()
    assert not moments.divergence(z), "N(0, 1) is the prior"
    moments.follow(*Moments.of(z.detach()))
    found, expected = moments.divergence(z), exact(z)
    assert torch.allclose(found, expected) and expected > 0.1
    assert torch.allclose(*(torch.autograd.grad(kl, z)[0] for kl in (found, expected)), atol=1e-12)


def test_the_divergence_s_gradient_is_the_mean_over_ranks():
    moments, z = Moments((2, 3), rate=1.0).double(), skewed(40)
    moments.follow(*Moments.of(z.detach()))
    whole, halves = moments.divergence(z), sum(moments.divergence(part) for part in z.chunk(2)) / 2
    assert torch.allclose(*(torch.autograd.grad(kl, z)[0] for kl in (whole, halves)), atol=1e-14)


def test_what_is_kept_at_its_prior_s_moments_gets_there():
    """By moments of which a hundredth is the batch at hand."""
    moments, x = Moments((3,)).double(), normal(4000, 3)
    mix = (0.2 * torch.tensor([[1.0, 0.9, 0.8], [0.0, 0.3, 0.2], [0.0, 0.0, 0.2]])).double().requires_grad_()
    shift = torch.full((3,), 0.5).double().requires_grad_()
    optimizer = torch.optim.Adam([mix, shift], lr=1e-3)
    for k in range(2000):
        z = x[torch.arange(100 * k, 100 * k + 100) % len(x)] @ mix + shift
        optimizer.zero_grad()
        moments.divergence(z).backward()
        optimizer.step()
        moments.follow(*Moments.of(z.detach()))
    assert exact((x @ mix + shift).detach()) < 0.01 < 0.5 < exact(0.2 * x + 0.5)


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_s_latents_may_be_kept_at_their_prior_s_moments(model):
    """0.5 * sum_z KL / dim on the clamped chain's draws beside the graph's loss, nothing in the critics', and no label's."""
    m, plain = (module(model, "digits", f"game.whiten={w}") for w in (0.5, 0.0))
    n = 80  # more than any latent has dimensions
    given = {"x": normal(n, 1, 8, 8).tanh()}
    given |= {v: data for v, data in (("y", torch.arange(n) % 10), ("a", normal(n, 3) < 0)) if v in m.labels}
    real, _, _ = plain.pairs(given, Noise(0))
    assert m.whitened == [v for v in m.latents if v.startswith(("z", "w"))] and not plain.graph.moments
    loss = 0.0
    for v in m.whitened:
        m.graph.moments[v].rate = 1.0
        m.graph.moments[v].follow(*Moments.of(real[v].detach()))
        loss = loss + 0.5 * exact(real[v])
    a, b = (net.play(given, Noise(0)) for net in (m, plain))
    free = [p for p in plain.graph.parameters() if p.requires_grad]
    alone = torch.autograd.grad(loss, free, allow_unused=True)
    for whitened, without, g in zip(a.graph, b.graph, alone, strict=True):
        assert torch.allclose(whitened, without + (0 if g is None else g), rtol=1e-6, atol=1e-10)
    assert any(g is not None and bool(g.any()) for g in alone)
    assert all(map(torch.equal, a.critic, b.critic))
    assert torch.allclose(a.diagnostics["loss_whiten"], loss) and "loss_whiten" not in b.diagnostics


@pytest.mark.filterwarnings("ignore::Warning")
def test_training_follows_the_clamped_chain_s_draws():
    """With weights that stand still those draws can be made again."""
    still = ["optim.lr=0.0", "optim.lr_critic=0.0"]
    m, fresh = module("gibbsnet", "ring", LEARNED, *still), module("gibbsnet", "ring", LEARNED, *still)
    trained(m, 4)
    for k in range(4):
        real, _, _ = fresh.pairs(batch(seed=k), Noise(0, k, "train"), k)
        fresh.graph.moments["z"].follow(*Moments.of(real["z"].detach()))
    found, expected = m.graph.moments["z"], fresh.graph.moments["z"]
    assert torch.allclose(found.first, expected.first) and torch.allclose(found.second, expected.second)
    assert found.first.any() and torch.equal(m.ema.module.moments["z"].second, found.second)
    assert any(name == "graph.moments.z.second" for name in m.state_dict())


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_batch_without_a_step_moves_no_moments(monkeypatch):
    m = module("gibbsnet", "ring", LEARNED)
    monkeypatch.setattr(GibbsNet, "_update", lambda self, *_: self.optimizers().step() or True)
    trained(m, 2)
    assert not m.graph.moments["z"].first.any() and int(m.step) == 2


def test_both_training_and_sampling_start_there():
    m = module("gibbsnet", "ring", LEARNED, "chains.unclamped.steps=0")
    for moments in (m.graph.moments["z"], m.ema.module.moments["z"]):
        moments.first.fill_(7.0)
        moments.second.copy_(49.0 + 1e-4 * torch.eye(2))
    _, fake, _ = m.pairs(batch(), Noise(0))
    assert (fake["z"] - 7).abs().max() < 0.1
    state = next(m.trajectory(B, 0))
    assert (state["z"] - 7).abs().max() < 0.1 and state["x"].shape == (B, 2)
    assert torch.equal(next(m.trajectory(B, 0, {"z": fake["z"]}))["z"], fake["z"]), "a given start is not drawn"
    noise = Noise(3)
    whole = m.pairs(batch(), noise)[1]["z"]
    halves = [m.pairs({"x": batch()["x"][3 * r : 3 * r + 3]}, Noise(3, rank=r, ranks=2))[1]["z"] for r in range(2)]
    assert torch.equal(torch.cat(halves), whole)


def test_moments_are_exact_under_bf16():
    m = module("gibbsnet", "ring", "chains.unclamped.learned=[z]").float()
    values = {v: x.float() for v, x in batch().items()}
    with torch.autocast("cpu", torch.bfloat16):
        real, fake, _ = m.pairs(values, Noise(3))
        moments = m.graph.moments["z"].of(real["z"])
        m.graph.moments["z"].follow(*moments)
        leaf = real["z"].detach().requires_grad_()
        (pull,) = torch.autograd.grad(m.graph.moments["z"].divergence(leaf), leaf)
    (exactly,) = torch.autograd.grad(m.graph.moments["z"].divergence(leaf), leaf)
    assert pull.any() and torch.equal(pull, exactly)
    assert all(part.dtype == torch.float32 for part in moments) and fake["z"].isfinite().all()
    z = real["z"].double()
    assert torch.allclose(moments[1].double(), z.T @ z / len(z), rtol=1e-5, atol=1e-6)


def test_moments_that_are_no_covariance_give_no_numbers():
    m = module("gibbsnet", "ring", "chains.unclamped.learned=[z]")
    moments = m.graph.moments["z"]
    moments.second.copy_(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    assert moments.draw(B, Noise(0)).isnan().any() and moments.divergence(normal(B, 2)).isnan()


def test_a_pull_on_no_gaussian_is_refused():
    config = load(["model=gibbsnet", "data=ring", "game.whiten=0.5"])
    config["graph"]["z"] = {"shape": [2], "family": "bernoulli", "hears": config["graph"]["z"]["hears"]}
    with pytest.raises(ValueError, match=r"game.whiten=0.5, but no latent is a Gaussian"):
        build(config, (2,))


def test_the_pairing_rule_holds():
    g = graph()
    for steps in (0, 1, 2):
        check_pairing(g, GIBBS[0], Chain(["z", "x"], ["z", "x"], steps, learned=["z"]))
    with pytest.raises(ValueError, match="both chains end on z given x"):
        check_pairing(g, GIBBS[0], Chain(["z", "x"], ["x", "z"], 1, learned=["z"]))


@pytest.mark.parametrize(
    "model, settings, words",
    [
        ("gibbsnet", ["chains.unclamped.learned=[w]"], "starts w from moments, which are a Gaussian variable's alone"),
        ("gibbsnet", ["chains.unclamped.learned=[x]"], "starts x from moments"),
        ("gibbsnet", ["chains.unclamped.rise=-1"], "rise is a number of batches >= 0: got -1"),
        (
            "gibbsnet",
            ["chains.unclamped.steps=[0,[1,4]]", "chains.unclamped.start_from_data=0.5"],
            "start_from_data needs steps >= 1",
        ),
        ("gibbsnet", ["chains.unclamped.rise=9", "chains.unclamped.blocks=[x,z]"], "both chains end on z given x"),
    ],
)
def test_refusals(model, settings, words):
    with pytest.raises(ValueError, match=words):
        build(load([f"model={model}", "data=ring", *settings]), (2,))


@pytest.mark.parametrize("option", [{"learned": ["z"]}, {"rise": 3}])
def test_they_are_the_unclamped_chain_s(option):
    config = load(["model=gibbsnet", "data=ring"])
    config["chains"]["clamped"] |= option
    with pytest.raises(ValueError, match="the clamped chain"):
        build(config, (2,))


def test_a_chain_that_no_training_gave_moments_is_refused():
    with pytest.raises(ValueError, match="starts z from moments that were not followed"):
        next(module().trajectory(B, 0, chain=Chain(["z", "x"], learned=["z"])))


def test_sweeps_rise():
    chain = Chain(["z", "x"], ["z", "x"], (0, 3), rise=100)
    ranges = {k: chain.during(k).range for k in (0, 24, 25, 50, 74, 75, 1000)}
    assert ranges == {0: (0, 0), 24: (0, 0), 25: (0, 1), 50: (0, 2), 74: (0, 2), 75: (0, 3), 1000: (0, 3)}
    assert chain.range == (0, 3) and chain.during(75).rise == 0
    dreaming = Chain(["z", "x"], ["z", "x"], (0, 3), rise=100, present=["x"], dream_every=2)
    several = Chain(["z", "x"], ["z", "x"], (0, (1, 4)), rise=100)
    assert [several.during(k).ranges[1] for k in (0, 25, 99)] == [(1, 1), (1, 2), (1, 4)]
    assert dreaming.during(50).present == () and dreaming.during(51).present == ["x"]
    lengths = {chain.during(60).length(Noise(k)) for k in range(40)}
    assert lengths == {0, 1, 2}


def test_each_batch_takes_one_of_several_ranges():
    chain = Chain(["z", "x"], ["z", "x"], (0, (1, 4)))
    lengths = [chain.length(Noise(k)) for k in range(2000)]
    counts = [lengths.count(n) for n in range(5)]
    for count, share in zip(counts, (0.5, *[0.125] * 4), strict=True):  # four standard errors
        assert abs(count / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5
    assert sum(counts) == 2000 and chain.range == (0, 4) and chain.ranges == ((0, 0), (1, 4))
    for k in range(20):  # one decision for all of a batch's parts, the same on every rank
        assert chain.length(Noise(k, rank=1, ranks=2)) == chain.length(Noise(k).among(slice(0, 3), 8)) == lengths[k]
    thirds = [Chain(["z", "x"], ["z", "x"], [0, 2, 5]).length(Noise(k)) for k in range(900)]
    assert all(abs(thirds.count(n) / 900 - 1 / 3) < 4 * (2 / 9 / 900) ** 0.5 for n in (0, 2, 5))


def test_every_one_of_several_ranges_is_checked():
    for steps in ([1, [0, 2]], [[1, 2], [0, 0]], [[0, 0], [1, 2]]):
        with pytest.raises(ValueError, match="both chains end on z given x"):
            build(
                load(
                    ["model=gibbsnet", "data=ring", "chains.unclamped.start=[x,z]", f"chains.unclamped.steps={steps}"]
                ),
                (2,),
            )
    with pytest.raises(ValueError, match="steps must be a number of sweeps >= 0, a range"):
        Chain(["z", "x"], ["z", "x"], (0, (4, 1)))


def test_a_game_early_in_the_rise_is_ali_s_and_a_late_one_gibbsnet_s():
    swept = "chains.unclamped.steps=[0,3]"
    rising, whole = module("gibbsnet", "ring", swept, "chains.unclamped.rise=10"), module("gibbsnet", "ring", swept)
    ali = module("gibbsnet", "ring", "chains.unclamped.steps=0")
    plays = [[m.play(batch(), Noise(k), step).graph for k in range(4)]
             for m, step in ((rising, 0), (ali, 0), (rising, 10), (whole, 10))]  # fmt: skip
    for a, b in (plays[:2], plays[2:]):
        assert all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
    assert not all(torch.equal(x, y) for p, q in zip(*plays[1:3], strict=True) for x, y in zip(p, q, strict=True))
