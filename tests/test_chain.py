from itertools import islice, pairwise, product

import numpy as np
import pytest
import torch

from gibbsnet.chain import Chain, Stance, check_pairing, endings, parse
from gibbsnet.noise import Noise
from tests.models import ALI, GIBBS, GIBBS2, HALI, HELD, PAIR, TOWER, graph, normal

B = 6
X = {"x": normal(B, 3)}
LEARNED = {v: {**options, "prior": "learned"} for v, options in PAIR.items()}
LEARNED_TOWER = {v: {**options, "prior": "learned"} for v, options in TOWER.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[v], b[v]) for v in a)


def at(chain, g, noise, i, given={}, seen={}):
    return next(islice(chain.trajectory(g, noise, given, seen, B), i, None))


# The order of things


@pytest.mark.parametrize(
    "variables, chain, given, expected",
    [
        (PAIR, ALI[0], X, "z|x"),
        (PAIR, ALI[1], {}, "z| x|z"),
        (PAIR, GIBBS[1], {}, "z| x|z z|x x|z z|x x|z"),
        (TOWER, HALI[0], X, "z1|x z2|z1"),
        (TOWER, HALI[1], {}, "z2| z1|z2 x|z1"),
        (TOWER, GIBBS2[0], X, "z1|x z2|z1 z1|xz2"),
        (TOWER, GIBBS2[1], {}, "z2| z1|z2 x|z1 z1|xz2 x|z1 z2|z1 z1|xz2 x|z1 z2|z1"),
        (TOWER, Chain(["z2", "z1", "x"], ["z1|x", "z2|z1", "z1|z2", "x|z1"], 1), {},
         "z2| z1|z2 x|z1 z1|x z2|z1 z1|z2 x|z1"),
        (TOWER, Chain(["z2", "z1", "x"], ["z1|x,z2", "x|"], 1), {}, "z2| z1|z2 x|z1 z1|xz2 x|"),
        (TOWER, Chain([["z1", "z2"], "x"], [["z1", "x"]], 1), {}, "z1| z2| x|z1 z1|z2 x|"),
        (TOWER, Chain(["z2", "z1", "x"], [["z1", "x"]], 1), X, "z2| z1|xz2 z1|z2 x|"),
    ],
)  # fmt: skip
def test_presence_gives_direction(record, variables, chain, given, expected):
    g = graph(variables)
    rows = record(g)
    chain.run(g, Noise(0), given, batch=B)
    assert " ".join(f"{v}|{hears}" for v, hears, *_ in rows) == expected


def test_parsing():
    assert parse("z") == (("z", None),)
    assert parse(["x", "z2"]) == (("x", None), ("z2", None))
    assert parse("z1|x") == parse(" z1 | x ") == (("z1", frozenset("x")),)
    assert parse("z1|x, z2") == (("z1", frozenset({"x", "z2"})),)


@pytest.mark.parametrize("variables, chains", [(PAIR, GIBBS), (TOWER, HALI), (TOWER, GIBBS2)])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_training_chain_is_its_trajectory(variables, chains, side, steps):
    chain = chains[side]
    steps = steps if chain.blocks else 0
    chain = Chain(chain.start, chain.blocks, steps, 3, chain.mode)
    given = X if side == 0 else {}
    g = graph(variables)
    last = chain.run(g, Noise(0), given, batch=B)
    assert equal(last, at(chain, g, Noise(0), steps, given))
    if side == 1:
        assert not equal(last, at(chain, g, Noise(1), steps, given))
    if steps:
        assert not equal(last, at(chain, g, Noise(0), steps - 1, given))


def test_a_trajectory_has_no_gradient_and_no_end():
    states = GIBBS[1].trajectory(graph(), Noise(0), batch=B)
    seen = list(islice(states, 12))
    assert not any(value.requires_grad for state in seen for value in state.values())
    assert len({float(state["x"].sum()) for state in seen}) == 12
    assert torch.is_grad_enabled()


def test_a_step_changes_no_state_in_place():
    g, chain = graph(), GIBBS[1]
    before = chain.init(g, Noise(0), batch=B)
    kept = {v: value.clone() for v, value in before.items()}
    after = chain.step(g, before, Noise(1))
    assert equal(before, kept) and not torch.equal(after["x"], before["x"])


def test_ranks_run_the_chains_of_one_process():
    g, chain = graph(), Chain(["z", "x"], ["z", "x"], (1, 4), start_from_data=0.5, mode={"z": Stance(potency=0.7)})
    data = {"x": normal(8, 3)}
    whole = chain.run(g, Noise(5), batch=8, data=data)
    halves = [
        chain.run(g, Noise(5, rank=r, ranks=2), batch=4, data={"x": data["x"][4 * r : 4 * r + 4]}) for r in range(2)
    ]
    for v in whole:
        assert torch.allclose(torch.cat([half[v] for half in halves]), whole[v], atol=1e-12)


