"""sample: draws chains from a trained run: free ones, in a mode of being, or such that hold parts of real images."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import plots
from .chain import Chain, Wakeful
from .config import STATES, ConfigError, folder, read
from .data import DataModule, State, hole
from .evaluate import join
from .evaluation.fills import KNOWN
from .families import Bernoulli
from .files import replace
from .modules import GibbsNet, build_chain, check_names, holding
from .noise import Noise
from .prepare import datamodule
from .train import limit_threads, load_run

FILLS = 4  # of each image in the picture


def sample(config: Mapping, chains: int = 100) -> Path:
    """Draws from the configuration's run; returns the folder of what was written, <run>/samples.

    With `clamp.hole` or `clamp.whole` parts of real images are held, see `fill`.  In a mode that clamps something, or starts from
    the present, real images are the present, see `be`.  Else chains run freely, but for `clamp.values`, see `dream`.
    Under torchrun the first process does it alone.

    Raises:
        ConfigError: chains that show nothing, values beside what real images give, an emergency without a clamped
            x that is heard less than fully.
    """
    if not join():
        return folder(config) / "samples"
    limit_threads(config["trainer"])
    run, data = folder(config), datamodule(config)
    # The run as it was trained; another chain over its graph needs no game that would be worth playing.
    module = load_run(run, read(run), data.shape, data.digest)
    chain = build_chain(**{part: value for part, value in config["chains"]["unclamped"].items() if part in STATES})
    clamp, seed = config["clamp"], config["evaluation"]["seed"]
    check_shown(module, chain, clamp)
    real = clamp["hole"] or clamp["whole"]  # real images, beside which values may be held
    if clamp["values"] and chain.given and not real:
        raise ConfigError(
            f"clamp.values={clamp['values']}, but the chain takes {', '.join(sorted(chain.given))} from real images: say "
            f"mode=dreaming, or clamp.whole=[...] beside the values"
        )
    ignored = "x" in chain.clamped and chain.mode["x"].potency < 1
    if clamp["emergency"] is not None and (real or not ignored):
        raise ConfigError(
            f"clamp.emergency={clamp['emergency']}: expected a chain that clamps x and hears it less than fully, such as that "
            "of mode=daydreaming, and neither clamp.hole nor clamp.whole; or say clamp.emergency=null"
        )
    out = run / "samples"
    out.mkdir(parents=True, exist_ok=True)
    if real:
        print(fill(module, chain, data, clamp, seed, out))
    elif chain.given:
        print(be(module, chain, data, chains, clamp["emergency"], seed, out / f"{config['mode'] or 'present'}.png"))
    else:
        print(dream(module, chain, data, valued(module, {}, clamp["values"], chains), chains, seed, out))
    return out


def check_shown(module: GibbsNet, chain: Chain, clamp: Mapping) -> None:
    """Refuses chains over other variables than the graph's, and those without an x in their first state."""
    check_names(module.graph, chain)
    held = {*clamp["whole"], *([clamp["of"]] if clamp["hole"] else [])}
    if "x" not in chain.drawn | chain.there | held:
        raise ConfigError("chains.unclamped.start draws no x: there would be nothing to show after the start")


def dream(module: GibbsNet, chain: Chain, data: DataModule, given: State, chains: int, seed: int, out: Path) -> str:
    """Chains that hold nothing but what is given: chain.png shows ten of them as they go, samples.png the last states, and of
    images with a label classes.png these by their label.

    samples.npz holds the last states of every variable, float32 (chains, *), x in [-1, 1], which noise may leave by a little.
    """
    last = chain.range[1]
    walk = islice(module.trajectory(chains, seed, given, chain=holding(chain, given)), last + 1)
    states = {i: state for i, state in enumerate(walk) if i in {*plots.STEPS, last}}
    real = data.state("validation")["x"]
    plots.save(plots.chain({i: s["x"] for i, s in states.items()}, real, last), out / "chain.png")
    plots.save(plots.samples(states[last]["x"], real, f"after {last} sweeps"), out / "samples.png")
    if "y" in states[last] and real.ndim == 4:
        x, y = states[last]["x"], states[last]["y"]
        plots.save(plots.by_class(x, y.argmax(1), y.shape[1], f"by label, after {last} sweeps"), out / "classes.png")
    save(states[last], out / "samples.npz")
    return f"{out}: {chains} chains, {last} sweeps"


