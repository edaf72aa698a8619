"""Images of one's own: an .npz file of arrays, or a tree of image files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from gibbsnet.data.files import oneline
from gibbsnet.data.sets import DataError, DataSet, Split, divided, part
from gibbsnet.files import walk

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
GRAY = {"1", "L", "LA"}
DEEP = {"F", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's modes of more than eight bits, which it would clip
FEWEST = 20  # a tenth of them are the test split, a tenth the validation split: two images each


def npz(path: str | Path, validation: int | None = None) -> DataSet:
    """Arrays `images` (or x, arr_0), uint8 (n, H, W), (n, H, W, C) or (n, C, H, W), and perhaps `labels` (or y), (n,).

    `test_images` and `test_labels`, where they are there, are the test set; otherwise a tenth of the images, stratified.
    Classes are the distinct labels in sorted order.
    """
    path = Path(path)
    arrays = read_npz(path)
    x = pixels(pick(arrays, "images", "x", "arr_0"), path)
    if x is None:
        raise DataError(f"{path} has no array called images, x or arr_0, but {sorted(arrays)}")
    y = labels(pick(arrays, "labels", "y"), len(x), path)
    test_x = pixels(pick(arrays, "test_images"), path)
    test_y = labels(pick(arrays, "test_labels"), 0 if test_x is None else len(test_x), path)
    if test_x is None:
        return shared("npz", path, x, y, validation)
    if test_x.shape[1:] != x.shape[1:] or (y is None) != (test_y is None):
        raise DataError(
            f"{path}: its test set has another image shape than its images, or one of the two has no labels"
        )
    names = None if y is None else np.unique(np.concatenate([y, test_y]))
    learn, test = Split(x, numbers(y, names)), Split(test_x, numbers(test_y, names))
    enough(path, len(learn))
    if len(test) < 2:
        raise DataError(
            f"{path}: test_images holds {len(test)}: at least 2 are needed, or no such array, and a tenth of the images is taken"
        )
    return divided("npz", learn, test, 0 if y is None else len(names), 256, tenth(len(learn), validation))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file by name; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: path must name an .npz file") from error
    except Exception as error:  # a damaged archive may fail in any way
        raise DataError(f"{path} cannot be read as an .npz file of plain arrays ({oneline(error)})") from error


def pick(arrays: dict[str, np.ndarray], *names: str) -> np.ndarray | None:
    """The first array there is of those names."""
    return next((arrays[name] for name in names if name in arrays), None)


def pixels(array: np.ndarray | None, path: Path) -> Tensor | None:
    """Images as (n, C, H, W), uint8, C one or three; whichever of the second and the last axis is that short holds C."""
    if array is None:
        return None
    if array.dtype != np.uint8:
        raise DataError(f"{path}: its images are {array.dtype}, expected uint8 in 0..255")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif not (array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3)):
        raise DataError(
            f"{path}: its images have shape {array.shape}, expected (n, H, W) or one or three channels more"
        )
    if 0 in array.shape[1:]:
        raise DataError(f"{path}: its images have shape {array.shape}, expected at least a pixel")
    return torch.from_numpy(array.copy())


def labels(array: np.ndarray | None, n: int, path: Path) -> np.ndarray | None:
    """n labels, integers or names."""
    if array is None:
        return None
    array = array.reshape(len(array), -1)[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.shape != (n,) or array.dtype.kind not in "biuUS":
        raise DataError(f"{path}: its labels are {array.dtype} {array.shape}, expected {n} integers or names")
    if array.dtype.kind == "i" and (array < 0).any():
        raise DataError(
            f"{path}: label {array.min()}: expected integers of at least 0; leave images without a label out, or hide known "
            "labels with data.labels=K"
        )
    return array


def numbers(y: np.ndarray | None, names: np.ndarray | None) -> Tensor | None:
    """Labels as their places among the sorted names, int64 (n,)."""
    return None if y is None else torch.from_numpy(np.searchsorted(names, y)).long()


def folder(
    path: str | Path, image_size: int | None = None, channels: int | None = None, validation: int | None = None
) -> DataSet:
    """Image files below a folder; the first-level folders, if there are any, are the classes in sorted order.

    Arguments:
        image_size: crops at the centre to a square and resizes to this many pixels; without it all must have one size.
        channels: 1 (gray) or 3 (colour); by default 1 where every file is gray.
    """
    path = Path(path)
    files = image_files(path)
    channels = channels or detected(files)
    x = stacked(files, image_size, channels)
    inside = [len(file.relative_to(path).parts) > 1 for file in files]
    if any(inside) and not all(inside):
        raise DataError(f"{files[inside.index(False)]} lies beside the folders of classes: move it into one of them")
    y = np.array([file.relative_to(path).parts[0] for file in files]) if any(inside) else None
    return shared("folder", path, x, y, validation)


def image_files(path: Path) -> list[Path]:
    """Every visible file below the folder with the suffix of an image, sorted."""
    if not path.is_dir():
        raise DataError(f"{path} is missing or no folder: path must name a folder of images")
    below = (folder / name for folder, _, names in walk(path) for name in names)
    files = sorted(
        file
        for file in below
        if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden(file.relative_to(path))
    )
    if not files:
        raise DataError(f"{path} holds no images: expected files that end in {', '.join(sorted(SUFFIXES))}")
    return files


def hidden(file: Path) -> bool:
    """Whether the file or a folder on the way to it begins with a dot: thumbnails, a notebook's checkpoints."""
    return any(part.startswith(".") for part in file.parts)


