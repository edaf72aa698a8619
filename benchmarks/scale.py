"""How a training step grows with sweeps, resolution, batch and processes, here; and what that makes of many GPUs, on paper.

    python -m benchmarks.scale

measures on one CPU thread, about three minutes, and puts its tables between the marks of docs/scale.md. What is computed there
follows from counts (multiply-adds, operations, parameters), which no machine changes, and from the assumptions below.
"""

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import linear_regression, median

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import NETWORKS, Entry, contender, ready
from benchmarks.results import between
from benchmarks.step import _clock
from gibbsnet.callbacks.speed import peak_memory
from gibbsnet.config import load
from gibbsnet.modules import GibbsNet

CPU = torch.device("cpu")
MARKS = ("<!-- measured: python -m benchmarks.scale -->", "<!-- end -->")

# Assumptions, of a node of eight H100 SXM and InfiniBand NDR (makers' data sheets), and how much of them is had.
PEAK_MACS = 989e12 / 2  # multiply-adds/s in bf16, dense
SHARE = 0.15  # of it, on small images
PER_OPERATION = 10e-6  # seconds of host and launch for each operation of an eager step, forward or backward
NVLINK, NETWORK = 450e9, 50e9  # bytes/s, one way, per GPU: within a node, between nodes
LINK_SHARE = 0.5
HOP = 10e-6  # seconds for each of a ring's 2 (k - 1) turns
GPU_BATCH = 256  # images of a GPU in a step


@dataclass(frozen=True)
class Case:
    """One step to be timed; `side`: of images for the small convolutional networks, 0 for the digits' perceptrons."""

    model: str = "gibbsnet"
    steps: int = 3
    side: int = 0
    batch: int = 100


def configuration(case: Case) -> tuple[dict, tuple[int, ...]]:
    """The case's configuration and its images' shape: conf/network/conv32.yaml, with as many halvings as lead to 4 pixels."""
    if not case.side:
        return load([f"model={case.model}", "data=digits"]), NETWORKS["digits"]
    config = load([f"model={case.model}", "data=cifar10", "network=conv32", "data.shape=null"])
    maps = [32, 64, 128][: case.side.bit_length() - 3]
    down, up = ([[4, 2, m] for m in order] for order in (maps, maps[::-1]))
    network = config["network"]
    changed = {name: network[name] | {"layers": down} for name in ("encode", "critic_x")}
    changed["decode"] = network["decode"] | {"start": [maps[-1], 4, 4], "layers": up}
    return config | {"network": network | changed}, (3, case.side, case.side)


def work(case: Case) -> Callable[[], None]:
    """What does one step of the case each time it is called."""
    config, shape = configuration(case)
    module = ready(config, shape, CPU)
    entry = Entry("digits", case.model, model=case.model, steps=case.steps, penalties=True)
    return contender(entry, module, torch.rand(case.batch, *shape) * 2 - 1)


def mmac(run: Callable[[], None], batch: int) -> float:
    """Millions of multiply-adds per image of one call."""
    with FlopCounterMode(display=False) as count:
        run()
    return count.get_total_flops() / 2e6 / batch


class Operations(TorchDispatchMode):
    """Counts the operations that are sent to the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def saved(run: Callable[[], None], module: GibbsNet) -> int:
    """Bytes that one call keeps for its backward passes, each piece of memory once, without the parameters."""
    known, pieces = {p.untyped_storage().data_ptr() for p in module.parameters()}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pieces.append(tensor)  # held, or its memory would be another's before the call is over
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    sizes = {piece.untyped_storage().data_ptr(): piece.untyped_storage().nbytes() for piece in pieces}
    return sum(size for place, size in sizes.items() if place not in known)


def peak(case: Case) -> float:
    """MiB that a fresh process needs at most for two steps, beyond its imports."""
    torch.set_num_threads(1)
    before = peak_memory()
    run = work(case)
    run(), run()
    return peak_memory() - before


def peaks(cases: Sequence[Case]) -> dict[Case, float]:
    """The peak of each case."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scale"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(cases, pool.map(peak, cases, chunksize=1), strict=True))


