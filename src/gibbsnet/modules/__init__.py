"""LightningModules.  `GibbsNet` does the work; `ALI` and `HALI` are GibbsNets whose chains are checked to be theirs.

Sources:
    ALI   Dumoulin et al. 2016, https://arxiv.org/abs/1606.00704
    HALI  Belghazi et al. 2018, https://arxiv.org/abs/1802.01071
"""

from collections.abc import Mapping

from gibbsnet.modules.gibbsnet import GibbsNet, anneal, refuse_undrawn
from gibbsnet.modules.sampling import DRAWS_FOR_MEAN, build_chain, check_names, holding

__all__ = [
    "ALI",
    "DRAWS_FOR_MEAN",
    "HALI",
    "MODELS",
    "GibbsNet",
    "anneal",
    "build",
    "build_chain",
    "check_names",
    "holding",
]


class ALI(GibbsNet):
    """GibbsNet without further sweeps and with one latent level: q(z|x) q(x) against p(x|z) p(z)."""

    def check(self) -> None:
        super().check()
        _refuse_sweeps("ALI", self)
        if len(self.latents) != 1:
            raise ValueError(f"ALI has one latent, not {len(self.latents)} ({', '.join(self.latents)}): see HALI")


class HALI(GibbsNet):
    """Directed and hierarchical: q(x) prod_l q(z_l | z_{l-1}) against p(z_L) prod_l p(z_{l-1} | z_l)."""

    def check(self) -> None:
        super().check()
        _refuse_sweeps("HALI", self)
        if len(self.latents) < 2:
            raise ValueError(f"HALI has two latents or more, not {len(self.latents)}: see ALI")


def _refuse_sweeps(name: str, module: GibbsNet) -> None:
    if module.clamped.range[1] or module.unclamped.range[1]:
        raise ValueError(
            f"{name} is trained without further sweeps: chains.*.steps must be 0; model.kind=gibbsnet sweeps its graph"
        )


MODELS = {"gibbsnet": GibbsNet, "ali": ALI, "hali": HALI}


def build(config: Mapping, shape: tuple[int, ...]) -> GibbsNet:
    """The module that a resolved configuration describes, for data of this shape.

    Raises:
        ValueError: the configuration contradicts the data or itself.
    """
    graph = {v: dict(variable) for v, variable in config["graph"].items()}
    if graph["x"]["shape"] not in (None, list(shape)):
        raise ValueError(
            f"data.shape={graph['x']['shape']}, but {config['data']['name']} has {list(shape)}: correct it or null"
        )
    for variable in graph.values():
        variable["shape"] = variable["shape"] or list(shape)  # data.shape may be null
    networks = {name: network for name, network in config["network"].items() if name != "name"}
    kind = config["model"]["kind"]
    if kind not in MODELS:
        raise ValueError(f"model.kind={kind}: expected one of {', '.join(MODELS)}")
    rest = {key: config[key] for key in ("critics", "chains", "game", "optim", "steps", "seed")}
    rest["supervised"] = config.get("supervised")
    if unsized := sorted(v for v, variable in graph.items() if variable["shape"] == [None]):
        who = f"model={config['model']['name']} has {', '.join(unsized)}"
        raise ValueError(f"{who}: say how many classes there are, data.classes=K")
    module = MODELS[kind](graph=graph, networks=networks, **rest)
    if config["data"].get("labels"):
        refuse_undrawn(module.clamped, "y", f"data.labels={config['data']['labels']}")
    return module
