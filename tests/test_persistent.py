"""Chains that never start again: what becomes of them in a batch, and what the critics know of it."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from gibbsnet.config import ConfigError, load
from gibbsnet.graph import AGE, build_critics, build_graph
from gibbsnet.noise import Noise
from tests.models import NETWORKS, module, tv, unclamped_laws
from tests.test_modules import B, batch, points, trained

SETTINGS = ["chains.unclamped.steps=[0,3]", "chains.unclamped.persistent=0.5"]
NONE = "chains.unclamped.persistent=0.0"
OLD, YOUNG = slice(0, B // 2), slice(B // 2, B)


def game(*settings):
    return module("gibbsnet", "ring", *SETTINGS, *settings)


def walked(m, start, key=0):
    """What the persistent chains of one batch must be by hand: sweeps of the averaged weights, then one of the present ones."""
    noise, state = Noise(key).at("unclamped").among(OLD, B), {v: x[OLD] for v, x in start.items()}
    sweeps = noise.at("steps").integer(0, 3)
    for i in range(1, max(1, sweeps) + 1):
        state = m.unclamped.step(m.ema.module, state, noise.at("onward", i))
    return state, m.unclamped.step(m.graph, state, noise.at(sweeps), grad=2)


def test_the_first_places_go_on_and_the_others_start_again():
    m, plain = game(), module("gibbsnet", "ring", SETTINGS[0], NONE)
    plain.load_state_dict(m.state_dict())
    start = m.pairs(batch(), Noise(9)).kept
    m.kept = start
    for key in range(4):
        _, fake, kept = m.pairs(batch(), Noise(key))
        on, end = walked(m, start, key)
        others = plain.pairs(batch(), Noise(key)).fake
        for v in ("x", "z"):
            assert torch.equal(kept[v][OLD], on[v]) and torch.equal(fake[v][OLD], end[v].detach())
            assert torch.allclose(fake[v][YOUNG], others[v][YOUNG]) and torch.equal(kept[v][YOUNG], fake[v][YOUNG])
            assert not torch.allclose(fake[v][OLD], others[v][OLD])
        assert not kept["x"].requires_grad and fake["x"].requires_grad


@pytest.mark.parametrize("data", ["ring", "digits"])
def test_gibbsnet_as_published_is_gibbsnet_without_them(data):
    """The same weights from the same seed, and the same game of one batch, bit by bit."""
    published = module("gibbsnet_published", data)
    plain = module("gibbsnet", data, SETTINGS[0], NONE, "critics.joint.hears.age=null")
    for (name, ours), (other, theirs) in zip(published.state_dict().items(), plain.state_dict().items(), strict=True):
        assert name == other and torch.equal(ours, theirs)
    for key in range(4):
        x = {"x": Noise(key, "x").normal((B, *published.graph["x"].shape))}
        ours, theirs = published.play(x, Noise(key), 0), plain.play(x, Noise(key), 0)
        assert all(
            torch.equal(a, b) for a, b in zip(ours.graph + ours.critic, theirs.graph + theirs.critic, strict=True)
        )


def test_the_averaged_weights_carry_the_chain_and_the_present_ones_learn():
    """Another average, another chain; no gradient but that of the one sweep."""
    m = game()
    m.kept = m.pairs(batch(), Noise(9)).kept
    before, sent = m.pairs(batch(), Noise(0)), m.pairs(batch(), Noise(0)).fake["x"][OLD].sum()
    gradient = torch.autograd.grad(sent, m._players[0])
    _, end = walked(m, m.kept)
    by_hand = torch.autograd.grad(end["x"].sum(), m._players[0])
    assert all(torch.allclose(a, b) for a, b in zip(gradient, by_hand, strict=True))
    assert all(g is not None and g.any() for g in gradient), "the encoder's as well, through the decoder"
    for p in m.ema.module["x"].messages.parameters():
        p.data += 0.1
    after = m.pairs(batch(), Noise(0))
    assert not torch.equal(after.kept["x"][OLD], before.kept["x"][OLD])
    assert torch.equal(after.fake["x"][YOUNG], before.fake["x"][YOUNG])


@pytest.mark.filterwarnings("ignore::Warning")
def test_training_hands_the_chain_on(monkeypatch):
    m, seen = game("optim.lr=0.0", "optim.lr_critic=0.0"), []
    pairs = type(m).pairs
    monkeypatch.setattr(type(m), "pairs", lambda self, *a: seen.append((self.kept, pairs(self, *a))) or seen[-1][1])
    trained(m, 3)
    assert seen[0][0] == {} and all(a[1].kept is b[0] for a, b in pairwise(seen))
    assert m.kept is seen[-1][1].kept and set(m.kept) == {"x", "z"}


def test_critics_hear_which_chains_are_old():
    m = game()
    real, fake, _ = m.pairs(batch(), Noise(0))
    assert torch.equal(real[AGE], fake[AGE]) and real[AGE][:, 0].tolist() == [1.0] * (B // 2) + [0.0] * (B - B // 2)
    critic = m.critics["joint"]
    told, other = critic(fake), critic(fake | {AGE: 1 - fake[AGE]})
    assert (told != other).all()
    outcome = m.play(batch(), Noise(0))
    names = [n for n, p in m.critics.named_parameters() if p.requires_grad]
    told = [g for g, n in zip(outcome.critic, names, strict=True) if f".{AGE}." in n]
    assert len(told) == 2 and all(g.any() for g in told)


@pytest.mark.parametrize("settings", [NONE, "chains.unclamped.steps=0"])
def test_where_nobody_is_old_nothing_is_said_of_it(settings):
    m = game(settings)
    real, fake, kept = m.pairs(batch(), Noise(0))
    assert AGE not in real | fake and kept == {}
    critic, names = m.play(batch(), Noise(0)).critic, [n for n, _ in m.critics.named_parameters()]
    unheard = [g for g, n in zip(critic, names, strict=True) if f".{AGE}." in n]
    assert len(unheard) == 2 and not any(g.any() for g in unheard)


def test_a_critic_need_not_be_told():
    m = game("critics.joint.hears.age=null")
    fake = m.pairs(batch(), Noise(0)).fake
    assert AGE in fake and set(m.critics["joint"].messages) == {"x", "z"}
    told, untold = (module("gibbsnet", "ring", *s).critics["joint"] for s in ([], ["critics.joint.hears.age=null"]))
    assert all(torch.equal(told.get_parameter(n), p) for n, p in untold.named_parameters()), "the same first weights"


@pytest.mark.parametrize("share, counts", [(0.5, (3, 0)), (1.0, (3, 3)), (0.7, (3, 1))])
def test_ranks_share_the_places(share, counts):
    m = game(f"chains.unclamped.persistent={share}", "chains.unclamped.steps=2")
    whole = m.pairs(batch(), Noise(3))
    halves = [m.pairs({"x": batch()["x"][3 * r : 3 * r + 3]}, Noise(3, rank=r, ranks=2)) for r in range(2)]
    assert tuple(int(h.fake[AGE].sum()) for h in halves) == counts
    for v in ("x", "z", AGE):
        assert torch.allclose(torch.cat([h.fake[v] for h in halves]), whole.fake[v])


def test_old_chains_go_on_by_the_average_as_it_samples():
    """Without the dropout that the weights in training have, and with the young starting from data where they are to."""
    m = game("network.encode.dropout=0.5")
    m.train()
    m.kept = m.pairs(batch(), Noise(9)).kept
    a, b = (m.pairs(batch(), Noise(0)) for _ in range(2))
    assert torch.equal(a.kept["x"][OLD], b.kept["x"][OLD]) and not torch.equal(a.fake["x"][OLD], b.fake["x"][OLD])
    m = game("chains.unclamped.steps=1", "chains.unclamped.start_from_data=1.0")
    fake = m.pairs(points(), Noise(0)).fake
    plain = module("gibbsnet", "ring", "chains.unclamped.steps=1", "chains.unclamped.start_from_data=1.0", NONE)
    assert torch.allclose(fake["x"][YOUNG], plain.pairs(points(), Noise(0)).fake["x"][YOUNG])


def test_a_kept_chain_of_another_size_is_not_gone_on_with():
    m = game()
    start = m.pairs(batch(), Noise(0)).kept["x"]
    m.kept = {v: torch.randn(4, 2).double() for v in ("x", "z")}
    assert torch.equal(m.pairs(batch(), Noise(0)).kept["x"], start)


def test_a_checkpoint_holds_the_chain_of_all_ranks():
    """Each goes on with its rows, or, where the checkpoint's batch was another, all begin anew; none with another's."""
    m, rows = game(), {v: torch.arange(2.0 * B).view(-1, 1).expand(-1, 2).double() for v in ("x", "z")}
    m.on_load_checkpoint({"kept": rows})
    for rank in range(2):
        here = m._kept_here(Noise(0, rank=rank, ranks=2), B)
        assert torch.equal(here["x"], rows["x"][rank * B : (rank + 1) * B])
        assert m._kept_here(Noise(0, rank=rank, ranks=2), 2 * B) == {}
    checkpoint = {}
    m.on_save_checkpoint(checkpoint)
    assert torch.equal(checkpoint["kept"]["x"], rows["x"]), "saved before a step, as it was read"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_what_critics_may_hear_is_what_the_last_pass_heard(monkeypatch, steps):
    """Potency's draws of the last pass are the same for old and young as for the critics."""
    m = game("chains.unclamped.mode={z: {potency: 0.5}}", f"chains.unclamped.steps=[{steps},2]")
    audible, heard = type(m.unclamped).audible, []
    monkeypatch.setattr(type(m.unclamped), "audible", lambda *a: heard.append(audible(*a)) or heard[-1])
    for key in range(5):
        heard.clear()
        noise = Noise(key)
        m.pairs(batch(), noise)
        last = [h["z"] for h in heard if h]
        sweeps = max(1, m.unclamped.length(noise.at("unclamped")))
        aged, fresh = last[sweeps + 1], last[-1]  # the old: a start, its sweeps, and the one more; then the young
        assert torch.equal(torch.cat([aged, fresh]), m._audible(noise, B)["z"])


