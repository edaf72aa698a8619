"""Pictures of several models beside each other, from the figures that `evaluate` leaves in their folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gibbsnet.plots import DPI, INK, LIMIT, save

KINDS = ("samples", "tsne_x", "latent_z", "latent_z1", "latent_z2")  # what is laid side by side, where all have it
WIDTHS = 350, 290, 240, 200, 160  # pixels of a picture: the widest whose row is no larger than a figure may be
GAP, HEAD = 10, 24  # pixels between two pictures, and above them for the model's name


def gallery(folders: Mapping[str, Path], row: Path) -> list[Path]:
    """Writes of every kind that all runs have a row of pictures, for row.png as row_<kind>.png, and returns their paths; at most
    200 KiB each, if the narrowest pictures allow it.

    folders: name -> the run's folder.

    Raises:
        SystemExit: no kind that all have.
    """
    written = []
    for kind in KINDS:
        pictures = {name: folder / "figures" / f"{kind}.png" for name, folder in folders.items()}
        if all(path.exists() for path in pictures.values()):
            written.append(row.with_name(f"{row.name.removesuffix('.png')}_{kind}.png"))
            for width in WIDTHS:
                save(beside(pictures, width), written[-1])
                if written[-1].stat().st_size <= LIMIT:
                    break
    if not written:
        raise SystemExit(
            f"no picture that all runs have: expected {', '.join(KINDS)} in {', '.join(map(str, folders.values()))}"
        )
    return written


def beside(pictures: Mapping[str, Path], width: int) -> Figure:
    """The pictures in one row, of equal width in pixels, each under its name."""
    shown = {name: narrowed(Image.open(path).convert("RGB"), width) for name, path in pictures.items()}
    height = max(picture.shape[0] for picture in shown.values())
    size = len(shown) * (width + GAP) - GAP, height + HEAD
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    for k, (name, picture) in enumerate(shown.items()):
        left = k * (width + GAP)
        figure.figimage(picture, left, height - picture.shape[0], origin="upper")
        figure.text((left + 2) / size[0], 1 - 4 / size[1], name, size=9.5, weight="bold", color=INK, va="top")
    return figure


def narrowed(picture: Image.Image, width: int) -> np.ndarray:
    """The picture (H, width, 3)."""
    return np.asarray(picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS))