def be(
    module: GibbsNet, chain: Chain, data: DataModule, chains: int, emergency: float | None, seed: int, path: Path
) -> str:
    """Chains whose present is a validation image each: a strip of ten of them beside their images, and the last states as .npz.
    Of points in the plane all of them, over the data.

    Where x is held, the strip shows what the latents have in mind: x as the model would draw it.
    """
    real = data.state("validation", torch.arange(min(chains, len(data.data.validation))), seed)
    present, last = module.infer(real, seed), chain.range[1]
    given = {v: present[v] for v in chain.given}
    walker = chain if emergency is None else Wakeful(chain, emergency)
    walk = islice(module.trajectory(len(real["x"]), seed, given, chain=walker), last + 1)
    states = {i: state for i, state in enumerate(walk) if i in {*plots.STEPS, last}}
    mind = (lambda s: module.decode(s, seed)) if "x" in chain.clamped else (lambda s: s["x"])
    shown, title = {i: mind(s) for i, s in states.items()}, path.stem.replace("_", "-")
    if real["x"].ndim == 4:
        strip = plots.fills({"real": real["x"], **{f"i = {i}": x for i, x in shown.items()}}, title=title)
    else:
        strip = plots.chain(shown, real["x"], last, title)
    plots.save(strip, path)
    save(states[last], path.with_suffix(".npz"))
    return f"{path}: {len(real['x'])} chains, {last} sweeps"


def fill(module: GibbsNet, chain: Chain, data: DataModule, clamp: Mapping, seed: int, out: Path) -> str:
    """Chains that hold parts of ten validation images: fill.png shows them after `clamp.steps` sweeps, and several fills of each.

    fill.npz holds the fills after the last sweep, float32 (fills, images, *), and the masks `held`, bool (images, *).

    Raises:
        ConfigError: the chain's mode takes something from real images that nothing holds; or see `held`.
    """
    real = data.state("validation", torch.arange(min(10, len(data.data.validation))), seed)
    given, seen = held(module, real, clamp, seed)
    if lacking := ",".join(sorted(chain.given - given.keys())):
        raise ConfigError(
            f"the chain takes {lacking} from real images, and nothing holds it: say clamp.whole=[{lacking}], or mode=dreaming"
        )
    many, masks = ({v: repeated(x) for v, x in state.items()} for state in (given, seen))
    scale = None
    if clamp["attend"] and "x" in given:
        known = torch.arange(min(KNOWN, len(data.data.train)))
        scale = module.misfit(data.state("train", known, seed), seed)
    last = max(clamp["steps"])
    walk = islice(module.fill(many, masks, seed, scale, clamp["dreams"], chain), last + 1)
    states = {i: state for i, state in enumerate(walk) if i in clamp["steps"]}
    # Where all of x is held, what there is to see is how the model would draw it.
    show = (lambda s: module.decode(s, seed)) if "x" in given and "x" not in seen else (lambda s: s["x"])
    steps = {f"i = {i}": show(s).unflatten(0, (FILLS, -1)) for i, s in states.items()}
    columns = {"real": real["x"], **({"given": given["x"]} if clamp["mix"] else {})}
    columns |= {name: x[0] for name, x in steps.items()}
    columns |= {" " * k: steps[f"i = {last}"][k] for k in range(1, FILLS)}
    plots.save(plots.fills(columns, seen.get("x"), f"{title(clamp)}; right: more fills of each"), out / "fill.png")
    fills = {v: x.unflatten(0, (FILLS, -1)) for v, x in states[last].items()}
    save(fills | {f"held_{v}": mask for v, mask in seen.items()}, out / "fill.npz")
    return f"{out / 'fill.png'}: {title(clamp)}"


def title(clamp: Mapping) -> str:
    """What is held, in words."""
    part, what = Path(clamp["hole"] or "").name.replace("$", ""), "from the next" if clamp["mix"] else "missing"
    missing = f"{clamp['of']}: {part} {what}" if part else ""
    whole = f"held whole: {', '.join(clamp['whole'])}" if clamp["whole"] else ""
    values = "; ".join(f"{v} = {value}" for v, value in clamp["values"].items())
    return "; ".join(part for part in (missing, whole, values) if part)