# The number of sweeps


def test_a_range_of_steps_is_drawn_from_the_key(record):
    g, chain = graph(), Chain(["z", "x"], ["z", "x"], (1, 4))
    lengths = []
    for k in range(60):
        rows = record(g)
        chain.run(g, Noise(k), batch=B)
        lengths.append(len(rows) // 2 - 1)
        assert lengths[-1] == chain.length(Noise(k)) == chain.length(Noise(k, rank=1, ranks=2))
    assert set(lengths) == {1, 2, 3, 4}


# Clamping


def half(*bits):
    return {"x": torch.tensor(bits, dtype=torch.bool).expand(B, 3).clone()}


@pytest.mark.parametrize("seen", [{}, half(1, 0, 1), half(0, 0, 0), {"x": normal(B, 3, seed=4) > 0}], ids=str)
@pytest.mark.parametrize("start", [["z", "x"], ["x", "z"]])
def test_clamped_entries_are_bit_equal_at_every_step(seen, start):
    g, chain = graph(), Chain(start, ["z", "x"], 3, mode=HELD)
    mask = seen.get("x", torch.ones(B, 3, dtype=torch.bool))
    states = list(islice(chain.trajectory(g, Noise(0), X, seen, B), 5))
    states.append(chain.run(g, Noise(0), X, seen, B))
    assert equal(states[3], states[5])
    for state in states:
        assert torch.equal(state["x"][mask], X["x"][mask])
        assert not (state["x"] == X["x"])[~mask].any()
    for earlier, later in pairwise(states[:5]):
        assert not (earlier["x"] == later["x"])[~mask].any() and not (earlier["z"] == later["z"]).any()


@pytest.mark.parametrize("start", [["z", "x"], ["x", "z"], ["z"]])
@pytest.mark.parametrize("unseen", [float("nan"), 1e9])
def test_nobody_reads_the_unseen_entries(start, unseen):
    """An inpainting that is handed the whole image must not know the answer."""
    g, chain, seen = graph(), Chain(start, ["z", "x"], 2, mode=HELD), half(1, 0, 1)
    other = {"x": torch.where(seen["x"], X["x"], torch.tensor(unseen, dtype=torch.float64))}
    for i in range(3):
        assert equal(at(chain, g, Noise(0), i, X, seen), at(chain, g, Noise(0), i, other, seen))


def test_given_without_clamped_starts_from_the_present():
    g, chain = graph(), GIBBS[1]
    state = chain.init(g, Noise(0), X, batch=B)
    assert torch.equal(state["x"], X["x"])
    after = chain.step(g, state, Noise(0).at(1), X)
    assert not (after["x"] == X["x"]).any()
    assert torch.equal(after["z"], g["z"].draw(X, B, Noise(0).at(1)))


# Gradient


@pytest.mark.parametrize("grad_draws", range(1, 8))
@pytest.mark.parametrize(
    "variables, chain, blocks",
    [
        (LEARNED, Chain(["z", "x"], ["z", "x"], 2), [1] * 6),
        (LEARNED, Chain(["z", "x"]), [1] * 2),
        (LEARNED_TOWER, Chain(["z2", "z1", "x"], ["z1", ["x", "z2"]], 2), [1, 1, 1, 1, 2, 1, 2]),
        (LEARNED_TOWER, Chain(["z2", ["z1", "x"]], ["z1", ["x", "z2"]], 1), [1, 2, 1, 2]),
    ],
)
def test_the_last_grad_draws_block_draws_carry_gradient(record, variables, chain, blocks, grad_draws):
    g = graph(variables)
    rows = record(g)
    chain = Chain(chain.start, chain.blocks, chain.steps, grad_draws)
    chain.run(g, Noise(0), batch=B)
    carry = [k >= len(blocks) - grad_draws for k, size in enumerate(blocks) for _ in range(size)]
    assert [value.requires_grad for _, _, value, _ in rows] == carry


def test_the_gradient_of_three_draws_is_that_of_x_z_x():
    """Against the same draws written by hand: x from a constant z, z from it, x from that, and nothing before."""
    g, noise = graph(), Noise(0)
    last = Chain(["z", "x"], ["z", "x"], 3, grad_draws=3).run(g, noise, batch=B)
    with torch.no_grad():
        second = noise.at(2)
        z = g["z"].draw(at(GIBBS[1], g, noise, 1), B, second)
    x = g["x"].draw({"z": z}, B, second)
    third = noise.at(3)
    z = g["z"].draw({"x": x}, B, third)
    expected = {"x": g["x"].draw({"z": z}, B, third), "z": z}
    assert equal(last, expected)
    free = [p for p in g.parameters() if p.requires_grad]
    slopes = [torch.autograd.grad(s["x"].square().sum() + s["z"].sum(), free) for s in (last, expected)]
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*slopes, strict=True))


