"""Batches for training, as a pure function of (seed, step)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gibbsnet.data.readers import load, prepare
from gibbsnet.data.sets import DataError, DataSet, Split, part, units
from gibbsnet.files import home
from gibbsnet.noise import Noise

State = dict[str, Tensor]


class Draw(NamedTuple):
    """Which examples make a batch: `indices` (B,) of the split called `split`, at training step `step`."""

    split: str
    step: int
    indices: Tensor


class Batches:
    """This rank's batches of a whole run; a batch depends on (seed, step) alone.

    Epoch e goes through a permutation keyed by (seed, e), the global batches are consecutive entries of it, and what is
    left at its end is dropped. Iterating starts at step `start()`, while the length is always that of the whole run:
    that is how Lightning counts when it resumes within an epoch.

    known, extra: `extra` examples of each batch, at equal distances, are taken from these indices, in the same way, so that
        every rank has its share; what is left of a batch goes through all of them.
    """

    def __init__(self, n: int, batch_size: int, steps: int, seed: int, start=lambda: 0, rank: int = 0, ranks: int = 1,
                 known: Tensor | None = None, extra: int = 0):  # fmt: skip
        self.n, self.batch_size, self.steps, self.seed = n, batch_size, steps, seed
        self.start, self.rank, self.ranks = start, rank, ranks
        self.known, self.extra = known, extra

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Draw]:
        everyone = Shuffled(self.n, self.batch_size - self.extra, self.seed, "shuffle")
        labelled = Shuffled(len(self.known), self.extra, self.seed, "known") if self.extra else None
        places = torch.arange(self.extra) * self.batch_size // max(self.extra, 1)
        taken = torch.zeros(self.batch_size, dtype=torch.bool).index_fill(0, places, True)
        for step in range(self.start(), self.steps):
            batch = everyone[step]
            if labelled is not None:
                batch = batch.new_zeros(self.batch_size).masked_scatter(~taken, batch)
                batch[taken] = self.known[labelled[step]]
            yield Draw("train", step, batch.chunk(self.ranks)[self.rank])

    def state_dict(self) -> dict:
        """Nothing: where to go on is the trainer's step. Lightning takes loaders without it for not resumable."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing, see `state_dict`."""


