from itertools import product

import pytest
import torch
from torch.nn.functional import softplus

from gibbsnet.game import Game
from gibbsnet.noise import Noise
from tests.models import GIBBS, NETWORKS, PAIR, critics, graph, normal

B = 6
ONE, MANY = {"joint": ["x", "z"]}, {"joint": ["x", "z"], "local": ["x"], "latent": ["z"]}
PENALTIES = {"x": 0.7, "z": 0.2}
HIDDEN = {"x": torch.tensor([1, 1, 0, 1, 0, 0]).bool(), "z": torch.tensor([1, 0, 1, 1, 0, 1]).bool()}
BATCH_NORM = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.LeakyReLU(0.2), torch.nn.Linear(6, 1)).double()


def states(g):
    """Last states of a clamped and of an unclamped chain, the same at every call, each with a history of its own."""
    x = normal(B, 3, seed=3).to(next(g.parameters()).dtype)
    return GIBBS[0].run(g, Noise(0), {"x": x}, batch=B), GIBBS[1].run(g, Noise(1), batch=B)


def played(judges=None, game=None, audible={}, step=0, scale=1.0, dtype=torch.float64):
    """A game, and what it was about: critics, the chains' states once more, both players' parameters."""
    g, judges = graph().to(dtype), (judges or critics()).to(dtype)
    for critic in judges.values() if scale != 1 else ():
        critic.head.net[-2].weight.data.mul_(scale)
        critic.head.net[-2].bias.data.mul_(scale)
    players = [p for p in g.parameters() if p.requires_grad], list(judges.parameters())
    outcome = (game or Game()).play(judges, *states(g), *players, step, audible)
    return outcome, judges, *states(g), players


def plain(judges, clamped, unclamped, players, loss="nonsaturating", gamma={}, lazy=1, audible={}):
    """Both players' gradients by two separate losses, the graph's without a penalty."""
    critic_loss, graph_loss, squares = 0, 0, {}
    ends = [{v: x.detach().requires_grad_() for v, x in state.items()} for state in (clamped, unclamped)]
    for critic in judges.values():
        real, fake = critic(ends[0], audible), critic(ends[1], audible)
        through_real, through_fake = critic(clamped, audible), critic(unclamped, audible)
        if loss == "nonsaturating":
            critic_loss += (softplus(-real) + softplus(fake)).mean()
            graph_loss += (softplus(through_real) + softplus(-through_fake)).mean()
        else:
            critic_loss += softplus(-(real - fake)).mean()
            graph_loss += softplus(through_real - through_fake).mean()
        for score, end in ((real, ends[0]), (fake, ends[1])):
            for v in critic.messages:
                slope = torch.autograd.grad(score.sum(), end[v], create_graph=True)[0]
                squares[v] = squares.get(v, 0) + sum(s.square().sum() for s in slope) / B
    penalty = lazy * sum(gamma[v] / 2 * squares[v] for v in gamma)
    grads = [
        torch.autograd.grad(total, player, allow_unused=True, retain_graph=True)
        for total, player in zip((graph_loss, critic_loss + penalty), players, strict=True)
    ]
    grads = [[torch.zeros_like(p) if d is None else d for d, p in zip(*pair, strict=True)]
             for pair in zip(grads, players, strict=True)]  # fmt: skip
    return *grads, {"loss_critic": critic_loss, "loss_graph": graph_loss, "squares": squares}


def close(a, b, **tolerance):
    tolerance = {"rtol": 1e-9, "atol": 1e-13} | tolerance
    return all(torch.allclose(x, y, **tolerance) for x, y in zip(a, b, strict=True))