def times(cases: Sequence[Case], rounds: int) -> dict[Case, float]:
    """Milliseconds per step: the median of rounds in which all cases take their turns."""
    runs, found = {case: work(case) for case in cases}, {case: [] for case in cases}
    for run in runs.values():
        run()  # warm-up
    for _ in range(rounds):
        for case, run in runs.items():
            found[case].append(_clock(run, 1, CPU))
    return {case: median(ms) for case, ms in found.items()}


def trained(folder: Path, ranks: int, batch: int, steps: int) -> float:
    """Images per second of a whole training of digits by so many gloo processes."""
    run = folder / f"{ranks} {batch}"
    settings = [
        "chains.unclamped.steps=[0,3]",
        f"run={run}",
        f"judges={folder}",
        f"data.batch_size={batch}",
        f"trainer.devices={ranks}",
        f"steps={steps}",
    ]
    settings += [
        f"every.log={steps // 10}",
        f"every.validate={steps}",
        "tracking.mode=disabled",
        "trainer.progress=false",
    ]
    settings += ["trainer.accelerator=cpu", "trainer.threads=1"]
    quiet = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    said = subprocess.run(
        [sys.executable, "-m", "gibbsnet", "train", *settings], env=os.environ | quiet, capture_output=True, text=True
    )
    if said.returncode:
        raise SystemExit(f"the training by {ranks} processes failed:\n{said.stderr}")
    return json.loads((run / "train.json").read_text())["images_per_second"]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown; numbers to three digits."""
    lines = [head, ["---:"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def slope(x: Sequence[float], y: Sequence[float], of: str) -> str:
    """The least-squares line in words."""
    line = linear_regression(x, y)
    return f"Slope: {_cell(line.slope)} {of}, beginning at {_cell(line.intercept)}."


def sweeps(rounds: int) -> list[str]:
    """Against N."""
    cases = [Case(steps=n) for n in (0, 1, 3, 5, 10)]
    ms, mib = times(cases, rounds), peaks(cases)
    rows = [(c.steps, ms[c], mmac(work(replace(c, batch=4)), 4), mib[c]) for c in cases]
    said = slope([c.steps for c in cases], list(ms.values()), "ms per sweep")
    return ["**N**: GibbsNet, digits, batch 100.", "", *table(("N", "ms/step", "MMAC/image", "MiB"), rows), "", said]


def resolutions(rounds: int) -> list[str]:
    """Against the side of the images."""
    cases = [Case("ali", 0, side, 50) for side in (8, 16, 32)]
    ms, mib = times(cases, rounds), peaks(cases)
    rows = []
    for c in cases:
        count = mmac(work(replace(c, batch=4)), 4)
        rows.append((c.side, c.side**2, ms[c], count, ms[c] / count / c.batch * 1e3, mib[c]))
    head = ("side", "pixels", "ms/step", "MMAC/image", "µs/MMAC", "MiB")
    said = slope([c.side**2 / 1000 for c in cases], list(ms.values()), "ms per 1,000 pixels")
    return [
        "**Resolution**: ALI, convolutions that halve down to 4 pixels, colour, batch 50.",
        "",
        *table(head, rows),
        "",
        said,
    ]


def batches(rounds: int) -> list[str]:
    """Against the batch."""
    cases = [Case(batch=size) for size in (25, 50, 100, 200, 400)]
    ms, mib = times(cases, rounds), peaks(cases)
    rows = [(c.batch, ms[c], 1e3 * c.batch / ms[c], mib[c]) for c in cases]
    said = slope([c.batch / 100 for c in cases], list(ms.values()), "ms per 100 images")
    return ["**Batch**: GibbsNet N = 3, digits.", "", *table(("batch", "ms/step", "images/s", "MiB"), rows), "", said]


def processes(steps: int) -> list[str]:
    """Against gloo processes."""
    with tempfile.TemporaryDirectory() as folder:
        found = {(k, batch): trained(Path(folder), k, batch, steps) for batch in (100, 400) for k in (1, 2)}
    rows = [(batch, k, rate, rate / found[1, batch]) for (k, batch), rate in found.items()]
    head = ("global batch", "processes", "images/s", "against one")
    return ["**Processes**: whole trainings, GibbsNet, digits, one thread each, gloo.", "", *table(head, rows)]


def parameters(module: GibbsNet) -> int:
    """Trainable numbers: a step's gradients."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def exchange(size: float, gpus: int) -> float:
    """Seconds in which a ring of GPUs averages so many bytes: 2 (k - 1) / k of them pass each link, in 2 (k - 1) turns."""
    link = LINK_SHARE * (NVLINK if gpus <= 8 else NETWORK)
    return 0.0 if gpus == 1 else 2 * (gpus - 1) / gpus * size / link + 2 * (gpus - 1) * HOP


