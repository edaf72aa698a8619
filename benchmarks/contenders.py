"""The contenders of `benchmarks.step`: one call does the work once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from statistics import median
from time import perf_counter, process_time
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.alternating import Alternating
from gibbsnet.callbacks.speed import peak_memory
from gibbsnet.config import load
from gibbsnet.game import Game
from gibbsnet.modules import GibbsNet, build
from gibbsnet.noise import Noise

BATCH = 100
NETWORKS = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}  # the digits MLP; ALI's published CIFAR-10 networks
LOOP, LOOP_BACKWARD, REST, MOVING = "loop", "loop, backward()", "sweep without gradient", "sweep with gradient"


@dataclass(frozen=True)
class Entry:
    """One contender: what is timed, on which networks, in which precision."""

    network: str
    name: str
    precision: str = "fp32"
    penalties: bool = False
    model: str = "ali"
    steps: int = 0
    rescale: bool = True


def entries(network: str, everything: bool) -> list[Entry]:
    """The contenders on one data set's networks."""
    found: list[Entry] = []
    for precision, penalties in product(("fp32", "bf16"), (False, True)):
        row = Entry(network, LOOP, precision, penalties)
        if not penalties:
            found += [replace(row, name=name) for name in (LOOP, LOOP_BACKWARD, REST, MOVING)]
        found += [replace(row, name="ALI"), replace(row, name="ALI, rescale off", rescale=False)]
        found += [replace(row, name="HALI", model="hali")]
        chains = (0, 1, 3, 5, 10) if everything or (precision, penalties) == ("fp32", False) else (3,)
        found += [replace(row, name=f"GibbsNet N={n}", model="gibbsnet", steps=n) for n in chains]
    return [e for e in found if everything or e.name != "HALI" or e.precision == "fp32"]


def module_of(network: str, model: str, device: torch.device) -> GibbsNet:
    """A module as it is while it trains, without a Trainer around it; it hardly learns, so that its speed stays."""
    return ready(load([f"model={model}", f"data={network}"]), NETWORKS[network], device)


def ready(config: dict, shape: tuple[int, ...], device: torch.device) -> GibbsNet:
    """The configuration's module, as `module_of` has it."""
    config = config | {"optim": config["optim"] | {"lr": 1e-6, "lr_critic": 1e-6}}
    module = build(config, shape).to(device).train()
    module.replays = config["trainer"]["replay"]
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, training=True, global_step=0)
    return module


def clock(configs: Mapping[str, dict], rounds: int, calls: int = 50, device: str = "cpu") -> dict[str, float]:
    """Milliseconds of a training step of each configuration, in its precision and one thread: the median over rounds of
    A B C A B C ...; a mean over calls spread over the whole run, for N is random and may rise.

    On a CPU they are CPU milliseconds; on a GPU those that pass until it is done, so nothing else should run on it."""
    torch.set_num_threads(1)
    device = torch.device(device)
    work, times = {}, {name: [] for name in configs}
    for name, config in configs.items():
        shape = tuple(config["data"]["shape"])
        module = ready(config, shape, device)
        work[name] = module, {"x": (torch.rand(config["data"]["batch_size"], *shape) * 2 - 1).to(device)}
    for done, (name, (module, batch)) in product(range(rounds), work.items()):
        start, half = _now(device), configs[name]["trainer"]["precision"] == "bf16-mixed"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            for call in range(calls):
                module._trainer.global_step = _spread(configs[name], done / rounds, call, calls)
                module.training_step(batch)
        times[name].append(1e3 * (_now(device) - start) / calls)
    return {name: median(found) for name, found in times.items()}


def equal_time(ms: Mapping[str, float], base: str, steps: int) -> dict[str, int]:
    """Step counts, to the hundred, that take as long as `steps` of the base's, from milliseconds of a step."""
    return {m: round(steps * ms[base] / t / 100) * 100 for m, t in ms.items()}


def _now(device: torch.device) -> float:
    """Seconds: this process's on a CPU, the clock's on a GPU, once that has done what it was given."""
    if device.type == "cpu":
        return process_time()
    torch.cuda.synchronize(device)
    return perf_counter()


def _spread(config: Mapping, shift: float, call: int, calls: int) -> int:
    """The training step of a call: each from its own part of the run, `shift` of the way into it; every lazy-th has penalties."""
    lazy = config["game"]["lazy"]
    return min(int((call + shift) / calls * config["steps"]) // lazy * lazy + call % lazy, config["steps"] - 1)


def contender(entry: Entry, module: GibbsNet, x: Tensor) -> Callable[[], None]:
    """What is called to do the entry's work once."""
    work = _sweep(entry, module, x) if entry.name in (REST, MOVING) else _step(entry, module, x)

    def run() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=entry.precision == "bf16"):
            work()

    return run


def _step(entry: Entry, module: GibbsNet, x: Tensor) -> Callable[[], None]:
    if entry.name in (LOOP, LOOP_BACKWARD):
        loop = Alternating(module, frugal=entry.name == LOOP)
        return lambda: loop(x)
    # From the description, since the module is shared by contenders that change its game; penalties are taken every step.
    game = Game(gamma=module.hparams.game["gamma"] if entry.penalties else {}, rescale=entry.rescale)
    chain = replace(module.unclamped, steps=entry.steps, start_from_data=0.0, persistent=0.0)

    def train() -> None:
        module.game, module.unclamped = game, chain
        module._trainer.global_step += 1
        module.training_step({"x": x})

    return train


def _sweep(entry: Entry, module: GibbsNet, x: Tensor) -> Callable[[], None]:
    """One sweep z, x of the unclamped chain; with gradient: and its backward pass."""
    graph, chain, grad = module.graph, module.unclamped, 2 if entry.name == MOVING else 0
    free = [p for p in graph.parameters() if p.requires_grad]

    def sweep() -> None:
        start = x.clone().requires_grad_(bool(grad))
        # A view, since counting operations works on no leaf that a network reads.
        end = chain.step(graph, {"x": start.view_as(start)}, Noise(0, device=x.device), grad=grad)
        if grad:
            torch.autograd.grad([end["x"], end["z"]], [start, *free], [torch.ones_like(end[v]) for v in "xz"])

    return sweep


def batch_of(network: str, device: torch.device) -> Tensor:
    """Images of no meaning, in [-1, 1]."""
    return (torch.rand(BATCH, *NETWORKS[network]) * 2 - 1).to(device)


def fresh_peak(task: tuple[Entry, int]) -> float:
    """MiB that a process which has only imported needs at most for (entry, threads)."""
    entry, threads = task
    torch.set_num_threads(threads)
    before = peak_memory()
    _few_steps(entry, torch.device("cpu"))
    return peak_memory() - before


def cuda_peak(entry: Entry, device: torch.device) -> float:
    """MiB that the allocator held at most beyond what it held before."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _few_steps(entry, device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _few_steps(entry: Entry, device: torch.device) -> None:
    run = contender(entry, module_of(entry.network, entry.model, device), batch_of(entry.network, device))
    run()
    run()


def macs(entry: Entry) -> float:
    """Millions of multiply-adds per image, counted as it runs; no question of precision."""
    return _macs(replace(entry, precision="fp32"))


@cache
def _macs(entry: Entry) -> float:
    cpu = torch.device("cpu")
    run = contender(entry, module_of(entry.network, entry.model, cpu), batch_of(entry.network, cpu)[:4])
    with FlopCounterMode(display=False) as count:
        run()
    return count.get_total_flops() / 2 / 4 / 1e6