# Starting from data


@pytest.mark.parametrize("mask", [False, True])
def test_a_clamped_member_of_a_block_is_not_heard_by_it_in_the_start_pass_either(mask):
    """As in a sweep, and as `endings` has it: or the pairing rule would not see who is heard."""
    net = {"family": "gaussian", "shape": [2], "hears": {"x": "net"}}
    g = graph({**PAIR, "y": net, "z": {**net, "hears": {"x": "net", "y": "net"}}})
    chain = Chain([["z", "y"]], [["z", "y"]], 1, mode={**HELD, "y": Stance(clamped=True)})
    given = {"x": normal(4, *g["x"].shape), "y": normal(4, 2)}
    seen = {"y": torch.ones(4, 2, dtype=torch.bool)} if mask else {}
    one, other = (chain.init(g, Noise(0), given | {"y": y}, seen, 4) for y in (given["y"], given["y"] + 1))
    assert torch.equal(one["z"], other["z"]) and not torch.equal(one["y"], other["y"])
    assert endings(chain, g, 0)["z"] == endings(chain, g, 1)["z"] == {"x"}


def test_a_share_of_the_chains_starts_from_the_data(record):
    g, chain = graph(), Chain(["z", "x"], ["z", "x"], 1, start_from_data=0.4)
    data = {"x": normal(2000, 3, seed=7)}
    chosen = []
    for k in (0, 0, 1):
        rows = record(g)
        state = chain.run(g, Noise(k), batch=2000, data=data)
        fresh = rows[1][2]
        from_data = g["z"].draw(data, 2000, Noise(k).at(1))
        from_model = g["z"].draw({"x": fresh}, 2000, Noise(k).at(1))
        chosen.append((state["z"] == from_data).all(1))
        assert torch.equal(torch.where(chosen[-1][:, None], from_data, from_model), state["z"])
    assert torch.equal(chosen[0], chosen[1]) and not torch.equal(chosen[0], chosen[2])
    share = chosen[0].double().mean()
    assert (share - 0.4).abs() < 5 * (0.24 / 2000) ** 0.5
    without = Chain(["z", "x"], ["z", "x"], 1).run(g, Noise(0), batch=2000, data=data)
    assert not (without["z"] == from_data).any()


# Potency


def test_potency_holds_per_example():
    """Whom an example does not hear is to it as if absent."""
    g = graph()
    potency = torch.tensor([1.0, 0, 1, 0, 0, 1])
    chain = Chain(["z", "x"], ["z", "x"], 1, mode={"x": Stance(clamped=True, potency=potency)})
    state = chain.run(g, Noise(0), X, batch=B)
    hearing = Chain(["z", "x"], ["z", "x"], 1, mode=HELD).run(g, Noise(0), X, batch=B)
    deaf = Noise(0).at(1).normal((B, 2), torch.float64)
    assert torch.allclose(state["z"], torch.where(potency[:, None] > 0, hearing["z"], deaf), atol=1e-12)
    assert torch.equal(state["x"], X["x"])
    poisoned = {"x": torch.where(potency[:, None] > 0, X["x"], torch.nan)}
    assert torch.equal(chain.run(g, Noise(0), poisoned, batch=B)["z"], state["z"])


def test_potency_is_drawn_per_example_and_sweep(record):
    g, n = graph(), 2000
    chain = Chain(["z", "x"], ["z", "x"], 2, mode={"z": Stance(potency=0.3), "x": Stance(potency=0.8)})
    rows = record(g)
    chain.run(g, Noise(0), batch=n)
    drawn = [row[3] for row in rows]
    assert drawn[2] is drawn[3] and equal(drawn[4], chain.last_audible(Noise(0), n))  # one draw per sweep
    for v, p in (("z", 0.3), ("x", 0.8)):
        assert all(abs(a[v].double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5 for a in drawn)
        both = (drawn[2][v] & drawn[4][v]).double().mean()
        assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / n) ** 0.5
    assert not GIBBS[1].last_audible(Noise(0), n)


