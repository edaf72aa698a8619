r"""How long a training step takes: python -m benchmarks.step [--quick]

Every contender runs in the same process, round-robin (A B C A B C ...), because a shared machine's speed wanders.  A time is
the median over rounds; a ratio is the median of the ratios *within* rounds, in brackets its quartiles.  The yardstick is the
plain alternating loop of `benchmarks.alternating`, without penalties, in equal precision; a speed-up of 1.2 means that the
loop's step takes 1.2 times as long.  Peak memory is what a fresh process needs beyond its imports (on CUDA: what the allocator
held at most).  MMAC are the multiply-adds of matrix products and convolutions alone.

Steps are `GibbsNet.training_step`: chains, game, both players' Adam, and the weights' average, which the loop does without.
GibbsNet's chains all start anew, so that N alone differs; half of them persistent make its step on digits an eighth longer.
On a CPU ALI's published networks are timed in a subset of the rows, since a step of theirs takes seconds.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import torch

from benchmarks.contenders import (
    BATCH,
    LOOP,
    LOOP_BACKWARD,
    MOVING,
    NETWORKS,
    REST,
    Entry,
    batch_of,
    contender,
    cuda_peak,
    entries,
    fresh_peak,
    macs,
    module_of,
)
from gibbsnet.modules import GibbsNet

TARGETS = {"one pass": 1.2, "sweep": 0.45}


@dataclass
class Row:
    """A contender's times and what follows from them; speedup is (first quartile, median, third) against the loop."""

    entry: Entry
    ms: float
    images_per_second: float | None
    speedup: tuple[float, float, float] | None
    peak_mib: float | None
    mmac: float


def measure(chosen: Sequence[Entry], rounds: int, calls: int, device: torch.device) -> dict[Entry, list[float]]:
    """Milliseconds per call of each entry in each round."""
    modules: dict[tuple[str, str], GibbsNet] = {}
    batches = {e.network: batch_of(e.network, device) for e in chosen}
    runs = {}
    for e in chosen:
        key = e.network, e.model
        modules[key] = modules.get(key) or module_of(*key, device)
        runs[e] = contender(e, modules[key], batches[e.network])
        runs[e]()  # warm-up
    times: dict[Entry, list[float]] = {e: [] for e in chosen}
    for _ in range(rounds):
        for e, run in runs.items():
            times[e].append(_clock(run, calls, device))
    return times


