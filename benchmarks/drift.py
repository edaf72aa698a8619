"""What drifts as a chain goes on: python -m benchmarks.drift run=RUN [run=RUN ...] [samples=5000] [seed=0]

Of labelled images.  By the step i: class_frechet_ratio; the same with samples weighted such that the judge's classes have the
data's proportions ("balanced": what is left of the distance if the classes' weights are not at fault); and the least and the
greatest share of a class, 1 where it is the data's.  Then what the joint critic gives training images, validation images and the
model's samples at N, on average: how far apart the first two are says how much it knows by heart.  Against the training and
validation images, as `evaluate` has it.  Prints a table of each run and writes <run>/drift.json.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.runs import asked, in_one_line
from gibbsnet.config import ConfigError, read
from gibbsnet.data import DataModule, State
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation.scores import Statistics, frechet
from gibbsnet.evaluation.yardsticks import Judged, Look, yardstick
from gibbsnet.graph import AGE
from gibbsnet.modules import GibbsNet
from gibbsnet.prepare import datamodule, prepare
from gibbsnet.train import load_run

STEPS = (0, 1, 3, 10, 100, 1000)
IMAGES = 1000  # of a split, its first, that the critic is shown
LEAST = 10  # samples, as `evaluate` asks for
NAMES = ("class_frechet_ratio", "balanced", "least", "most")


def weighted(features: Tensor, weights: Tensor) -> Statistics:
    """Mean and covariance under weights (n,) that sum to 1; equal ones give `Statistics.of`."""
    features, weights = features.double(), weights.double()
    mean = weights @ features
    centred = features - mean
    return Statistics(mean, (weights[:, None] * centred).T @ centred / (1 - weights.square().sum()))


def balance(label: Tensor, real: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (n,) under which labels (n,) have the proportions of the real ones (m,), and the classes' shares in units of the
    data's, of those classes that the data have.  Classes that are not drawn cannot be weighted: the others keep their
    proportions."""
    mine, data = (torch.bincount(part, minlength=classes).double() / len(part) for part in (label, real))
    weights = (data / mine)[label]
    return weights / weights.sum(), (mine / data)[data > 0]


def drifted(stick: Judged, look: Look) -> dict[str, float]:
    """The numbers of one step."""
    weights, shares = balance(look.probs.argmax(1), stick.looked.probs.argmax(1), look.probs.shape[1])
    ratios = stick.distance(look), frechet(weighted(look.features, weights), stick.statistics)
    values = *(ratio / stick.unit for ratio in ratios), float(shares.min()), float(shares.max())
    return dict(zip(NAMES, values, strict=True))


def critic(module: GibbsNet, data: DataModule, drawn: State, seed: int) -> dict[str, float]:
    """The joint critic's mean score of images of two splits, with z inferred, and of the model's samples, as of young chains.

    Inferred and drawn by the averaged weights, and unmoved, where the critic played against the present ones and `game.shift`."""
    judge = module.critics["joint"]
    states = {"samples": drawn}
    for split in ("train", "validation"):
        some = torch.arange(min(IMAGES, len(getattr(data.data, split))))
        states[split] = module.infer({v: x.to(module.device) for v, x in data.state(split, some, seed).items()}, seed)
    ages = {name: {AGE: torch.zeros(len(state["x"]), 1, device=module.device)} for name, state in states.items()}
    heard = {
        name: {v: x for v, x in (state | ages[name]).items() if v in judge.messages} for name, state in states.items()
    }
    return {name: float(judge(state, {}).mean()) for name, state in heard.items()}


@torch.no_grad()
def measure(run: Path, samples: int = 5000, seed: int = 0) -> dict:
    """{"chain": {i: numbers}, "critic": {of what: mean score}} of one run, also written into its folder."""
    if samples < LEAST:
        raise ConfigError(f"samples={samples}: expected at least {LEAST}")
    config = read(run)
    data, judge = datamodule(config), prepare(config)
    if judge is None:
        raise ConfigError(f"{run}: {data.data.name} has no classes whose weights could drift: expected labelled images")
    module = load_run(run, config, data.shape, data.digest)
    if "joint" not in module.critics:
        raise ConfigError(f"{run}: its critics are {', '.join(module.critics)}; expected one called joint")
    stick = yardstick(data.data, judge, data.data.development, seed, module.device, samples)
    walk = islice(module.trajectory(samples, seed), max(*STEPS, module.N) + 1)
    states = {i: state for i, state in enumerate(walk) if i in {*STEPS, module.N}}
    looks = {i: Look.join(map(stick.look, state["x"].split(500))) for i, state in states.items() if i in STEPS}
    result = {
        "chain": {str(i): drifted(stick, look) for i, look in looks.items()},
        "critic": critic(module, data, states[module.N], seed),
    }
    write_json(result, run / "drift.json")
    return result


def table(found: Mapping) -> list[str]:
    """Markdown: a row for each step, and a line about the critic."""
    lines = ["| i | " + " | ".join(NAMES) + " |", "|---:|" + "---:|" * len(NAMES)]
    lines += [
        f"| {i} | " + " | ".join(f"{row[name]:.3g}" for name in NAMES) + " |" for i, row in found["chain"].items()
    ]
    return [*lines, "", "critic: " + ", ".join(f"{name} {score:.2f}" for name, score in found["critic"].items())]


def main(arguments: Sequence[str]) -> None:
    runs, options = asked(arguments, " of labelled images", samples=5000, seed=0)
    for run in runs:
        with in_one_line():
            print(run, *table(measure(run, **options)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
