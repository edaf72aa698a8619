"""Batches for training, as a pure function of (seed, step)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from gibbsnet.data.readers import load, prepare
from gibbsnet.data.sets import DataError, DataSet, Split, units
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
    """

    def __init__(self, n: int, batch_size: int, steps: int, seed: int, start=lambda: 0, rank: int = 0, ranks: int = 1):
        self.n, self.batch_size, self.steps, self.seed = n, batch_size, steps, seed
        self.start, self.rank, self.ranks = start, rank, ranks

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Draw]:
        epoch = order = None
        for step in range(self.start(), self.steps):
            now, k = divmod(step, self.n // self.batch_size)
            if now != epoch:
                epoch, order = now, torch.randperm(self.n, generator=Noise(self.seed, now, "shuffle").generator)
            everyone = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield Draw("train", step, everyone.chunk(self.ranks)[self.rank])

    def state_dict(self) -> dict:
        """Nothing: where to go on is the trainer's step. Lightning takes loaders without it for not resumable."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing, see `state_dict`."""


class InOrder:
    """All n examples of a split in order, the last batch shorter if need be."""

    def __init__(self, split: str, n: int, batch_size: int):
        self.split, self.indices = split, torch.arange(n).split(batch_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(self.split, step, indices) for step, indices in enumerate(self.indices))


class DataModule(LightningDataModule):
    """Batches of states {"x": float32 (B, *), "y": int64 (B,) where there are labels} on the device.

    Arguments:
        name, root, path, image_size, channels, download, verify, validation: see `load`.
        batch_size: examples in the global batch; each rank gets an equal share.
        steps: training batches in the whole run, resumed or not.
        seed: keys the order of the examples and the dequantisation.
        resident: pixels go to the device once, as integers; otherwise each batch is moved.
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
    ):
        super().__init__()
        if batch_size <= 0 or steps <= 0:
            raise DataError(f"batch_size is {batch_size} and steps is {steps}: both must be positive")
        self.source = dict(name=name, root=root, path=path, image_size=image_size, channels=channels)
        self.source |= dict(download=download, verify=verify, validation=validation)
        self.batch_size, self.steps, self.seed, self.resident = batch_size, steps, seed, resident
        self.data: DataSet | None = None
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
        self.data = self.data or load(**self.source)
        if self.batch_size > len(self.data.train):
            raise DataError(f"batch_size {self.batch_size} is larger than the training set ({len(self.data.train)})")
        self.shared_by(self.ranks)

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
        return Batches(len(self.data.train), self.batch_size, self.steps, self.seed, start, self.rank, self.ranks)

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
        examples = getattr(self.data, split) if isinstance(split, str) else split
        examples = examples if indices is None else examples[indices]
        return self._state(examples, Noise(seed, "dequantise", device=device))

    def _state(self, examples: Split, noise: Noise) -> State:
        state = {"x": units(examples.x.to(noise.device), self.data.levels, noise)}
        return state if examples.y is None else state | {"y": examples.y.to(noise.device)}

    def _on(self, name: str, device: torch.device) -> Split:
        split = getattr(self.data, name)
        if not self.resident:
            return split
        key = name, torch.device(device)
        if key not in self._resident:
            self._resident[key] = Split(split.x.to(device), None if split.y is None else split.y.to(device))
        return self._resident[key]