def held(module: GibbsNet, real: State, clamp: Mapping, seed: int) -> tuple[State, State]:
    """(given, seen): the values that the chains hold, (B, *), and of a variable with a hole the entries, bool (B, *).

    Raises:
        ConfigError: a variable that the graph does not have, or a picture that there is not.
    """
    present = module.infer(real, seed)
    wanted = [*clamp["whole"], *([clamp["of"]] if clamp["hole"] else [])]
    named = [*wanted, *clamp["values"]]
    if unknown := sorted(set(wanted) - present.keys()):
        raise ConfigError(f"clamp names {', '.join(unknown)}: expected variables out of {', '.join(present)}")
    if twice := sorted({v for v in named if named.count(v) > 1}):
        raise ConfigError(f"clamp names {', '.join(twice)} twice: a variable is held whole, with a hole, or at a value")
    if clamp["hole"] and module.graph[clamp["of"]].family.labelled:
        raise ConfigError(
            f"clamp.of={clamp['of']}: a label has no parts that could be missing; clamp.whole=[{clamp['of']}]"
        )
    if len(real["x"].shape) != 4:
        raise ConfigError("clamp: only images can be shown with parts of them held")
    given, seen = {v: present[v] for v in wanted} | valued(module, present, clamp["values"], len(real["x"])), {}
    if clamp["hole"]:
        v, x = clamp["of"], present[clamp["of"]]
        missing = hole(clamp["hole"], x.shape[1:], len(x), Noise(seed, "hole"), clamp["share"], clamp["channels"])
        if clamp["mix"]:
            given[v] = torch.where(missing, x.roll(-1, 0), x)
        else:
            seen[v] = ~missing
    return given, seen


def valued(module: GibbsNet, present: State, values: Mapping, batch: int) -> State:
    """The values that variables are held at, (batch, *): a label, or entries, of which null is as it is in the present.

    Raises:
        ConfigError: an unknown variable, another number of entries, or a null where there is no present.
    """
    given = {}
    for v, value in values.items():
        if v not in module.graph or v == "x":
            known = ", ".join(u for u in module.graph if u != "x")
            space = ", and a space after the colon, {y: 3}" if ":" in v else ""
            raise ConfigError(f"clamp.values names {v}: expected variables out of {known}{space}")
        shape, labelled = module.graph[v].shape, module.graph[v].family.labelled
        if labelled and type(value) is int and 0 <= value < shape[0]:
            given[v] = torch.full((batch,), value)
            continue
        bits = isinstance(module.graph[v].family, Bernoulli)
        if labelled or len(shape) > 1 or not listed(value, shape[0], bits):
            entries = f"a list of {shape[0]} entries, each {'0, 1' if bits else 'a finite number'} or null"
            wanted = f"a label in 0..{shape[0] - 1}" if labelled else entries
            raise ConfigError(f"clamp.values of {v} is {value}: expected {wanted}")
        if v not in present and None in value:
            raise ConfigError(
                f"clamp.values of {v} is {value}: null is what a real image has, and none is held: clamp.whole=[z]"
            )
        given[v] = torch.tensor([float(entry or 0) for entry in value]).expand(batch, -1).clone()
        if None in value:
            as_it_is = torch.tensor([entry is None for entry in value])
            given[v] = torch.where(as_it_is, present[v], given[v])
    return given


def listed(value, size: int, bits: bool) -> bool:
    """Whether it is a list of so many entries, each null or a finite number, of bits 0 or 1."""
    if not isinstance(value, list) or len(value) != size:
        return False
    known = [entry for entry in value if entry is not None]
    most = torch.finfo(torch.float32).max
    return all(entry in (0, 1) if bits else isinstance(entry, int | float) and abs(entry) <= most for entry in known)


def repeated(x: Tensor) -> Tensor:
    """FILLS copies of a batch, one after the other."""
    return x.repeat(FILLS, *[1] * (x.ndim - 1))


def save(state: Mapping[str, Tensor], path: Path) -> None:
    """Values by name, as NumPy's arrays."""
    arrays = {v: value.cpu().numpy() for v, value in state.items()}

    def write(draft: Path) -> None:
        with draft.open("wb") as file:  # to a name np.savez would add its own ending
            np.savez(file, **arrays)

    replace(path, write)
