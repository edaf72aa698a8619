"""Fast inference: python -m benchmarks.settle run=RUN

How many sweeps the present-at-hand chain of a three-level model needs until z1 settles, with z2 potent, somewhat impotent and
impotent; and how often an emergency calls a daydreaming chain back to what is before its eyes.  On the validation split.
Prints two tables and writes <run>/settle.json; <run>/figures/settle.png shows how z1 settles.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.runs import asked, in_one_line
from gibbsnet import plots
from gibbsnet.chain import Chain, Stance, Wakeful
from gibbsnet.config import load, read
from gibbsnet.data import State
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation.references import pixel_mse
from gibbsnet.evaluation.settling import settled
from gibbsnet.modules import GibbsNet, build_chain
from gibbsnet.prepare import datamodule, prepare
from gibbsnet.train import load_run

IMAGES, COPIES, SWEEPS, TAIL = 100, 64, 31, 15
POTENCIES = (1.0, 0.75, 0.5, 0.25, 0.0)
THRESHOLDS = (
    None,
    0.1,
    0.05,
    0.03,
    0.02,
)  # of daydreaming's emergencies, per pixel in [0, 1] units; None: there is none


def perceive(module: GibbsNet, judge, chain: Chain, given: State, seed: int) -> dict[str, float | list[float]]:
    """The present-at-hand chain from its start: when z1 settles, and what z1 then knows of x."""
    copies = {v: x.repeat(COPIES, *[1] * (x.ndim - 1)) for v, x in given.items() if v in chain.given}
    walk = list(islice(module.trajectory(len(copies["x"]), seed, copies, chain=chain), SWEEPS))
    first, distance, band = settled(torch.stack([s["z1"].unflatten(0, (COPIES, -1)) for s in walk]), TAIL)
    again = [module.reconstruct(walk[i], "z1", seed) for i in (0, first, SWEEPS - 1)]
    same = [float((judge(x).argmax(1) == judge(copies["x"]).argmax(1)).double().mean()) for x in again]
    return {
        "sweeps": first, "distance": distance, "d_0": distance[0], "d_1": distance[1], "d_3": distance[3], "band": band,
        "mse_0": pixel_mse(again[0], copies["x"]), "mse_settled": pixel_mse(again[1], copies["x"]),
        "mse_last": pixel_mse(again[2], copies["x"]), "same_0": same[0], "same_settled": same[1], "same_last": same[2],
    }  # fmt: skip


def wander(module: GibbsNet, judge, chain: Chain, given: State, threshold: float | None, seed: int) -> dict[str, float]:
    """The daydreaming chain: how far it is from x after 10 and SWEEPS sweeps, and how often it is called back."""
    held, n = {v: given[v] for v in chain.given}, len(given["x"])
    walker = chain if threshold is None else Wakeful(chain, threshold)
    walk = list(islice(module.trajectory(n, seed, held, chain=walker), SWEEPS))
    again = {i: module.reconstruct(walk[i], "z1", seed) for i in (0, 10, SWEEPS - 1)}
    alarms = (
        [walker.alarmed(module.ema.module, s, held).double().mean() for s in walk]
        if threshold is not None
        else [torch.zeros(())]
    )
    same = {i: float((judge(x).argmax(1) == judge(held["x"]).argmax(1)).double().mean()) for i, x in again.items()}
    return {"alarms": float(torch.stack(alarms).double().mean())} | {
        f"{name}_{i}": value
        for i, x in again.items()
        for name, value in (("mse", pixel_mse(x, held["x"])), ("same", same[i]))
    }


@torch.no_grad()
def measure(run: Path, seed: int = 0) -> dict:
    """Both tables of a run."""
    config = read(run)
    data, judge = datamodule(config), prepare(config)
    module = load_run(run, config, data.shape, data.digest)
    perceiving, daydreaming = (
        build_chain(**load([f"mode={m}"], into=config)["chains"]["unclamped"])
        for m in ("present_at_hand", "daydreaming")
    )
    given = module.infer(data.state("validation", torch.arange(IMAGES), seed), seed)
    hand = {p: replace(perceiving, mode={"x": Stance(clamped=True), "z2": Stance(potency=p)}) for p in POTENCIES}
    result = {
        "present_at_hand": {str(p): perceive(module, judge, chain, given, seed) for p, chain in hand.items()},
        "daydreaming": {str(t): wander(module, judge, daydreaming, given, t, seed) for t in THRESHOLDS},
    }
    write_json(result, run / "settle.json")
    plots.save(draw(result["present_at_hand"]), run / "figures" / "settle.png")
    return result


def draw(found: Mapping[str, Mapping]) -> Figure:
    """z1's d_i over i for every potency of z2; dotted, in the same colour, the band within which it has settled."""
    figure = Figure(figsize=(6, 3.6), dpi=plots.DPI, layout="constrained")
    axes = figure.subplots()
    for (potency, row), color in zip(found.items(), plots.PALETTE, strict=False):
        axes.semilogy(
            row["distance"], color=color, linewidth=1.4, label=f"z2 of potency {potency}: settled after {row['sweeps']}"
        )
        axes.axhline(row["band"], color=color, linewidth=0.9, linestyle=":")
    axes.plot([], [], color="0.4", linewidth=0.9, linestyle=":", label="the band: settled below it")
    axes.set(xlabel="i, sweeps with x in sight", ylabel="$d_i$ of z1")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(arguments: Sequence[str]) -> None:
    for run in asked(arguments, " of a model with x, z1, z2")[0]:
        with in_one_line():
            found = measure(run)
        for first, rows in zip(("potency of z2", "emergency at"), found.values(), strict=True):
            names = [n for n in next(iter(rows.values())) if n != "distance"]
            print(f"| {first} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names), sep="\n")
            print(
                *(f"| {key} | " + " | ".join(f"{row[n]:.3g}" for n in names) + " |" for key, row in rows.items()),
                sep="\n",
            )


if __name__ == "__main__":
    main(sys.argv[1:])
