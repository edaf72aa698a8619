"""Data sets by name."""

from difflib import get_close_matches
from pathlib import Path

from gibbsnet.data import own, toys
from gibbsnet.data.published import READERS, digits, published
from gibbsnet.data.sets import DataError, DataSet

VALIDATION = {
    "digits": 216,
    "mnist": 5_000,
    "cifar10": 5_000,
    "svhn": 5_000,
    "svhn_extra": 5_000,
    "ring": 2_000,
    "grid": 2_000,
}
NAMES = (*VALIDATION, "npz", "folder")


def load(
    name: str,
    *,
    root: str | Path = "data",
    path: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    download: bool = True,
    verify: bool = True,
    validation: int | None = None,
) -> DataSet:
    """The data set of that name: digits, mnist, cifar10, svhn, svhn_extra, ring, grid, npz or folder.

    Arguments:
        root: the folder in which mnist, cifar10 and svhn lie, laid out as torchvision does.
        path: the file of npz, the folder of folder.
        image_size, channels: of folder: the side in pixels to resize to, and 1 or 3 (default: what the files are).
        download: whether files of published data sets that are missing may be fetched (needs pooch).
        verify: whether files must be the published ones; without it, formats and counts are still checked.
        validation: how many training examples are held out (default: digits 216, images 5,000, toys 2,000, own a tenth).

    Raises:
        DataError: one line for a file that is missing, damaged, altered or of another kind, or an argument that cannot be.
    """
    known(name, path, image_size or channels)
    held = VALIDATION.get(name) if validation is None else validation
    match name:
        case "digits":
            return digits(held)
        case "ring" | "grid":
            return toys.toy(name, *getattr(toys, name)(), toys.SIZES | {"validation": held})
        case "npz":
            return own.npz(path, held)
        case "folder":
            return own.folder(path, image_size, channels, held)
    return published(name, root, download, verify, held)


def prepare(name: str, root: str | Path = "data") -> None:
    """Downloads what is missing of a published data set, and leaves what is there alone."""
    if name in READERS:
        paths, _ = READERS[name]
        paths(root, download=True)


def known(name: str, path: str | Path | None, folder_only: object) -> None:
    """Refuses a name that is not there, and arguments that the data set would not look at."""
    if name not in NAMES:
        near = get_close_matches(name, NAMES, 1)
        raise DataError(
            f"there is no data set {name!r}{f' (did you mean {near[0]}?)' if near else ''}: {', '.join(NAMES)}"
        )
    if (path is None) == (name in ("npz", "folder")):
        raise DataError(f"data set {name}: data.path=... must be said for npz and folder, and for them alone")
    if folder_only and name != "folder":
        raise DataError(f"data set {name}: image_size and channels are for folder alone")