@pytest.mark.parametrize("potency", [-0.1, 1.1, torch.tensor([0.5, 2.0]), float("nan")])
def test_potency_is_a_probability(potency):
    with pytest.raises(ValueError, match="potency is a probability"):
        Stance(potency=potency)


# Boltzmann machines against enumeration


def machine(layers, seed=0):
    """A Boltzmann machine of binary layers with tied weights, and its enumerated law over all bits."""
    rng = np.random.default_rng(seed)
    names, sizes = list(layers), list(layers.values())
    hears = {v: {} for v in names}
    for below, above in pairwise(names):
        hears[above][below], hears[below][above] = f"w{above}", f"w{above}.T"
    g = graph(
        {v: {"family": "bernoulli", "shape": [n], "hears": hears[v], "prior": "learned"} for v, n in layers.items()},
        {f"w{v}": {"kind": "linear"} for v in names[1:]},
    )
    bits = np.array(list(product([0.0, 1.0], repeat=sum(sizes))))
    parts = dict(zip(names, np.split(bits, np.cumsum(sizes)[:-1], axis=1), strict=True))
    energy = np.zeros(len(bits))
    with torch.no_grad():
        for v in names:
            bias = rng.standard_normal(layers[v])
            g[v].prior.copy_(torch.tensor(bias))
            energy += parts[v] @ bias
        for below, above in pairwise(names):
            weight = rng.standard_normal((layers[above], layers[below]))
            g[above].messages[below].weight.copy_(torch.tensor(weight))
            energy += np.einsum("na,ab,nb->n", parts[above], weight, parts[below])
    law = np.exp(energy)
    return g, bits, law / law.sum()


RBM = {"v": 3, "h": 2}, Chain(["h", "v"], ["h", "v"])
DBM = {"v": 3, "h": 2, "g": 2}, Chain(["g", "h", "v"], ["h", ["v", "g"]])


@pytest.mark.parametrize("layers, chain", [RBM, DBM], ids=["RBM", "DBM"])
@pytest.mark.parametrize("seen", [[], [0], [0, 2], [0, 1, 2]], ids=str)
def test_a_boltzmann_machine_s_chain_matches_enumeration(layers, chain, seen):
    """Free, with some visible bits clamped, and with all of them."""
    n, k = 20000, 5
    g, bits, law = machine(layers)
    mask, held = torch.zeros(n, 3, dtype=torch.bool), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).expand(n, 3)
    mask[:, seen] = True
    chain = Chain(chain.start, chain.blocks, mode={"v": Stance(clamped=bool(seen))})
    given, known = ({"v": held}, {"v": mask}) if seen else ({}, {})
    state = next(islice(chain.trajectory(g, Noise(1), given, known, n), 25, None))
    law = law * (bits[:, seen] == held[0, seen].numpy()).all(1)
    law = law / law.sum()
    drawn = torch.cat([state[v] for v in layers], 1).numpy()
    count = np.bincount((drawn @ 2 ** np.arange(drawn.shape[1])[::-1]).astype(int), minlength=len(bits))
    assert (np.abs(count / n - law) <= k * np.sqrt(law * (1 - law) / n) + k / n).all()
    # Gates that wide tell this law from that of independent bits.
    means = (law @ bits)[None]
    independent = np.where(bits == 1, means, 1 - means).prod(1)
    assert len(seen) > 1 or not (np.abs(independent - law) <= k * np.sqrt(law * (1 - law) / n) + k / n).all()


# Refusals


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(steps=-1), "steps must be a number of sweeps >= 0"),
        (dict(steps=(3, 1), blocks=["z"]), r"a range \[low, high\]"),
        (dict(steps=(-1, 1), blocks=["z"]), "steps must be"),
        (dict(steps=1), "no blocks to sweep over"),
        (dict(steps=(0, 2)), "no blocks to sweep over"),
        (dict(grad_draws=0), "grad_draws must be >= 1"),
        (dict(start_from_data=1.5), "start_from_data is a share"),
        (dict(start_from_data=0.5), "start_from_data needs steps >= 1"),
        (dict(start_from_data=0.5, steps=(0, 2), blocks=["z"]), "start_from_data needs steps >= 1"),
    ],
)
def test_a_chain_s_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        Chain(["z", "x"], **options)


def test_a_clamped_variable_must_be_given_and_only_clamped_ones_are_seen():
    with pytest.raises(ValueError, match="must be given a value: x"):
        ALI[0].run(graph(), Noise(0), batch=B)
    with pytest.raises(ValueError, match="does not clamp x"):
        GIBBS[1].run(graph(), Noise(0), X, half(1, 0, 1), batch=B)


