import pytest
import torch
from torch.autograd.functional import jacobian

from gibbsnet.graph import build_critics, build_graph
from gibbsnet.noise import Noise
from tests.models import NETWORKS, PAIR, TOWER, X, Z, critics, graph, normal, seeded

# z hears x and y through experts, or through features that a head reads.
HEADED = {**Z, "hears": {"x": "net", "y": "net"}, "head": {"network": "net", "shape": [7]}}
THREE = {"x": X, "y": {**X, "shape": [4]}, "z": {**Z, "hears": {"x": "net", "y": "net"}}}
BOTH = [THREE, {**THREE, "z": HEADED}]
both = pytest.mark.parametrize("variables", BOTH, ids=["experts", "head"])
B = 5


def state(batch=B, seed=0):
    return {
        "x": normal(batch, 3, seed=seed),
        "y": normal(batch, 4, seed=seed + 1),
        "z": normal(batch, 2, seed=seed + 2),
    }


def mask(*bits):
    return torch.tensor(bits, dtype=torch.bool)


SOME, NONE, ALL = mask(1, 0, 1, 0, 0), mask(0, 0, 0, 0, 0), mask(1, 1, 1, 1, 1)


@both
@pytest.mark.parametrize(
    "present, audible",
    [([], {}), (["z"], {}), (["x", "y"], {"x": NONE, "y": NONE}), (["x"], {"x": NONE})],
    ids=["empty", "itself", "silent", "absent and silent"],
)
def test_if_nobody_speaks_v_comes_from_its_prior(variables, present, audible):
    z = graph(variables)["z"]
    there = {v: state()[v] for v in present}
    assert torch.equal(z.eta(there, B, audible), z.family.prior((2,)).double().expand(B, -1))
    assert torch.equal(z.draw(there, B, Noise(0), audible), Noise(0).normal((B, 2), torch.float64))


@both
@pytest.mark.parametrize("who", ["x", "y"])
def test_a_speaker_is_heard(variables, who):
    z, there = graph(variables)["z"], state()
    slope = jacobian(lambda value: z.eta({**there, who: value}, B), there[who])
    assert all(slope[b, :, b].abs().sum() > 0 for b in range(B))
    assert all(not slope[b, :, c].any() for b in range(B) for c in range(B) if b != c)


@both
def test_the_jacobian_from_whom_v_does_not_hear_is_exactly_zero(variables):
    z, there = graph(variables)["z"], state()
    for who, audible in [("z", {}), ("x", {"x": NONE})]:
        slope = jacobian(lambda value: z.eta({**there, who: value}, B, audible), there[who])  # noqa: B023
        assert not slope.any()
    slope = jacobian(lambda value: z.eta({**there, "x": value}, B, {"x": SOME}), there["x"])
    assert all(bool(slope[b, :, b].any()) == bool(SOME[b]) for b in range(B))
    tower = graph(TOWER)
    slope = jacobian(lambda z2: tower["x"].eta({"z1": there["z"], "z2": z2}, B), there["z"])
    assert not slope.any()


@both
def test_silence_of_an_example_is_absence(variables):
    """Per-example audibility equals running each example apart, with those present who are heard by it."""
    z, there = graph(variables)["z"], state()
    audible = {"x": SOME, "y": mask(0, 0, 1, 1, 0)}
    together = z.eta(there, B, audible)
    for b in range(B):
        alone = {v: there[v][b : b + 1] for v in ("x", "y") if audible[v][b]}
        assert torch.allclose(together[b], z.eta(alone, 1)[0], atol=1e-12)
    assert torch.equal(together[1], z.family.prior((2,)).double())
    permuted = {**there, "x": torch.where(SOME[:, None], there["x"], there["x"].roll(1, 0))}
    assert torch.equal(z.eta(permuted, B, audible), together)


@both
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_the_silent_would_say_changes_nothing(variables, poison):
    g, there = graph(variables), state()

    def outcome(x):
        x = x.clone().requires_grad_()
        eta = g["z"].eta({**there, "x": x}, B, {"x": SOME})
        return eta, torch.autograd.grad((eta * normal(B, 4, seed=9)).sum(), [x, *g["z"].messages.parameters()])

    poisoned = torch.where(SOME[:, None], there["x"], torch.tensor(poison, dtype=torch.float64))
    for clean, dirty in zip(*map(outcome, (there["x"], poisoned)), strict=True):
        for a, b in zip(clean, dirty, strict=True):
            assert torch.equal(a, b) and b.isfinite().all()


