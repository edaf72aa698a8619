"""Small graphs, chains and critics, in double precision where numbers are compared."""

import numpy as np
import torch

from gibbsnet.chain import Chain, Stance
from gibbsnet.config import choices, load
from gibbsnet.graph import Graph, build_critics, build_graph
from gibbsnet.modules import build
from gibbsnet.noise import seed_of

NETWORKS = {"net": {"kind": "mlp", "width": [5]}, "affine": {"kind": "mlp", "width": []}, "table": {"kind": "linear"}}
X = {"family": "points", "shape": [3], "scale": 0.1}
Z = {"family": "gaussian", "shape": [2]}
HELD = {"x": Stance(clamped=True)}
LABELLED = {name for name in choices("model") if "y" in load([f"model={name}"])["graph"]}  # models that hold labels

PAIR = {"x": {**X, "hears": {"z": "net"}}, "z": {**Z, "hears": {"x": "net"}}}
TOWER = {
    "x": {**X, "hears": {"z1": "net"}},
    "z1": {**Z, "hears": {"x": "net", "z2": "net"}},
    "z2": {**Z, "hears": {"z1": "net"}},
}

ALI = Chain(["z"], mode=HELD), Chain(["z", "x"])
GIBBS = Chain(["z"], mode=HELD), Chain(["z", "x"], ["z", "x"], 2)
HALI = Chain(["z1", "z2"], mode=HELD), Chain(["z2", "z1", "x"])
GIBBS2 = Chain(["z1"], ["z2", "z1"], 1, mode=HELD), Chain(["z2", "z1", "x"], ["z1", ["x", "z2"]], 2)


def seeded(make, *key):
    """What `make` makes with the global generator at a seed, the generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*key))
        return make()


def graph(variables=PAIR, networks=NETWORKS, seed=0) -> Graph:
    return seeded(lambda: build_graph(variables, networks), seed).double()


def critics(variables=PAIR, hears=None, networks=NETWORKS, seed=0):
    """One critic over every variable, or those that `hears` names: critic -> variables."""
    hears = hears or {"joint": list(variables)}
    plain = {c: {"hears": dict.fromkeys(vs, "net"), "head": "net", "hidden": 6} for c, vs in hears.items()}
    return seeded(lambda: build_critics(plain, variables, networks), seed).double()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def module(model="gibbsnet", data="ring", *settings):
    """A model of conf/ for points or digits, in double precision."""
    config = load([f"model={model}", f"data={data}", *settings])
    return build(config, tuple(config["data"]["shape"])).double()


# Tables: q(x) (X,), q(z|x) (X, Z), p(x|z) (Z, X), a law of z (Z,)


def rows(rng, *shape, sharp=1.0):
    """Random distributions along the last dimension."""
    table = np.exp(sharp * rng.standard_normal(shape))
    return table / table.sum(-1, keepdims=True)


def tabled(q, p, prior=None) -> Graph:
    """The graph of categorical x and z whose conditionals are these tables, z's prior included."""
    n, k = q.shape
    plain = {
        "x": {"family": "categorical", "shape": [n], "hears": {"z": "table"}},
        "z": {"family": "categorical", "shape": [k], "hears": {"x": "back"}},
    }
    made = build_graph(plain, {**NETWORKS, "back": {"kind": "linear"}}).double()
    prior = np.full(k, 1 / k) if prior is None else prior
    with torch.no_grad():
        made["x"].messages["z"].weight.copy_(torch.tensor(np.log(p)).T)
        # The prior is a summand: where x speaks, its message takes it back.
        made["z"].messages["x"].weight.copy_((torch.tensor(np.log(q)) - torch.tensor(np.log(prior))).T)
        made["z"].prior.copy_(torch.tensor(np.log(prior)))
    return made


def unclamped_laws(q, p, r, steps):
    """P_0, ..., P_steps, each (X, Z), of the chain z ~ r, x ~ p(x|z), then z ~ q(z|x), x ~ p(x|z) and so on."""
    laws = []
    for _ in range(steps + 1):
        laws.append(p.T * r)
        r = laws[-1].sum(1) @ q
    return laws


def tv(a, b):
    """Total variation distance of two tables."""
    return np.abs(a - b).sum() / 2
