"""One contract over every model x data configuration, and every YAML file loads and builds."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT

from gibbsnet.config import choices, load
from gibbsnet.modules import build
from gibbsnet.noise import Noise

SHAPES = {"digits": (1, 8, 8), "ring": (2,), "grid": (2,), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "svhn": (3, 32, 32),
          "npz": (1, 12, 12), "folder": (3, 16, 16)}  # fmt: skip
NETWORKS = {"conv28": "mnist", "conv32": "cifar10", "mlp": "npz"}


def module_of(*settings, shape):
    return build(load(list(settings)), shape)


def thinned(config):
    """The configuration with an eighth of each layer's units: how a model is wired does not hang on them."""
    network = config["network"]
    for part in (network[name] for name in network if name != "name"):
        if "layers" in part:
            part["layers"] = [[kernel, stride, maps // 8] for kernel, stride, maps in part["layers"]]
        if "width" in part:
            part["width"] = [width // 8 for width in part["width"]]
    for critic in config["critics"].values():
        critic["hidden"] //= 8
    return config


def observed(module, batch):
    """Labels and attributes, as data have them, for a model that has such variables."""
    y = {"y": torch.arange(batch) % module.graph["y"].shape[0]} if "y" in module.graph else {}
    return y | ({"a": torch.arange(3 * batch).view(batch, 3) % 2 == 0} if "a" in module.graph else {})


def check(module, shape, batch=4):  # a quarter of the chains may be persistent ones
    """Shapes; every parameter that may change takes part in the game; finite gradients; plain, loadable weights."""
    x = Noise(0, "x").uniform((batch, *shape)) * 2 - 1
    grads: dict[str, torch.Tensor] = {}
    fixed = all(low == high for low, high in (module.clamped.range, module.unclamped.range))
    for step in range(1 if fixed else 6):  # a chain of random length does not use every message in every game
        outcome = module.play({"x": x, **observed(module, batch)}, Noise(step), 0)
        names = [n for n, p in module.named_parameters() if p.requires_grad and n.startswith(("graph", "critics"))]
        for name, g in zip(names, [*outcome.graph, *outcome.critic], strict=True):
            assert torch.isfinite(g).all(), name
            grads[name] = grads.get(name, 0) + g.abs().sum()
    silent = [name for name, g in grads.items() if g == 0]
    assert not silent, silent
    state = next(iter(module.trajectory(batch, 0)))
    assert state.keys() == set(module.graph) and state["x"].shape == x.shape
    posterior = module.infer({"x": x}, 0)
    assert torch.equal(posterior["x"], x)
    for z in module.latents:
        assert module.posterior_mean({"x": x}, z, 0).shape == posterior[z].shape
        assert module.reconstruct(posterior, z, 0).shape == x.shape


@pytest.mark.parametrize("data", choices("data"))
@pytest.mark.parametrize("model", choices("model"))
def test_every_model_on_every_data_set(model, data):
    own = ["data.classes=7"] if data in ("npz", "folder") else []
    config = load([f"model={model}", f"data={data}", *own])
    whole = model in ("ali", "hali") or data not in ("cifar10", "svhn")  # ALI's published networks are large
    check(build(config if whole else thinned(config), SHAPES[data]), SHAPES[data])


@pytest.mark.parametrize("network", sorted(set(choices("network")) - {"ali_cifar", "ali_svhn", "mlp28", "points"}))
def test_every_network_that_is_no_default(network):
    data = NETWORKS[network]
    check(module_of(f"network={network}", f"data={data}", shape=SHAPES[data]), SHAPES[data])


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_builds(experiment):
    config = load([f"experiment={experiment}"])
    assert config["experiment"] == experiment
    assert set(build(config, SHAPES[config["data"]["name"]]).graph) == set(config["graph"])


@pytest.mark.parametrize("trainer", choices("trainer"))
def test_every_trainer_loads(trainer):
    build(load([f"trainer={trainer}"]), SHAPES["digits"])


@pytest.mark.parametrize("mode", choices("mode"))
@pytest.mark.parametrize("model", ["gibbsnet2", "gibbsnet2_local", "gibbsnet2_passes", "labelled2", "hali", "diamond"])
def test_every_mode_teaches_all_but_p_of_x_where_x_is_clamped(model, mode):
    """Over graphs whose levels are x, z1 and z2, HALI's among them, which a mode plays as a GibbsNet."""
    module = module_of(f"model={model}", "model.kind=gibbsnet", f"mode={mode}", shape=SHAPES["digits"])
    x, grads = Noise(0, "x").uniform((4, 1, 8, 8)) * 2 - 1, {}
    for step in range(4):  # chains of random length
        outcome = module.play({"x": x, **observed(module, 4)}, Noise(step), 1)
        assert all(torch.isfinite(g).all() for g in outcome.graph + outcome.critic)
        names = [n for n, p in module.named_parameters() if p.requires_grad and n.startswith("graph")]
        for name, g in zip(names, outcome.graph, strict=True):
            grads[name] = grads.get(name, False) or bool(g.any())
    clamped = "x" in module.unclamped.clamped
    assert clamped == (mode in ("daydreaming", "present_at_hand"))
    assert {n for n, taught in grads.items() if not taught} == {n for n in grads if clamped and ".conditionals.x." in n}


def test_no_yaml_file_is_left_out():
    known = {Path(f"{group}/{name}.yaml") for group in ("model", "data", "network", "trainer", "mode", "experiment")
             for name in choices(group)}  # fmt: skip
    files = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert files - known == {Path("config.yaml")}
    assert set(choices("data")) == set(SHAPES)