def detected(files: list[Path]) -> int:
    """1 if every file is gray, otherwise 3."""
    return 1 if all(opened(file).mode in GRAY for file in files) else 3


def opened(file: Path, image_size: int | None = None, convert: str | None = None) -> Image.Image:
    """The image in a file, upright; its header alone is read unless it is to be converted."""
    try:
        with Image.open(file) as image:
            if image.mode in DEEP:
                raise DataError(f"{file} has more than 8 bits per channel (mode {image.mode}): convert it to 8 bits")
            if convert is None:
                return image
            image = ImageOps.exif_transpose(image).convert(convert)
    except DataError:
        raise
    except Exception as error:  # a damaged image may fail in any way
        raise DataError(f"{file} cannot be read as an image ({oneline(error)}): replace or remove it") from error
    return image if image_size is None else ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)


def stacked(files: list[Path], image_size: int | None, channels: int) -> Tensor:
    """All images, uint8 (n, C, H, W)."""
    if channels not in (1, 3) or (image_size is not None and image_size <= 0):
        raise DataError(f"channels is {channels} and image_size {image_size}: expected 1 or 3, and a positive number")
    images = [np.asarray(opened(file, image_size, "L" if channels == 1 else "RGB")) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(f"{file} is {image.shape[:2]}, {files[0]} is {images[0].shape[:2]}: set image_size")
    x = torch.from_numpy(np.stack(images))
    return x[:, None] if channels == 1 else x.permute(0, 3, 1, 2).contiguous()


def shared(name: str, path: Path, x: Tensor, y: np.ndarray | None, validation: int | None) -> DataSet:
    """A data set whose test split is a stratified tenth of the examples."""
    enough(path, len(x))
    names = None if y is None else np.unique(y)
    everything = Split(x, numbers(y, names))
    rest, test = part(len(x), len(x) // 10, everything.y)
    classes = 0 if y is None else len(names)
    return divided(name, everything[rest], everything[test], classes, 256, tenth(len(x), validation))


def tenth(n: int, validation: int | None) -> int:
    """How many examples of n are for validation: a tenth unless the number is given."""
    return n // 10 if validation is None else validation


def enough(path: Path, n: int) -> None:
    """Refuses what is too small to be split."""
    if n < FEWEST:
        raise DataError(f"{path} holds {n} images: at least {FEWEST} are needed for training, validation and test")