def agree(outcome, expected, **tolerance):
    graph_grads, critic_grads, facts = expected
    assert close(outcome.graph, graph_grads, **tolerance), "the graph's"
    assert close(outcome.critic, critic_grads, **tolerance), "the critics'"
    assert close([outcome.diagnostics[k] for k in ("loss_critic", "loss_graph")],
                 [facts["loss_critic"], facts["loss_graph"]], **tolerance)  # fmt: skip


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize("hears", [ONE, MANY], ids=["one", "many"])
@pytest.mark.parametrize("gamma", [{}, PENALTIES, {"x": 0.7}], ids=["free", "penalised", "x alone"])
@pytest.mark.parametrize("audible", [{}, HIDDEN], ids=["all", "hidden"])
@pytest.mark.parametrize("rescale", [True, False])
def test_one_pass_equals_two_losses(loss, hears, gamma, audible, rescale):
    game = Game(loss, gamma, rescale=rescale)
    outcome, *rest = played(critics(hears=hears), game, audible)
    agree(outcome, plain(*rest, loss, gamma, audible=audible))
    assert all(g.abs().sum() > 0 for g in outcome.graph)
    assert not any(g.requires_grad for g in [*outcome.graph, *outcome.critic, *outcome.diagnostics.values()])


@pytest.mark.parametrize("gamma", [{}, PENALTIES])
@pytest.mark.parametrize("rescale", [True, False])
def test_a_critic_with_batch_statistics_takes_the_exact_way(gamma, rescale):
    judges = critics()
    judges["joint"].head = torch.nn.Sequential(*BATCH_NORM)
    outcome, *rest = played(judges, Game(gamma=gamma, rescale=rescale))
    agree(outcome, plain(*rest, gamma=gamma))


def test_rescaling_would_be_wrong_under_batch_statistics(monkeypatch):
    """What the exact way is for: without it the graph's gradient is another."""
    monkeypatch.setattr("gibbsnet.game.BATCH_NORMS", ())
    judges = critics()
    judges["joint"].head = torch.nn.Sequential(*BATCH_NORM)
    outcome, *rest = played(judges, Game())
    assert not close(outcome.graph, plain(*rest)[0], rtol=1e-3)


@pytest.mark.parametrize("lazy, step, due", [(1, 0, True), (1, 7, True), (4, 0, True), (4, 8, True), (4, 7, False)])
def test_a_lazy_penalty_is_taken_rarely_and_as_much_stronger(lazy, step, due):
    outcome, *rest = played(game=Game(gamma=PENALTIES, lazy=lazy), step=step)
    agree(outcome, plain(*rest, gamma=PENALTIES if due else {}, lazy=lazy))
    assert ("penalty_x" in outcome.diagnostics) == due


def test_penalties_are_the_mean_squared_slopes_of_both_sides():
    outcome, *rest = played(game=Game(gamma={"x": 0.1}))
    squares = plain(*rest, gamma={"x": 0.1})[2]["squares"]
    assert outcome.diagnostics.keys() >= {"penalty_x", "penalty_z"}
    assert close([outcome.diagnostics[f"penalty_{v}"] for v in squares], squares.values())


def test_a_penalty_leaves_the_graph_s_gradient_alone():
    free, punished = played()[0], played(game=Game(gamma=PENALTIES))[0]
    assert close(free.graph, punished.graph) and not close(free.critic, punished.critic, rtol=1e-3)


@pytest.mark.parametrize("gamma", [{}, PENALTIES])
def test_hidden_values_are_read_by_nobody(gamma):
    """Whatever stands where a variable is hidden, on either side, changes no gradient."""
    g, judges = graph(), critics()
    players = [p for p in g.parameters() if p.requires_grad], list(judges.parameters())
    poison = lambda s: {v: torch.where(HIDDEN[v][:, None], x, torch.nan) for v, x in s.items()}  # noqa: E731
    game = Game(gamma=gamma)
    clean = game.play(judges, *states(g), *players, audible=HIDDEN)
    dirty = game.play(judges, *map(poison, states(g)), *players, audible=HIDDEN)
    assert close(clean.graph, dirty.graph) and close(clean.critic, dirty.critic)
    assert close(clean.diagnostics.values(), dirty.diagnostics.values())


