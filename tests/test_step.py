"""The training step's short cuts change none of its gradients."""

import pytest
import torch
from torch.autograd import grad

from gibbsnet.config import load
from gibbsnet.game import LOSSES
from gibbsnet.modules import build
from gibbsnet.noise import Noise

SWEPT = "model=gibbsnet chains.unclamped.steps=2"


def written_out(module, batch, noise):
    """Both players' gradients, each by a backward pass of its own through the losses as they are written."""
    real, fake, _ = module.pairs(batch, noise)
    graph, (critic,) = [p for p in module.graph.parameters() if p.requires_grad], module.critics.values()
    _, loss = LOSSES[module.game.loss](critic(real), critic(fake))
    graph_grads = grad(loss.mean(), graph, allow_unused=True)
    sides = [{v: x.detach().requires_grad_() for v, x in side.items()} for side in (real, fake)]
    loss, _ = LOSSES[module.game.loss](*map(critic, sides))
    total = loss.mean()
    for side in sides:
        slopes = grad(critic(side).sum(), list(side.values()), create_graph=True)
        for v, slope in zip(side, slopes, strict=True):
            total = total + module.game.gamma.get(v, 0) / 2 * slope.flatten(1).square().sum(1).mean()
    return graph_grads, grad(total, list(critic.parameters()))


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize("rescale", ["true", "false"])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.parametrize("model", ["model=ali", "model=hali", SWEPT])
def test_one_pass_gives_both_players_the_gradients_of_their_own_losses(model, gamma, rescale, loss):
    penalties = [f"penalty.{v}={gamma}" for v in "xz"]
    config = load([*model.split(), "data=digits", f"game.loss={loss}", f"game.rescale={rescale}", *penalties])
    module = build(config, (1, 8, 8)).double()
    batch = {"x": torch.rand(6, 1, 8, 8, dtype=torch.float64) * 2 - 1}
    outcome = module.play(batch, Noise(0, 1))
    for ours, theirs in zip((outcome.graph, outcome.critic), written_out(module, batch, Noise(0, 1)), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("model", ["model=ali", SWEPT])
def test_bf16_gives_the_gradients_of_float32_to_its_precision(model):
    """Autocast keeps casts of weights: one made in a sweep without gradient must not stand in for one with."""
    module = build(load([*model.split(), "data=digits"]), (1, 8, 8))
    batch, noise = {"x": Noise(0, "x").uniform((50, 1, 8, 8)) * 2 - 1}, Noise(0, 4)
    assert model == "model=ali" or module.unclamped.length(noise.at("unclamped")) > 1
    exact = module.play(batch, noise)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module.play(batch, noise)
    for a, b in zip(exact.graph + exact.critic, rough.graph + rough.critic, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.97 and b.dtype == torch.float32


def test_the_average_begins_as_a_copy_and_then_follows_with_its_weight():
    module = build(load(["model=ali", "data=digits", "optim.ema=0.99"]), (1, 8, 8))
    now, kept = next(module.graph["z"].messages.parameters()), next(module.ema.module["z"].messages.parameters())
    with torch.no_grad():
        now.fill_(1.0)
        module._follow(0)
        assert bool((kept == 1).all())
        now.fill_(2.0)
        module._follow(1)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 + 9 / 11))
    assert int(module.ema.n_averaged) == 2
