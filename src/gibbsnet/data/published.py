"""Published data sets, read from the files as they were published, in the folders torchvision uses.

References:
    MNIST: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/
    CIFAR-10: Krizhevsky, Learning multiple layers of features from tiny images, https://www.cs.toronto.edu/~kriz/cifar.html
    SVHN: Netzer et al., Reading digits in natural images, http://ufldl.stanford.edu/housenumbers/
"""

import gzip
import math
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from gibbsnet.data.files import check, find, find_member, oneline
from gibbsnet.data.sets import DataError, DataSet, Split, divided

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"


def digits(validation: int) -> DataSet:
    """1,797 digits of 8 x 8 pixels in 0..16, which scikit-learn brings; 360 are the test set."""
    source = load_digits()
    everything = Split(torch.from_numpy(source.images).to(torch.uint8)[:, None], torch.from_numpy(source.target).long())
    learn, test = train_test_split(range(len(everything)), test_size=360, stratify=source.target, random_state=0)
    return divided("digits", everything[torch.tensor(learn)], everything[torch.tensor(test)], 10, 17, validation)


def mnist(paths: list[Path], validation: int) -> DataSet:
    """60,000 and 10,000 digits of 28 x 28 pixels. The paths: training images and labels, test images and labels."""
    learn, test = (whole(idx(images, 3)[:, None], idx(labels, 1), images) for images, labels in (paths[:2], paths[2:]))
    return divided("mnist", learn, test, 10, 256, validation)


def mnist_paths(root: str | Path, download: bool) -> list[Path]:
    """MNIST/raw/*-ubyte.gz, or the same without .gz."""
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return [
        find(root, [f"MNIST/raw/{name}.gz", f"MNIST/raw/{name}"], f"{MNIST_URL}{name}.gz", download) for name in names
    ]


def idx(path: Path, dims: int) -> Tensor:
    """The uint8 array with `dims` axes in an IDX file: magic 0x0800 + dims, sizes (big-endian, 32 bits), bytes."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or truncated ({oneline(error)}): replace it") from error
    magic, *shape = (int.from_bytes(data[i : i + 4], "big") for i in range(0, 4 * dims + 4, 4))
    if magic != 0x800 + dims:
        raise DataError(f"{path} is no IDX file of bytes with {dims} axes (magic {magic:#x}): replace it")
    if len(data) != 4 * dims + 4 + math.prod(shape):
        raise DataError(
            f"{path} is damaged or truncated: its header promises {shape}, which it does not hold; replace it"
        )
    return torch.frombuffer(bytearray(data[4 * dims + 4 :]), dtype=torch.uint8).view(shape)


def cifar10(paths: list[Path], validation: int) -> DataSet:
    """50,000 and 10,000 photographs, 3 x 32 x 32. The paths: any number of training batches, then the test batch."""
    *learn, test = (cifar_batch(path) for path in paths)
    x, y = torch.cat([batch.x for batch in learn]), torch.cat([batch.y for batch in learn])
    return divided("cifar10", Split(x, y), test, 10, 256, validation)


def cifar10_paths(root: str | Path, download: bool) -> list[Path]:
    """cifar-10-batches-py/data_batch_1..5 and test_batch."""
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    return [find_member(root, f"cifar-10-batches-py/{name}", CIFAR_URL, download) for name in names]


def cifar_batch(path: Path) -> Split:
    """A pickled dictionary of `data`, uint8 (n, 3072), and `labels`."""
    try:
        with path.open("rb") as file:
            batch = Arrays(file, encoding="latin1").load()
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError(f"{path} cannot be read as a CIFAR-10 batch ({oneline(error)}): replace it") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32 or labels.dtype.kind not in "iu":
        raise DataError(f"{path} does not hold uint8 data (n, 3072) and integer labels: replace it")
    return whole(torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels), path)


class Arrays(pickle.Unpickler):
    """Reads plain containers and NumPy arrays, and refuses every other class: a pickle may not run code."""

    allowed = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> object:
        """The class or function of that name, if it is one that rebuilds arrays."""
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no published batch does")
        return self.allowed[module, name]


def svhn(paths: list[Path], validation: int) -> DataSet:
    """73,257 and 26,032 house number digits, 3 x 32 x 32. The paths: one or more for training, then the test file."""
    *learn, test = (svhn_file(path) for path in paths)
    x, y = torch.cat([part.x for part in learn]), torch.cat([part.y for part in learn])
    return divided("svhn", Split(x, y), test, 10, 256, validation)


def svhn_paths(root: str | Path, download: bool, training: Sequence[str] = ("train",)) -> list[Path]:
    """train_32x32.mat and test_32x32.mat in root/svhn, root/SVHN or root."""
    names = [f"{part}_32x32.mat" for part in (*training, "test")]
    return [find(root, [f"svhn/{name}", f"SVHN/{name}", name], SVHN_URL + name, download) for name in names]


def svhn_extra_paths(root: str | Path, download: bool) -> list[Path]:
    """The same with the 531,131 easier images of extra_32x32.mat among the training images."""
    return svhn_paths(root, download, ("train", "extra"))


def svhn_file(path: Path) -> Split:
    """A MATLAB file of X, uint8 (32, 32, 3, n), and y (n, 1) in 1..10, where 10 stands for the digit 0."""
    try:
        mat = loadmat(path, variable_names=["X", "y"])
        pixels, labels = mat["X"], mat["y"].ravel()
    except Exception as error:  # a damaged MATLAB file may fail in any way
        raise DataError(f"{path} cannot be read as an SVHN file ({oneline(error)}): replace it") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or labels.dtype.kind not in "iu":
        raise DataError(f"{path} does not hold uint8 X (32, 32, 3, n) and integer y (n, 1): replace it")
    if labels.size and not (labels.min() >= 1 and labels.max() <= 10):
        raise DataError(f"{path} holds labels outside 1..10: replace it")
    return whole(torch.from_numpy(pixels.transpose(3, 2, 0, 1).copy()), torch.from_numpy(labels % 10), path)


def whole(x: Tensor, y: Tensor, path: Path) -> Split:
    """Images (n, C, H, W) and labels (n,), if they belong together."""
    if len(x) != len(y):
        raise DataError(f"{path} and its labels do not belong together: {len(x)} images, {len(y)} labels")
    if y.numel() and not (y.min() >= 0 and y.max() <= 9):
        raise DataError(f"{path} has labels outside 0..9: replace it")
    return Split(x, y.long())


READERS = {
    "mnist": (mnist_paths, mnist),
    "cifar10": (cifar10_paths, cifar10),
    "svhn": (svhn_paths, svhn),
    "svhn_extra": (svhn_extra_paths, svhn),
}


def published(name: str, root: str | Path, download: bool, verify: bool, validation: int) -> DataSet:
    """A data set of that name, from files below root that are the published ones (unless `verify` is false)."""
    paths, read = READERS[name]
    return read([check(path, verify) for path in paths(root, download)], validation)