def test_experts_multiply():
    """eta is the prior plus each neighbour's own natural parameters."""
    z, there = graph(THREE)["z"], state()
    prior = z.eta({}, B)
    apart = [z.eta({v: there[v]}, B) - prior for v in ("x", "y")]
    for v, said in zip(("x", "y"), apart, strict=True):
        assert torch.allclose(said, z.family.natural(z.messages[v](there[v])))
    assert torch.allclose(z.eta(there, B), prior + sum(apart))
    headed = graph(BOTH[1])["z"]
    apart = [headed.eta({v: there[v]}, B) - prior for v in ("x", "y")]
    assert not torch.allclose(headed.eta(there, B), prior + sum(apart))


def test_a_conditional_is_a_distribution():
    z, there = graph(THREE)["z"], state()
    law = z(there, B)
    assert torch.equal(law.mean, z.mean(there, B)) and law.batch_shape == (B,)
    noise = Noise(0).normal((B, 2), torch.float64)
    assert torch.allclose(z.draw(there, B, Noise(0)), law.mean + law.stddev * noise)


def test_a_block_is_drawn_given_the_others_alone():
    g, there = graph(TOWER), {"x": normal(B, 3), "z1": normal(B, 2), "z2": normal(B, 2, seed=1)}
    drawn = g.draw(["x", "z1"], there, B, Noise(0))
    again = g.draw(["x", "z1"], {**there, "x": there["x"] + 1, "z1": there["z1"] + 1}, B, Noise(0))
    assert drawn.keys() == {"x", "z1"} and all(torch.equal(drawn[v], again[v]) for v in drawn)
    noise = Noise(0)
    assert torch.equal(drawn["x"], g["x"].draw({}, B, noise))
    assert torch.equal(drawn["z1"], g["z1"].draw({"z2": there["z2"]}, B, noise))


def test_messages_and_heads_compose_over_shapes():
    """A deconvolution after the sum: z hears nothing of shapes, x is an image made of one sum of features."""
    variables = {
        "x": {"family": "pixels", "shape": [1, 8, 8], "hears": {"z": "up", "s": "side"},
              "head": {"network": "out", "shape": [6, 4, 4]}},
        "z": {**Z, "hears": {"x": "net"}},
        "s": {**Z, "shape": [2, 4, 4], "hears": {"x": "down"}},
    }  # fmt: skip
    networks = {
        **NETWORKS,
        "up": {"kind": "deconv", "layers": [[4, 1, 5]]},
        "side": {"kind": "conv", "layers": []},
        "out": {"kind": "deconv", "layers": [[2, 2, 3]]},
        "down": {"kind": "conv", "layers": [[2, 2, 3]]},
    }
    g = graph(variables, networks)
    there = {"z": normal(B, 2), "s": normal(B, 2, 4, 4, seed=1)}
    there["x"] = g["x"].draw(there, B, Noise(0), {"s": SOME})
    assert there["x"].shape == (B, 1, 8, 8) and g["s"].draw(there, B, Noise(1)).shape == (B, 2, 4, 4)
    there["x"].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in g["x"].messages.parameters())


# Critics


def test_a_critic_sees_dependence():
    """Two joints of equal marginals, x = z and x independent of z, told apart by the activation between sum and head."""
    plain = {"joint": {"hears": {"x": "net", "z": "net"}, "head": "affine", "hidden": 8}}
    variables = {"x": {**X, "shape": [1]}, "z": {**Z, "shape": [1]}}
    critic = seeded(lambda: build_critics(plain, variables, NETWORKS))["joint"].double()
    z = normal(400, 1).sign()
    alike, apart = {"x": z, "z": z}, {"x": normal(400, 1, seed=1).sign(), "z": z}
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        softplus = torch.nn.functional.softplus
        loss = softplus(-critic(alike)).mean() + softplus(critic(apart)).mean()
        loss.backward()
        optimizer.step()
    # At best x != z is certain and x = z is 2 to 1 for the first joint: .95; a blind critic stays at 2 log 2 = 1.39.
    best = 1.5 * (torch.tensor(3.0).log() - 2 / 3 * torch.tensor(2.0).log())
    assert loss < best + 0.05


