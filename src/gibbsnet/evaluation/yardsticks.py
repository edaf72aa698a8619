r"""What samples of a kind of data are held against: a judge for labelled images, pixels without one, modes for toys.

A yardstick looks at a batch (`look`), which is all that the networks are needed for, and turns looks into numbers later
(`scores`). All three have the same methods, so that the rest does not ask what kind of data it has.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gibbsnet.classifier import Judge
from gibbsnet.data import DataSet, Split, units
from gibbsnet.evaluation import toys
from gibbsnet.evaluation.distances import permutation, sliced_wasserstein
from gibbsnet.evaluation.references import gaussian_draws
from gibbsnet.evaluation.scores import Statistics, class_score, classes, frechet, kernel_distance
from gibbsnet.noise import Noise

REAL = 10_000  # small data sets are dequantised anew until there are about so many real examples (digits: 7 times)
KERNEL = 5_000  # real examples, each once, that the kernel distance is taken to


@dataclass(frozen=True)
class Look:
    """What is kept of n examples: features (n, F), and probabilities of classes (n, K) if there are classes."""

    features: Tensor
    probs: Tensor | None = None

    @classmethod
    def join(cls, looks: Iterable["Look"]) -> "Look":
        """Looks at batches, in order, as one."""
        looks = list(looks)
        probs = None if looks[0].probs is None else torch.cat([look.probs for look in looks])
        return cls(torch.cat([look.features for look in looks]), probs)


def batches(
    data: DataSet, split: Split, key: tuple, n: int | None = None, device: torch.device | str = "cpu", size: int = 500
) -> Iterator[tuple[Tensor, Tensor]]:
    """n examples of a split in the model's coordinates, in batches, each with its indices.

    They come in random order, all of them before any comes again, dequantised anew each time; both are keyed.
    """
    n = n or len(split)
    passes = [permutation(len(split), *key, k) for k in range(-(-n // len(split)))]
    for number, indices in enumerate(torch.cat(passes)[:n].split(size)):
        noise = Noise(*key, "dequantise", number, device=device)
        yield units(split.x[indices].to(device), data.levels, noise), indices


class Yardstick:
    """What the three kinds share.

    Arguments:
        data: the data set.
        real: the split that samples are held against.
        seed: keys the order and the dequantisation of real examples, and the draws of references.
        device: where `look` computes.
    """

    def __init__(self, data: DataSet, real: Split, seed: int = 0, device: torch.device | str = "cpu"):
        self.data, self.real, self.seed, self.device = data, real, seed, torch.device(device)

    def look_at(self, split: Split, purpose: str, n: int | None = None) -> Look:
        """A look at n examples of a split."""
        key = (self.seed, "real", purpose)
        return Look.join(self.look(x) for x, _ in batches(self.data, split, key, n, self.device))

    def pixels(self) -> Tensor:
        """All real examples, dequantised once, on the CPU."""
        return torch.cat([x for x, _ in batches(self.data, self.real, (self.seed, "real", "pixels"))])

    def gaussian(self, n: int) -> Look:
        """A look at n draws of the single Gaussian fitted to the real pixels."""
        draws = gaussian_draws(self.pixels(), n, Noise(self.seed, "gaussian"))
        return Look.join(self.look(x.to(self.device)) for x in draws.split(500))


class Judged(Yardstick):
    """Labelled images, seen through the judge: features are its penultimate layer."""

    def __init__(self, data: DataSet, judge: Judge, real: Split, seed: int = 0, device="cpu", samples: int = 5000):
        super().__init__(data, real, seed, device)
        self.judge, self.samples = judge.to(self.device).eval(), samples

    @torch.no_grad()
    def look(self, x: Tensor) -> Look:
        features = self.judge.features(x)
        return Look(features.cpu(), self.judge.head(features).softmax(dim=1).cpu())

    @cached_property
    def looked(self) -> Look:
        """The real examples, dequantised as often as REAL asks."""
        return self.look_at(self.real, "statistics", len(self.real) * -(-REAL // len(self.real)))

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics.of(self.looked.features)

    @cached_property
    def unit(self) -> float:
        """The distance of as many draws of a Gaussian on pixels: 1 on the scale of class_frechet_ratio."""
        return self.distance(self.gaussian(self.samples))

    def distance(self, look: Look) -> float:
        return frechet(Statistics.of(look.features), self.statistics)

    def scores(self, look: Look, unique: int | None = None) -> dict[str, float]:
        """All scores of samples; `unique`: how many of the first are different examples (real ones may come again)."""
        real = self.looked.features[: min(KERNEL, len(self.real))]
        return self.brief(look) | {
            "class_score_std": class_score(look.probs)[1],
            "class_frechet": self.distance(look),
            "class_kid": kernel_distance(look.features[:unique], real),
        }

    def brief(self, look: Look) -> dict[str, float]:
        """The scores that are told at every i."""
        return {
            "class_score": class_score(look.probs)[0],
            "class_frechet_ratio": self.distance(look) / self.unit,
            "classes": classes(look.probs),
        }

    def quick(self, look: Look) -> dict[str, float]:
        """What can be told in passing, "distance" being the one to follow."""
        distance = self.distance(look)
        return {"class_frechet": distance, "classes": classes(look.probs), "distance": distance}

    def same_class(self, x: Tensor, y: Tensor) -> float:
        """The share of pairs (n, *), (n, *) that the judge gives the same class."""
        return float((self.look(x).probs.argmax(1) == self.look(y).probs.argmax(1)).double().mean())


class Points(Yardstick):
    """Toys: features are the points, classes the known modes."""

    def look(self, x: Tensor) -> Look:
        return Look(x.cpu(), toys.mode_probs(x.cpu(), self.data.modes))

    def scores(self, look: Look, unique: int | None = None) -> dict[str, float]:
        """All scores of samples, the distance to as many real points."""
        real = self.look_at(self.real, "sliced", len(look.features)).features
        return {
            "modes": toys.modes_covered(look.probs),
            "share": toys.share(look.probs),
            "sliced_wasserstein": sliced_wasserstein(look.features, real, seed=self.seed),
        }

    brief = scores

    def quick(self, look: Look) -> dict[str, float]:
        """All scores, "distance" being the one to follow."""
        real = self.look_at(self.real, "modes").probs
        return self.scores(look) | {"distance": toys.mode_distance(look.probs, real)}

    def same_class(self, x: Tensor, y: Tensor) -> float:
        """The share of pairs (n, 2), (n, 2) that lie nearest to the same mode."""
        a, b = (toys.nearest_mode(points.cpu(), self.data.modes) for points in (x, y))
        return float((a == b).double().mean())


class Pixels(Yardstick):
    """Images without a judge: features are the pixels."""

    def look(self, x: Tensor) -> Look:
        return Look(x.flatten(1).cpu())

    def scores(self, look: Look, unique: int | None = None) -> dict[str, float]:
        """The distance of samples to as many real images."""
        real = self.look_at(self.real, "sliced", len(look.features)).features
        return {"sliced_wasserstein": sliced_wasserstein(look.features, real, seed=self.seed)}

    brief = scores

    def quick(self, look: Look) -> dict[str, float]:
        """All scores, "distance" being the one to follow."""
        scores = self.scores(look)
        return scores | {"distance": scores["sliced_wasserstein"]}

    def same_class(self, x: Tensor, y: Tensor) -> None:
        """Nothing: there are no classes."""


def yardstick(
    data: DataSet, judge: Judge | None, real: Split, seed: int = 0, device="cpu", samples: int = 5000
) -> Judged | Points | Pixels:
    """The yardstick for a data set: its modes if they are known, its judge if there is one, else its pixels."""
    if data.modes is not None:
        return Points(data, real, seed, device)
    if judge is not None:
        return Judged(data, judge, real, seed, device, samples)
    return Pixels(data, real, seed, device)