@pytest.mark.parametrize("hidden", [False, True])
def test_a_cycle_loss_stands_beside_the_graph_s_and_leaves_the_critic_alone(hidden):
    """Also where nothing else moves the graph, since the critics see nothing."""
    blind = {v: torch.zeros(B).bool() for v in "xz"} if hidden else {}
    g, judges, weight = graph(), critics(), 0.7
    players = [p for p in g.parameters() if p.requires_grad], list(judges.parameters())

    def missed(real):
        return (real["x"] - g["x"].mean({"z": real["z"]}, B)).square().mean()

    real, fake = states(g)
    with_cycle = Game(cycle=weight).play(judges, real, fake, *players, 0, blind, {"cycle": missed(real)})
    without = Game().play(judges, *states(g), *players, 0, blind)
    real, _ = states(g)
    alone = torch.autograd.grad(weight * missed(real), players[0], allow_unused=True)
    for a, b, c in zip(with_cycle.graph, without.graph, alone, strict=True):
        assert torch.allclose(a, b + (0 if c is None else c), atol=1e-14)
    assert sum(c is not None and bool(c.any()) for c in alone) > 4, "both q and p learn from it"
    assert all(torch.equal(a, b) for a, b in zip(with_cycle.critic, without.critic, strict=True))
    assert torch.allclose(with_cycle.diagnostics["loss_cycle"], weight * missed(real))


@pytest.mark.parametrize("gamma", [{}, PENALTIES])
def test_a_game_in_which_everything_is_hidden(gamma):
    nobody = {v: torch.zeros(B, dtype=torch.bool) for v in ("x", "z")}
    outcome = played(game=Game(gamma=gamma), audible=nobody)[0]
    assert not any(g.any() for g in outcome.graph)
    # Both sides score alike: at score s the critic's slopes sigma(s) - sigma(-s) remain, on the head alone.
    assert all(g.isfinite().all() for g in outcome.critic)


@pytest.mark.parametrize("hidden", ["", "z", "xz"])
def test_what_is_reported_does_not_depend_on_what_is_hidden(hidden):
    """Ranks average these terms by their place."""
    told = played(game=Game(gamma=PENALTIES), audible={v: torch.zeros(B).bool() for v in hidden})[0].diagnostics
    assert list(told) == list(played(game=Game(gamma=PENALTIES))[0].diagnostics)
    assert {v for v in "xz" if told[f"penalty_{v}"] == 0} == set(hidden)


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize("gamma", [{}, {"x": 1e-8}])
@pytest.mark.parametrize("scale, dtype", list(product([30.0, 3000.0], [torch.float32, torch.float64])))
def test_extreme_scores(loss, gamma, scale, dtype):
    """Where one player's slope vanishes the other's is whole: rescaled, against two losses apart."""
    outcome, judges, clamped, unclamped, players = played(game=Game(loss, gamma), scale=scale, dtype=dtype)
    scores = torch.cat([critic(state) for critic in judges.values() for state in (clamped, unclamped)])
    assert scores.abs().max() > (100 if scale > 100 else 1)
    expected = plain(judges, clamped, unclamped, players, loss, gamma)
    exact = dtype == torch.float64
    for mine, theirs in zip((outcome.graph, outcome.critic), expected[:2], strict=True):
        largest = max(g.abs().max() for g in theirs)
        assert close(mine, theirs, rtol=1e-9 if exact else 1e-3, atol=float(largest) * (1e-12 if exact else 1e-5))
    assert all(g.isfinite().all() for g in [*outcome.graph, *outcome.critic])


def test_scores_and_losses_are_told():
    outcome, judges, clamped, unclamped, _ = played(critics(hears=MANY))
    told = outcome.diagnostics
    assert torch.allclose(told["score_clamped_local"], judges["local"](clamped).mean())
    assert torch.allclose(told["score_unclamped_joint"], judges["joint"](unclamped).mean())
    assert set(told) == {"loss_critic", "loss_graph"} | {
        f"score_{s}_{c}" for s in ("clamped", "unclamped") for c in MANY
    }


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(loss="hinge"), "unknown loss 'hinge': expected one of nonsaturating, relativistic"),
        (dict(lazy=0), "lazy is an interval"),
        (dict(cycle=-1.0), "cycle is a weight >= 0: got -1.0"),
        (dict(whiten=float("nan")), "whiten is a weight >= 0: got nan"),
        (dict(whiten=float("inf")), "whiten is a weight >= 0: got inf"),
        (dict(gamma={"x": -1.0}), "gamma must be >= 0 and finite: got {'x': -1.0}"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        Game(**options)


def test_the_networks_here_have_no_batch_statistics():
    assert not any(network.get("norm") for network in NETWORKS.values()) and PAIR["x"]["family"] == "points"