def test_hidden_variables_leave_the_critic_as_if_absent():
    critic, there = critics(THREE)["joint"], state()
    audible = {"x": SOME, "z": mask(1, 1, 0, 0, 0)}
    together = critic(there, audible)
    assert together.shape == (B,)
    for b in range(B):
        alone = {v: there[v][b : b + 1] for v in there if v not in audible or audible[v][b]}
        assert torch.allclose(together[b], critic(alone)[0], atol=1e-12)


def test_a_critic_from_whom_everything_is_hidden_scores_all_alike():
    critic, there = critics(PAIR)["joint"], state()
    nothing = critic({**there, "x": there["x"] * torch.nan}, {"x": NONE, "z": NONE})
    assert torch.allclose(nothing, critic(there, {"x": SOME, "z": SOME})[1].expand(B)) and nothing.requires_grad


# Building


def test_a_named_linear_message_is_one_matrix_both_ways():
    bits = {"family": "bernoulli"}
    variables = {
        "v": {**bits, "shape": [3], "hears": {"h": "table.T"}},
        "h": {**bits, "shape": [2], "hears": {"v": "table", "g": "other"}},
        "g": {**bits, "shape": [4], "hears": {"h": "other.T"}},
    }
    g = graph(variables, {**NETWORKS, "other": {"kind": "linear"}})
    assert g["v"].messages["h"].linear.weight is g["h"].messages["v"].weight
    assert g["g"].messages["h"].linear.weight is g["h"].messages["g"].weight
    assert sum(p.requires_grad for p in g.parameters()) == 2


def test_the_prior_is_fixed_unless_it_is_learned():
    learned = {**PAIR, "x": {**PAIR["x"], "prior": "learned"}}
    assert [name for name, p in graph(PAIR).named_parameters() if not p.requires_grad] == [
        "conditionals.x.prior",
        "conditionals.z.prior",
    ]
    assert graph(learned)["x"].prior.requires_grad and not graph(learned)["z"].prior.requires_grad


@pytest.mark.parametrize(
    "change, words",
    [
        ({"family": "poisson"}, "variable 'z': unknown family 'poisson'"),
        ({"hears": {"w": "net"}}, "variable 'z': hears 'w', which is no variable: expected one of x, z"),
        ({"hears": {"x": "cnn"}}, "variable 'z': unknown network 'cnn': expected one of net, affine"),
        ({"hears": {"x": "net.T"}}, "variable 'z': 'net.T': only a linear network has a transpose"),
        ({"hears": {"x": "table", "z": "table"}}, "variable 'z': network 'table' is shared and has other shapes"),
        ({"head": {"network": "cnn", "shape": [3]}}, "variable 'z': unknown network 'cnn'"),
        ({"prior": "flat"}, "variable 'z': unknown prior 'flat'"),
        ({"flor": 0.1}, "variable 'z': .*flor"),
        ({"floor": 2}, "variable 'z': a Gaussian's floor"),
    ],
)
def test_a_graph_s_errors_name_the_variable(change, words):
    with pytest.raises(ValueError, match=words):
        build_graph({"x": X, "z": {**PAIR["z"], **change}}, NETWORKS)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"hears": {"w": "net"}}, "critic 'joint': hears 'w'"),
        ({"hears": {"x": "cnn"}}, "critic 'joint': unknown network 'cnn'"),
        ({"head": "cnn"}, "critic 'joint': unknown network 'cnn'"),
    ],
)
def test_a_critic_s_errors_name_the_critic(change, words):
    with pytest.raises(ValueError, match=words):
        build_critics({"joint": {"hears": {"x": "net"}, "head": "net", "hidden": 3, **change}}, PAIR, NETWORKS)


def test_equal_seeds_build_equal_weights():
    a, b, c = (seeded(lambda: build_graph(TOWER, NETWORKS), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)
