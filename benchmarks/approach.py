r"""The approach from a wrong start, and what a learned one saves: python -m benchmarks.approach run=RUN [run=RUN ...]

Claim 2b on a trained model with classes or modes.  Where a chain is (this class, that one, or none that is sure) has a law after
i sweeps; its total variation to the law that the chain settles to should fall as |lambda_2|^i, lambda_2 being the second
eigenvalue of the matrix T of transitions between these places:

    d_i = TV(law_i, pi) ~ c |lambda_2|^i,    T^L counted over pairs of states L sweeps apart,    |lambda_2| = |eig_2(T^L)|^(1/L)

Starts: z of one class alone, z ~ N(0, 1), z from the Gaussian fitted to q(z) (`learned`) or from a mixture of as many as there
are classes, and z ~ q(z|x) of the data themselves.
Prints a table and writes <run>/approach.json and <run>/figures/approach.png.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from math import log
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.mixture import GaussianMixture
from torch import Tensor

from benchmarks.runs import asked, in_one_line
from gibbsnet import plots
from gibbsnet.config import ConfigError, read
from gibbsnet.data import DataModule
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation.latents import flat
from gibbsnet.evaluation.scores import confident_class
from gibbsnet.evaluation.yardsticks import Yardstick, yardstick
from gibbsnet.graph import Moments
from gibbsnet.modules import GibbsNet
from gibbsnet.noise import Noise
from gibbsnet.prepare import datamodule, prepare
from gibbsnet.train import load_run

CHAINS, SWEEPS, LAG = 5000, 1000, 10
SHOWN = (0, 1, 3, 10, 30, 100, 300, 1000)


def starts(module: GibbsNet, data: DataModule, n: int, seed: int) -> dict[str, Tensor]:
    """Start -> z (n, *) of the top latent."""
    (z,), train = module.latents, data.data.train
    alike, anyone = (train.y == 0).nonzero().flatten(), torch.arange(len(train))

    def inferred(among: Tensor, purpose: str) -> Tensor:
        chosen = among[(Noise(seed, purpose).uniform((n,)) * len(among)).long()]
        return module.infer(data.state("train", chosen, seed), seed)[z]

    real = inferred(anyone, "fitted")
    moments = Moments(real.shape[1:], rate=1.0).to(real)
    moments.follow(*Moments.of(real))
    noise = Noise(seed, "start", device=module.device)
    return {
        "one class": inferred(alike, "alike"), "N(0, 1)": noise.normal(real.shape),
        "learned": moments.draw(n, noise), "mixture": mixture(real, data.data.classes, n, seed),
        "data": inferred(anyone, "anyone"),
    }  # fmt: skip


def mixture(z: Tensor, components: int, n: int, seed: int) -> Tensor:
    """Draws (n, *) from a mixture of Gaussians with full covariances that is fitted to z (m, *)."""
    fit = GaussianMixture(components, random_state=seed).fit(flat(z))
    return torch.from_numpy(fit.sample(n)[0]).to(z).view(n, *z.shape[1:])


def places(module: GibbsNet, stick: Yardstick, z: Tensor, sweeps: int, seed: int) -> Tensor:
    """Where each chain is after 0..sweeps sweeps, int64 (sweeps + 1, n); the last place is none of the classes."""
    (name,), found = module.latents, []
    for state in islice(module.trajectory(len(z), seed, {name: z}), sweeps + 1):
        probs = stick.look(state["x"]).probs
        label = confident_class(probs)
        found.append(torch.where(label < 0, probs.shape[1], label))
    return torch.stack(found)


def laws(visited: Tensor, count: int) -> Tensor:
    """The law over places after each sweep, (I, count), of visited places (I, n)."""
    return torch.nn.functional.one_hot(visited, count).double().mean(1)


def transitions(visited: Sequence[Tensor], count: int, lag: int) -> Tensor:
    """How often a chain went from place to place in `lag` sweeps, (count, count)."""
    pairs = torch.cat([count * v[:-lag].flatten() + v[lag:].flatten() for v in visited])
    return torch.bincount(pairs, minlength=count**2).view(count, count).double()


def settles(counts: Tensor, lag: int) -> tuple[float, Tensor]:
    """|lambda_2| of one sweep, and the law pi = pi T that the chain settles to; places where it never was are left out."""
    been = counts.sum(1) > 0
    matrix = counts[been][:, been] / counts[been][:, been].sum(1, keepdim=True)
    second = torch.linalg.eigvals(matrix).abs().sort(descending=True).values[1:2].sum()
    pi = torch.zeros(len(counts), dtype=counts.dtype)
    pi[been] = torch.linalg.matrix_power(matrix, 2**20)[0]
    return float(second) ** (1 / lag), pi


def rate(distance: Tensor, noise: float) -> float | None:
    """The factor per sweep by which d_i falls: least squares on log d_i from i = LAG to where it first meets the noise."""
    below = (distance <= noise).nonzero().flatten()
    i = torch.arange(len(distance))[LAG : int(below[0]) if len(below) else None].double()
    if len(i) < LAG:
        return None
    y, t = distance[i.long()].log(), i - i.mean()
    return float(((t * y).sum() / t.square().sum()).exp())


def opened(run: Path) -> tuple[GibbsNet, Yardstick, DataModule]:
    """A trained run, and what tells its places apart.

    Raises:
        ConfigError: it has several latents, or its data no classes.
    """
    config = read(run)
    data = datamodule(config)
    module = load_run(run, config, data.shape, data.digest)
    if len(module.latents) > 1:
        raise ConfigError(
            f"{run} has the latents {', '.join(module.latents)}: expected one, as in a run of model=gibbsnet"
        )
    if not data.data.classes:
        raise ConfigError(f"{run}: {data.data.name} has no classes, between which a chain could go")
    return module, yardstick(data.data, prepare(config), data.data.train), data


def measure(run: Path) -> dict:
    """The numbers of a run, also written into its folder, and drawn."""
    found = approach(*opened(run), CHAINS, SWEEPS)
    write_json(found, run / "approach.json")
    plots.save(draw(found), run / "figures" / "approach.png")
    return found


def approach(module: GibbsNet, stick: Yardstick, data: DataModule, chains: int, sweeps: int, seed: int = 0) -> dict:
    """The numbers of this file's docstring; `noise` is what d_i would be, on average, of draws from pi itself."""
    with torch.no_grad():
        walked = {
            name: places(module, stick, z, sweeps, seed) for name, z in starts(module, data, chains, seed).items()
        }
    count = data.data.classes + 1
    second, pi = settles(transitions(list(walked.values()), count, LAG), LAG)
    noise = float((2 * pi * (1 - pi) / (torch.pi * chains)).sqrt().sum() / 2)
    distances = {name: (laws(v, count) - pi).abs().sum(1) / 2 for name, v in walked.items()}
    return {
        "second": second, "half_life": log(0.5) / log(second) if 0 < second < 1 else None, "noise": noise, "pi": pi.tolist(),
        "rate": {name: rate(d, 3 * noise) for name, d in distances.items()},
        "distance": {name: d.tolist() for name, d in distances.items()},
        "d": {name: {str(i): float(d[i]) for i in SHOWN if i <= sweeps} for name, d in distances.items()},
    }  # fmt: skip