@pytest.mark.parametrize(
    "model, settings, message",
    [
        (
            "gibbsnet2",
            ["mode=daydreaming", "chains.unclamped.persistent=0.5"],
            "each batch gives the chain another x, z2",
        ),
        (
            "gibbsnet2",
            ["mode=ready_to_hand", "chains.unclamped.persistent=1.0"],
            "each batch gives the chain another x, z2",
        ),
        ("gibbsnet", ["chains.clamped.persistent=0.5"], "persistent can be said of the unclamped chain alone"),
        ("gibbsnet", ["critics.joint.hears.x=null"], "critic 'joint': hears 'x' by no network"),
    ],
)
def test_what_cannot_persist_is_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        module(model, "digits", *settings)


def test_a_critic_of_no_variable_is_refused():
    with pytest.raises(ValueError, match="critic 'joint': hears no variable"):
        build_critics({"joint": {"hears": {AGE: "net"}, "head": "net", "hidden": 3}}, {}, NETWORKS)


@pytest.mark.parametrize("value", ["null", "1.5", "often"])
def test_a_share_is_a_number_in_0_1(value):
    with pytest.raises(ConfigError, match=r"expected a (share|number)"):
        load([f"chains.unclamped.persistent={value}"])


def test_a_variable_may_not_be_called_age():
    with pytest.raises(ValueError, match="age"):
        build_graph({AGE: {"family": "gaussian", "shape": [1]}}, {})


def test_a_sticky_chain_s_ages_may_be_wrong_together_and_right_on_average():
    """Exactly at J both ages are at J. Near it, on a chain that hardly leaves its mode, they need not be: the critic that is not
    told the age sees a twentieth of the error of either."""
    stay, leave = (
        0.99,
        np.array([0.004, 0.012]),
    )  # q keeps a mode in .99, p leaves the one three times as often as the other
    q = np.array([[stay, 1 - stay], [1 - stay, stay]])
    p = np.array([[1 - leave[0], leave[0]], [leave[1], 1 - leave[1]]])
    joint = q / 2
    settled = unclamped_laws(q, p, np.array([0.5, 0.5]), 2000)
    old = settled[-1]
    z = 2 * joint.sum(0) - old.sum(0)  # what the start must be for the ages to cancel
    young = p.T * z
    assert tv(settled[-1], settled[-2]) < 1e-12 and (z > 0).all()
    apart, together = min(tv(young, joint), tv(old, joint)), tv((young + old) / 2, joint)
    assert apart > 0.1 and together < apart / 20