def paper() -> list[str]:
    """What follows for ALI's published CIFAR-10 networks on 1, 8 and 64 GPUs."""
    counts, rows = [], []
    for model, n in (("ali", 0), ("gibbsnet", 3)):
        module = ready(load([f"model={model}", "data=cifar10"]), NETWORKS["cifar10"], CPU)
        run = contender(Entry("cifar10", model, model=model, steps=n, penalties=True), module, torch.rand(4, 3, 32, 32))
        macs = mmac(run, 4)
        with Operations() as sent:
            run()
        size, name = 4 * parameters(module), f"{model}, N = {n}"
        image = saved(run, module) / 4
        # Weights, gradients, Adam's two moments; the graph's average; what is kept of each image.
        held = 4 * size + 4 * sum(p.numel() for p in module.graph.parameters()) + GPU_BATCH * image
        compute, host = GPU_BATCH * macs * 1e6 / (SHARE * PEAK_MACS), sent.count * PER_OPERATION
        counts.append((name, macs, sent.count, parameters(module), size / 1e6, image / 1e6))
        for gpus in (1, 8, 64):
            talk = exchange(size, gpus)
            seconds = max(compute, host) + talk
            rows.append(
                (
                    name,
                    gpus,
                    GPU_BATCH * gpus,
                    1e3 * compute,
                    1e3 * host,
                    1e3 * talk,
                    GPU_BATCH * gpus / seconds,
                    held / 2**30,
                )
            )
    return [
        "**Counted**, ALI's published CIFAR-10 networks, penalties in every step:",
        "",
        *table(("model", "MMAC/image", "operations/step", "parameters", "gradient MB/step", "kept MB/image"), counts),
        "",
        "**Computed**, not measured: ms of arithmetic, of the host, of averaging; images/s of all GPUs together; memory of each:",
        "",
        *table(("model", "GPUs", "global batch", "arithmetic", "host", "averaging", "images/s", "GiB/GPU"), rows),
    ]


def page(rounds: int, steps: int) -> list[str]:
    """Everything between the marks."""
    here = f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start"
    parts = [sweeps(rounds), resolutions(rounds), batches(rounds), processes(steps), paper()]
    return [
        f"Measured on {here}: medians of {rounds} rounds on one thread.",
        *(line for p in parts for line in ["", *p]),
    ]


def main(given: Sequence[str] | None = None) -> list[str]:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description="How a step grows.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200, help="of the trainings by several processes")
    parser.add_argument("--out", type=Path, default=Path("docs/scale.md"), help="the page that has the marks")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    lines = page(args.rounds, args.steps)
    print(*lines, sep="\n")
    args.out.write_text(between(args.out.read_text(), MARKS, lines))
    return lines


if __name__ == "__main__":
    main()