def draw(found: dict) -> Figure:
    """d_i over i for every start, the slope that |lambda_2| foretells, and the noise."""
    figure = Figure(figsize=(6, 3.6), dpi=plots.DPI, layout="constrained")
    axes = figure.subplots()
    for (name, distance), color in zip(found["distance"].items(), plots.PALETTE, strict=False):
        axes.semilogy(distance, color=color, linewidth=1.4, label=name)
    expected = [found["distance"]["one class"][0] * found["second"] ** i for i in range(SWEEPS + 1)]
    axes.semilogy(expected, color=plots.INK, linewidth=0.9, linestyle="--", label="one class, as |λ₂|ⁱ")
    axes.axhspan(0, found["noise"], color=plots.RULE, alpha=0.5, linewidth=0)
    axes.set(xlabel="i", ylabel="total variation to the law it settles to", ylim=(found["noise"] / 2, 1.2))
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(arguments: Sequence[str]) -> None:
    for run in asked(arguments, " of a model with x and z")[0]:
        with in_one_line():
            found = measure(run)
        half = found["half_life"] or float("inf")
        print(f"{run}: |lambda_2| = {found['second']:.4f}, half-life {half:.0f} sweeps, noise {found['noise']:.3f}")
        print(
            "| start | " + " | ".join(f"d_{i}" for i in SHOWN) + " | factor per sweep |",
            "|---|" + "---:|" * 9,
            sep="\n",
        )
        for name, d in found["distance"].items():
            fitted = found["rate"][name]
            print(
                f"| {name} | " + " | ".join(f"{d[i]:.3f}" for i in SHOWN) + f" | {f'{fitted:.4f}' if fitted else '-'} |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