class Shuffled:
    """Draws of `size` of n indices, by step: epoch e is a permutation keyed by (seed, e, purpose), its remainder dropped."""

    def __init__(self, n: int, size: int, seed: int, purpose: str):
        self.n, self.size, self.seed, self.purpose = n, size, seed, purpose
        self.epoch = self.order = None

    def __getitem__(self, step: int) -> Tensor:
        epoch, k = divmod(step, self.n // self.size)
        if epoch != self.epoch:
            generator = Noise(self.seed, epoch, self.purpose).generator
            self.epoch, self.order = epoch, torch.randperm(self.n, generator=generator)
        return self.order[k * self.size : (k + 1) * self.size]


class InOrder:
    """All n examples of a split in order, the last batch shorter if need be."""

    def __init__(self, split: str, n: int, batch_size: int):
        self.split, self.indices = split, torch.arange(n).split(batch_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(self.split, step, indices) for step, indices in enumerate(self.indices))


class DataModule(LightningDataModule):
    """Batches of states {"x": float32 (B, *), "y": int64 (B,) where there are labels, "a": bool (B, k)} on the device.

    Arguments:
        name, root, path, image_size, channels, download, verify, validation: see `load`.
        batch_size: examples in the global batch; each rank gets an equal share.
        steps: training batches in the whole run, resumed or not.
        seed: keys the order of the examples and the dequantisation.
        resident: pixels go to the device once, as integers; otherwise each batch is moved.
        labels: of how many training examples the label is known, in the proportions of the labels, chosen by the seed; the
            others have -1 in every batch.  None: of all.
        labelled: so many examples of each batch are taken from those whose label is known.
        attributes: whether the attributes of the images are measured, and are "a" in every batch.
    """

    def __init__(
        self,
        name: str,
        batch_size: int = 100,
        steps: int = 1000,
        seed: int = 0,
        root: str = "data",
        path: str | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        download: bool = True,
        verify: bool = True,
        validation: int | None = None,
        resident: bool = True,
        labels: int | None = None,
        labelled: int = 0,
        attributes: bool = False,
    ):
        super().__init__()
        if batch_size <= 0 or steps <= 0:
            raise DataError(f"batch_size is {batch_size} and steps is {steps}: both must be positive")
        self.source = dict(name=name, root=home(root), path=home(path), image_size=image_size, channels=channels)
        self.source |= dict(download=download, verify=verify, validation=validation)
        self.batch_size, self.steps, self.seed, self.resident = batch_size, steps, seed, resident
        self.labels, self.labelled, self.attributes = labels, labelled, attributes
        self.data: DataSet | None = None
        self.known: Tensor | None = None  # the training examples whose label is known, where it is not all of them
        self._resident: dict[tuple[str, torch.device], Split] = {}

    @property
    def ranks(self) -> int:
        """Processes that share the global batch."""
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rank(self) -> int:
        """This process among them."""
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one x."""
        return self.data.shape

    @property
    def classes(self) -> int:
        """Number of labels; 0 without labels."""
        return self.data.classes

    @property
    def levels(self) -> int:
        """Number of pixel values; 0 for real values."""
        return self.data.levels

    @property
    def mean(self) -> Tensor:
        """The mean training x in units, of the shape of one x."""
        x, levels = self.data.train.x, self.data.levels
        total = sum(chunk.double().sum(0) for chunk in x.split(1000))  # a cast of everything would be 8 times the data
        return units(total / len(x), levels).float()

    @property
    def digest(self) -> str | None:
        """What tells these data from others: of pixels and labels; None for real values, which were made and not read."""
        return self.data.digest if self.levels else None

    def state_dict(self) -> dict[str, str | None]:
        """What a checkpoint has to remember of the data."""
        return {"digest": self.digest}

    def prepare_data(self) -> None:
        """Downloads what is missing, on one process of each node."""
        if self.source["download"]:
            prepare(self.source["name"], self.source["root"])

    def setup(self, stage: str | None = None) -> None:
        """Loads the data set once, and refuses batches that it cannot fill or that the ranks cannot share."""
        if self.data is None:
            self.data = load(**self.source)
            self.data = self.data.measured() if self.attributes else self.data
            self.known = None if self.labels is None else self._choose()
        if self.batch_size > len(self.data.train):
            n = len(self.data.train)
            raise DataError(f"data.batch_size={self.batch_size} is larger than the training set: say {n} or less")
        self.shared_by(self.ranks)

    def _choose(self) -> Tensor:
        """The training examples whose label is known."""
        n = len(self.data.train)
        if self.data.train.y is None:
            raise DataError(f"data.labels={self.labels}, but {self.data.name} has no labels: leave it null")
        if not 0 < self.labels < n:
            raise DataError(f"data.labels={self.labels}: expected a number in 1..{n - 1}, or null for all {n}")
        if not 0 <= self.labelled <= min(self.labels, self.batch_size - 1):
            raise DataError(
                f"data.labelled={self.labelled}: expected 0..{min(self.labels, self.batch_size - 1)} of each batch"
            )
        return part(n, self.labels, self.data.train.y, self.seed)[1]

    def split(self, name: str) -> Split:
        """A split as a training may see it: of the training examples only the known labels."""
        split = getattr(self.data, name)
        if name != "train" or self.known is None:
            return split
        hidden = torch.full_like(split.y, -1)
        hidden[self.known] = split.y[self.known]
        return replace(split, y=hidden)

    def shared_by(self, ranks: int) -> None:
        """Refuses a global batch that so many processes cannot share equally."""
        if self.batch_size % ranks:
            raise DataError(
                f"data.batch_size={self.batch_size} is that of all processes together, and cannot be shared equally by "
                f"{ranks} processes: say a multiple of {ranks}"
            )

    def train_dataloader(self) -> Batches:
        """The batches from the trainer's step to the last."""
        start = (lambda: 0) if self.trainer is None else (lambda: self.trainer.global_step)
        order = len(self.data.train), self.batch_size, self.steps, self.seed, start, self.rank, self.ranks
        return Batches(*order, known=self.known, extra=self.labelled if self.known is not None else 0)

    def val_dataloader(self) -> InOrder:
        """The whole validation split in order, on every rank, so that no mean depends on the number of ranks."""
        return InOrder("validation", len(self.data.validation), self.batch_size)

    def transfer_batch_to_device(self, batch: Draw, device: torch.device, dataloader_idx: int = 0) -> State:
        """A draw to its state: on the device pixels are taken from the resident split and turned into units."""
        split = self._on(batch.split, device)
        examples = split[batch.indices.to(split.x.device)]
        if batch.split == "train":
            noise = Noise(self.seed, batch.step, "dequantise", device=device, rank=self.rank, ranks=self.ranks)
        else:
            noise = Noise(0, batch.step, batch.split, device=device)
        return self._state(examples, noise)

    def state(
        self, split: str | Split, indices: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> State:
        """The state of examples of a split (a name or a Split), dequantised with noise keyed by the seed alone."""
        examples = self.split(split) if isinstance(split, str) else split
        examples = examples if indices is None else examples[indices]
        return self._state(examples, Noise(seed, "dequantise", device=device))

    def _state(self, examples: Split, noise: Noise) -> State:
        examples = examples.to(noise.device)
        rest = {"y": examples.y, "a": examples.a}
        state = {"x": units(examples.x, self.data.levels, noise)}
        return state | {v: values for v, values in rest.items() if values is not None}

    def _on(self, name: str, device: torch.device) -> Split:
        key = name, torch.device(device if self.resident else "cpu")
        if key not in self._resident:
            self._resident[key] = self.split(name).to(key[1])
        return self._resident[key]
