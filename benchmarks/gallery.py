"""Pictures of several models beside each other, from the figures that `evaluate` leaves in their folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gibbsnet.plots import DPI, INK, save

KINDS = ("samples", "tsne_x", "latent_z")  # what is laid side by side
WIDTH, GAP, HEAD = 350, 10, 24  # pixels: of a picture, between two, and above them for the model's name


def gallery(folders: Mapping[str, Path], prefix: Path) -> list[Path]:
    """Writes <prefix>_<kind>.png of every kind that all runs have, at most about 200 KiB each; returns their paths.

    folders: name -> the run's folder.
    """
    written = []
    for kind in KINDS:
        pictures = {name: folder / "figures" / f"{kind}.png" for name, folder in folders.items()}
        if all(path.exists() for path in pictures.values()):
            written.append(prefix.with_name(f"{prefix.name}_{kind}.png"))
            save(beside(pictures), written[-1])
    return written


def beside(pictures: Mapping[str, Path]) -> Figure:
    """The pictures in one row, of equal width, each under its name."""
    shown = {name: narrowed(Image.open(path).convert("RGB")) for name, path in pictures.items()}
    height = max(picture.shape[0] for picture in shown.values())
    size = len(shown) * (WIDTH + GAP) - GAP, height + HEAD
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    for k, (name, picture) in enumerate(shown.items()):
        left = k * (WIDTH + GAP)
        figure.figimage(picture, left, height - picture.shape[0], origin="upper")
        figure.text((left + 2) / size[0], 1 - 4 / size[1], name, size=9.5, weight="bold", color=INK, va="top")
    return figure


def narrowed(picture: Image.Image) -> np.ndarray:
    """A picture (H, W, 3) of WIDTH columns."""
    return np.asarray(picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS))