IMPOTENT = {"x": Stance(clamped=True, potency=0.0)}
TRAPS = {
    "z last": (PAIR, GIBBS[0], Chain(["z", "x"], ["x", "z"], 1), "z given x"),
    "z last, by its start": (PAIR, ALI[0], Chain(["z", "x", "z|x"]), "z given x"),
    "x alone, z after it": (PAIR, ALI[0], Chain(["x", "z"]), "z given x"),
    "z2 on both sides": (TOWER, HALI[0], Chain(["z2", "z1", "x"], ["z1", ["x", "z2"]], 2), "z2 given z1"),
    "z2 by a sweep": (TOWER, Chain(["z1"], ["z1", "z2"], 1, mode=HELD), GIBBS2[1], "z2 given z1"),
    "both on the prior": (PAIR, Chain(["z"], mode=IMPOTENT), ALI[1], "z given nothing"),
    "both told to hear nobody": (PAIR, Chain(["z|"], mode=HELD), ALI[1], "z given nothing"),
    "one bad N, the first": (PAIR, GIBBS[0], Chain(["x", "z"], ["z", "x"], (0, 3)), "z given x"),
    "one bad N, not the first": (PAIR, GIBBS[0], Chain(["z", "x"], ["x", "z"], (0, 3)), "z given x"),
    "one bad N of the clamped": (TOWER, Chain(["z1", "z2"], ["z2", "z1"], (0, 1), mode=HELD), GIBBS2[1], "z2 given z1"),
    "one bad N of the clamped, not the first": (
        TOWER,
        Chain(["z1"], ["z1", "z2"], (0, 1), mode=HELD),
        GIBBS2[1],
        "z2 given z1",
    ),
    "the same conditional of two": (TOWER, HALI[0], Chain(["z2", "z1", "x"], ["z1", ["x", "z2|z1"]], 1), "z2 given z1"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_the_pairing_trap_is_refused(name):
    variables, clamped, unclamped, words = TRAPS[name]
    with pytest.raises(ValueError, match=f"both chains end on {words}: the critic would be blind"):
        check_pairing(graph(variables), clamped, unclamped)


@pytest.mark.parametrize(
    "variables, chains",
    [
        (PAIR, ALI),
        (PAIR, GIBBS),
        (TOWER, HALI),
        (TOWER, GIBBS2),
        (PAIR, (GIBBS[0], Chain(["z", "x"], ["z", "x"], (0, 3)))),
        (PAIR, (GIBBS[0], Chain(["x", "z"], ["z", "x"], (1, 3)))),
        (TOWER, (GIBBS2[0], Chain(["z2", "z1", "x"], ["z1", ["x", "z2"]], (0, 3)))),
        (TOWER, (HALI[0], Chain(["z2", "z1", "x"], ["z1|x", "z2|z1", "z1|z2", "x|z1"], 2))),
    ],
)
def test_games_that_everybody_sees_are_allowed(variables, chains):
    check_pairing(graph(variables), *chains)


def test_every_set_of_what_may_be_unknown_is_looked_at():
    """y hears a: where both are known, or neither, no two ends are alike; where y alone is unknown both chains end on y given
    x and a."""
    variables = {
        "x": {**PAIR["x"], "prior": "learned", "hears": {"z": "net", "y": "net", "a": "net"}},
        **{v: {**PAIR["z"], "hears": hears} for v, hears in
           (("z", {"x": "net"}), ("y", {"x": "net", "a": "net"}), ("a", {"x": "net"}))},
    }  # fmt: skip
    g, held = graph(variables), {v: Stance(clamped=True) for v in "xya"}
    unclamped = Chain(["z", "a", "x", "y"])
    with pytest.raises(ValueError, match=r"both chains end on y given a, x: .* where y is not known"):
        check_pairing(g, Chain(["z", "y", "a"], mode=held), unclamped)
    check_pairing(g, Chain(["z", "a"], mode=held), unclamped)  # y is known everywhere
    # Where neither is known y hears a's stand-in, which is drawn anew later: y does not end on its conditional.
    blank = Chain(["z", "y", "a"], mode={"x": held["x"]})
    assert "y" not in endings(blank, g, 0, frozenset("ya"))
    assert endings(blank, g, 0)["y"] == {"x"}, "without the stand-in"


def test_endings():
    g = graph(TOWER)
    assert endings(GIBBS2[1], g, 0) == {"z2": set(), "z1": {"z2"}, "x": {"z1"}}
    assert endings(GIBBS2[1], g, 2) == {"x": {"z1"}, "z2": {"z1"}}  # z1 heard an older x and z2
    assert endings(GIBBS2[0], g, 1) == {"z1": {"x", "z2"}}
