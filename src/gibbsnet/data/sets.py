r"""What a data set is, and what its pixels mean.

Images stay as they are stored, integers in 0..levels-1; `units` takes them to the model's coordinates,

    x -> 2 (x + u) / levels - 1  in [-1, 1],  u ~ U[0, 1),

so that a density of the result is a bound on the probability of the integers (uniform dequantisation).

Reference: Theis, van den Oord and Bethge, A note on the evaluation of generative models, https://arxiv.org/abs/1511.01844
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gibbsnet.data.attributes import Measure
from gibbsnet.noise import Noise


class DataError(ValueError):
    """Data that cannot be used: one line that says which file, what was expected and what to do."""


@dataclass(frozen=True)
class Split:
    """Part of a data set.

    x: uint8 pixels (n, C, H, W), or float32 points (n, 2) in unit-variance coordinates.
    y: int64 labels (n,), -1 where the label is unknown, or None.
    a: attributes, bool (n, k), or None where none were measured.
    """

    x: Tensor
    y: Tensor | None = None
    a: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, indices: Tensor | slice) -> "Split":
        return Split(*(None if values is None else values[indices] for values in (self.x, self.y, self.a)))

    def to(self, device: torch.device | str) -> "Split":
        """The same examples on a device."""
        return Split(*(None if values is None else values.to(device) for values in (self.x, self.y, self.a)))


@dataclass(frozen=True)
class Modes:
    """A mixture of equal, isotropic Gaussians, in unit-variance coordinates.

    centres: (k, 2); sigma: the standard deviation around each; scale: a point in the original coordinates is scale * x.
    """

    centres: Tensor
    sigma: float
    scale: float


@dataclass(frozen=True)
class DataSet:
    """Training, validation and test split of one data set.

    classes: number of labels, 0 without labels; levels: number of pixel values, 0 for real values; modes: of a toy.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    levels: int
    modes: Modes | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (C, H, W) or (2,)."""
        return tuple(self.train.x.shape[1:])

    @cached_property
    def digest(self) -> str:
        """Half a SHA-256 of every split's examples and labels: alter one pixel, and it is another."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for values in (split.x, split.y):
                digest.update(b"none" if values is None else values.contiguous().numpy())
        return digest.hexdigest()[:32]

    @cached_property
    def measure(self) -> Measure:
        """What tells the attributes of digits like the training images.

        Raises:
            DataError: these are no grey images.
        """
        if not (self.levels and self.shape[0] == 1):
            raise DataError(
                f"attributes are measured of grey images of digits, and {self.name} has none: choose another model"
            )
        return Measure.of(units(self.train.x, self.levels))

    def measured(self) -> "DataSet":
        """The same with the attributes of every example, measured of the pixels as they are stored."""
        splits = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return replace(self, **{k: replace(s, a=self.measure(units(s.x, self.levels))) for k, s in splits.items()})

    @property
    def tuning(self) -> "DataSet":
        """What choices are made with: the validation split in the test split's place, the training split alone to fit."""
        return replace(self, validation=self.validation[:0], test=self.validation)

    @property
    def development(self) -> Split:
        """Training and validation split together: all that may be fitted once every choice is made."""
        x = torch.cat([self.train.x, self.validation.x])
        return Split(x, None if self.train.y is None else torch.cat([self.train.y, self.validation.y]))


def units(x: Tensor, levels: int, noise: Noise | None = None) -> Tensor:
    """Pixels 0..levels-1 to [-1, 1], spread by the noise or at the middle of their bins; real values as they are.

    x: (B, *); returns float32 (B, *).
    """
    if levels == 0:
        return x.float()
    spread = 0.5 if noise is None else noise.uniform(x.shape)
    return 2 * (x + spread) / levels - 1


def part(n: int, taken: int, y: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices (rest, part): `taken` of n examples in the proportions of the labels, keyed by the seed, both sorted.

    The examples are shuffled, sorted by label, and taken at regular distances: a label's share is off by one at most.
    """
    if not 0 < taken < n:
        raise DataError(f"{taken} of {n} examples cannot be held out: the number must be in 1..{n - 1}")
    order = torch.randperm(n, generator=Noise(seed, "split", n).generator)
    if y is not None:
        order = order[y[order].argsort(stable=True)]
    held = torch.zeros(n, dtype=torch.bool)
    held[order[(2 * torch.arange(taken) + 1) * n // (2 * taken)]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def divided(name: str, learn: Split, test: Split, classes: int, levels: int, validation: int) -> DataSet:
    """A data set whose validation split is a stratified part of what may be learnt from."""
    rest, held = part(len(learn), validation, learn.y)
    return DataSet(name, learn[rest], learn[held], test, classes, levels)