def _clock(run: Callable[[], None], calls: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    _wait(device)
    return 1e3 * (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peaks(chosen: Sequence[Entry], device: torch.device) -> dict[Entry, float]:
    """MiB that each entry needs at most: weights, optimiser and activations."""
    chosen = [e for e in chosen if e.name not in (REST, MOVING)]
    if device.type == "cuda":
        return {e: cuda_peak(e, device) for e in chosen}
    # The server imports once and computes nothing, so that what it forks is fresh and its thread pools are whole.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.contenders"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        needed = pool.map(fresh_peak, [(e, torch.get_num_threads()) for e in chosen], chunksize=1)
    return dict(zip(chosen, needed, strict=True))


def rows(times: dict[Entry, list[float]], peak: dict[Entry, float], mmac: dict[Entry, float]) -> list[Row]:
    """The table."""
    return [_row(e, times, peak.get(e), mmac[e]) for e in times]


def _row(e: Entry, times: dict[Entry, list[float]], peak: float | None, mmac: float) -> Row:
    ms, step = median(times[e]), e.name not in (REST, MOVING)
    speedup = _ratio(times[Entry(e.network, LOOP, e.precision)], times[e]) if step else None
    return Row(e, ms, 1e3 * BATCH / ms if step else None, speedup, peak, mmac)


def _ratio(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return low, middle, high


def verdicts(times: dict[Entry, list[float]], mmac: dict[Entry, float]) -> Iterator[str]:
    """The targets and what became of them."""
    for network, precision in dict.fromkeys((e.network, e.precision) for e in times):
        plain = Entry(network, LOOP, precision)
        for name, loop in product(("ALI", "ALI, rescale off"), (plain, replace(plain, name=LOOP_BACKWARD))):
            ours = replace(plain, name=name, rescale=name == "ALI")
            ratio = _ratio(times[loop], times[ours])
            verdict = f"; target 1.2, {_met(ratio[1] >= TARGETS['one pass'])}" if name == "ALI" else ""
            yield (
                f"{network} {precision}: {name} is {_show(ratio)} times as fast as the {loop.name} "
                f"(arithmetic: {mmac[loop] / mmac[ours]:.2f}){verdict}"
            )
        rest, moving = (replace(plain, name=name) for name in (REST, MOVING))
        ratio = _ratio(times[rest], times[moving])
        yield (
            f"{network} {precision}: a sweep without gradient costs {_show(ratio)} of one with "
            f"(arithmetic: {mmac[rest] / mmac[moving]:.2f}); target .45, {_met(ratio[1] <= TARGETS['sweep'])}"
        )


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _show(ratio: tuple[float, float, float] | None) -> str:
    return f"{ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}]" if ratio else "-"


HEADER = (
    "networks",
    "step",
    "precision",
    "penalties",
    "ms",
    "images/s",
    "speed-up over loop",
    "peak MiB",
    "MMAC/image",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells as text."""
    e = row.entry
    rate, peak = (f"{v:.0f}" if v is not None else "-" for v in (row.images_per_second, row.peak_mib))
    on = "on" if e.penalties else "off"
    return e.network, e.name, e.precision, on, f"{row.ms:.1f}", rate, _show(row.speedup), peak, f"{row.mmac:.1f}"


def table(found: Sequence[Row]) -> str:
    """The rows, aligned, as Markdown."""
    lines = [HEADER, *map(cells, found)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADER))]
    aligned = [
        " | ".join(c.ljust(w) if k < 4 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    rule = " | ".join("-" * w if k < 4 else "-" * (w - 1) + ":" for k, w in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [aligned[0], rule, *aligned[1:]])


def circumstances(device: torch.device, rounds: dict[str, int]) -> dict:
    """On what, and how busy it was."""
    return {
        "torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads(),
        "cpu": _cpu(), "cpus": os.cpu_count(), "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "batch": BATCH, "rounds": rounds, "load_at_start": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def write(folder: Path, facts: dict, found: Sequence[Row], said: Sequence[str]) -> None:
    """step-<device>.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "step-cpu" if facts["device"] == "cpu" else "step-gpu"
    (folder / f"{name}.json").write_text(
        json.dumps({**facts, "targets": said, "rows": [asdict(row) for row in found]}, indent=1) + "\n"
    )
    head = ", ".join(f"{key} {value}" for key, value in facts.items())
    (folder / f"{name}.md").write_text(
        "# Time of a training step\n\n`python -m benchmarks.step` on "
        f"{head}. What the columns mean: `benchmarks/step.py`.\n\n{table(found)}\n\n"
        + "".join(f"- {s}\n" for s in said)
    )


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.step", description="Time of a training step.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few rounds of few rows on digits, no memory; nothing written without --out",
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds; by default 40 for digits and 10 for ALI's networks (--quick: 2)"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="by default all (--quick: digits)")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder of the results; by default benchmarks/results")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints, writes."""
    args = arguments(given)
    device = torch.device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    networks = args.networks or (["digits"] if args.quick else list(NETWORKS))
    rounds = {n: args.rounds or (2 if args.quick else 40 if n == "digits" else 10) for n in networks}
    facts = circumstances(device, rounds)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    found, said = [], []
    for network in networks:
        everything = (network == "digits" and not args.quick) or device.type == "cuda"
        chosen = entries(network, everything)
        calls = 5 if everything else 1
        peak = {} if args.quick else peaks(chosen, device)
        times = measure(chosen, rounds[network], calls, device)
        mmac = {e: macs(e) for e in chosen}
        found += rows(times, peak, mmac)
        said += verdicts(times, mmac)
    print(f"\n{table(found)}\n", *said, sep="\n")
    out = args.out or (None if args.quick else Path("benchmarks/results"))
    if out:
        write(out, {**facts, "load_at_end": round(os.getloadavg()[0], 1)}, found, said)
    return found


if __name__ == "__main__":
    main()
