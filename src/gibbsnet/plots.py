"""States to figures.

A figure is a pure function of the values it is given: colours, sizes and axis limits come from the data or from the
prior, never from the samples, so that pictures of one model over time, and of several models, can be laid side by side.
Embeddings alone have no axes to fix.
"""

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from gibbsnet.data import ATTRIBUTES, DataSet, State, units
from gibbsnet.files import replace
from gibbsnet.noise import Noise

STEPS = (0, 1, 2, 3, 10, 100, 1000)
QUICK_STEPS = (0, 1, 2, 3, 10)

INK, MUTED, RULE, DATA = "#22262b", "#6b7280", "#d7dade", "#c9ccd1"
# Tableau's ten, in an order whose neighbours differ in lightness as well as in hue.
PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#6b6ecf",
)  # fmt: skip

DPI = 110
LIMIT = 200 * 1024
TILE = 56
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


# ----------------------------------------------------------------------------------------------------------- images


def image_grid(
    x: Tensor, title: str = "", columns: Sequence[str] = (), rows: Sequence[str] = (), every: int = 0, zoom: int = 0
) -> Figure:
    """A table of images, pixel for pixel.

    Arguments:
        x: (R, K, C, H, W) in [-1, 1] (clipped), C = 1 (gray) or 3 (colour).
        title, columns, rows: short labels above the picture, each column and left of each row.
        every: an additional gap after so many rows; 0 for none.
        zoom: screen pixels per image pixel; by default what makes a tile about 56 wide.
    """
    zoom = zoom or max(1, round(TILE / x.shape[-1]))
    picture, tops, lefts = _montage(_bytes(x), zoom, every)
    left = 26 if rows else 2
    width = max(picture.shape[1] + left + 2, 300)
    lines = textwrap.wrap(title, width // 8)  # the pixels of a broad letter
    top = 2 + 2 * bool(lines) + 18 * len(lines) + 18 * bool(columns)
    height = picture.shape[0] + top + 2
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.figimage(picture, left, 2, origin="upper")
    tile = x.shape[-1] * zoom
    if title:
        figure.text((left + 1) / width, 1 - 3 / height, "\n".join(lines), size=9.5, color=INK, va="top")
    for label, at in zip(columns, lefts, strict=False):
        spot = (left + at + tile / 2) / width, (picture.shape[0] + 6) / height
        figure.text(*spot, label, size=7.5, color=MUTED, ha="center", va="bottom")
    for label, at in zip(rows, tops, strict=False):
        spot = (left - 8) / width, (picture.shape[0] + 2 - at - x.shape[-2] * zoom / 2) / height
        figure.text(*spot, label, size=8.5, color=MUTED, ha="right", va="center")
    return figure


def _bytes(x: Tensor) -> np.ndarray:
    """Images (R, K, C, H, W) in [-1, 1] to bytes (R, K, H, W, 3)."""
    x = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return x.movedim(-3, -1).expand(*x.shape[:2], *x.shape[-2:], 3).numpy()


def _montage(x: np.ndarray, zoom: int, every: int, gap: int = 2, more: int = 8):
    """The white page (height, width, 3) with the tiles on it, and the offsets of rows and columns."""
    rows, columns, height, width, _ = x.shape
    tops = [r * (height * zoom + gap) + (r // every * more if every else 0) for r in range(rows)]
    lefts = [c * (width * zoom + gap) for c in range(columns)]
    page = np.full((tops[-1] + height * zoom, lefts[-1] + width * zoom, 3), 255, np.uint8)
    for r, top in enumerate(tops):
        for c, left in enumerate(lefts):
            page[top : top + height * zoom, left : left + width * zoom] = x[r, c].repeat(zoom, 0).repeat(zoom, 1)
    return page, tops, lefts


# ----------------------------------------------------------------------------------------------------------- points


def _panels(rows: int, columns: int, side: float, bottom: float = 0.1) -> tuple[Figure, np.ndarray]:
    """A figure and its bare square panels (rows, columns), `side` inches each, with `bottom` inches below each for a legend."""
    width, height = columns * side, rows * (side + 0.28 + bottom)
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.012, bottom / height, 0.988, 1 - 0.26 / height, 0.04, (0.28 + bottom) / side)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[], box_aspect=1)
        panel.spines[:].set(color=RULE, linewidth=0.8)
    return figure, axes


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, size=9.5, color=INK, loc="left", pad=5)


def _scatter(axes: Axes, points: np.ndarray, color, size: float = 9, **options) -> None:
    options = {"linewidths": 0, "alpha": 0.85} | options
    axes.scatter(points[:, 0], points[:, 1], s=size, c=color, **options)


def _frame(axes: Axes, points: np.ndarray, margin: float = 0.12) -> None:
    """Square limits around these points; what is drawn outside of them is cut."""
    centre = (points.max(0) + points.min(0)) / 2
    half = (1 + margin) * max(float((points.max(0) - points.min(0)).max()) / 2, 1e-6)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))


def _legend(figure: Figure, labels: Sequence[str], colors: Sequence, columns: int, y: float = 0) -> None:
    """Dots with names, centred, read row by row, whose lower edge is at the height y (0 to 1)."""
    options = {"linestyle": "", "marker": "o", "markersize": 5}
    handles = [Line2D([], [], color=color, label=name, **options) for name, color in zip(labels, colors, strict=True)]
    # matplotlib fills columns first; the rows of a table that is filled so are every `columns`-th entry.
    handles = [handle for c in range(columns) for handle in handles[c::columns]]
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, y), ncols=columns, frameon=False, fontsize=8,
        handletextpad=0.1, columnspacing=0.9, labelcolor=MUTED, borderaxespad=0.2,
    )  # fmt: skip


def _colours(classes: Tensor | None, n: int) -> np.ndarray:
    """One colour (n, 3) per example: by its class, cyclic beyond ten, or the first one where there are no classes."""
    palette = np.array([to_rgb(color) for color in PALETTE])
    return palette[np.zeros(n, int) if classes is None else classes.cpu().numpy() % len(palette)]


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().flatten(1).numpy()


# ---------------------------------------------------------------------------------------------------------- figures


def samples(x: Tensor, data: Tensor, title: str = "") -> Figure:
    """What the model dreams: a grid of images, or points over the data.

    x: (B, C, H, W) in [-1, 1], the first 100 are shown; or (B, 2). data: (n, *) likewise; it sets a plane's limits.
    """
    if x.ndim == 4:
        columns = min(10, len(x))
        shown = x[: min(100, len(x) // columns * columns)]
        return image_grid(shown.unflatten(0, (-1, columns)), title)
    figure, axes = _panels(1, 1, 4.6, bottom=0.3)
    _over_data(axes[0, 0], x, data)
    _title(axes[0, 0], title)
    _legend(figure, ["data", "samples"], [DATA, PALETTE[0]], 2)
    return figure


def _over_data(axes: Axes, x: Tensor, data: Tensor) -> None:
    _scatter(axes, _flat(data), DATA, 6, alpha=1)
    _scatter(axes, _flat(x), PALETTE[0], 6, alpha=0.7)
    _frame(axes, _flat(data))


def chain(states: Mapping[int, Tensor], data: Tensor, N: int, title: str = "") -> Figure:
    """The chain's x at some steps: for images a row per chain (ten of them), for points a panel per step.

    states: i -> x of the same chains, (B, C, H, W) in [-1, 1] or (B, 2). data: (n, *), sets a plane's limits.
    """
    labels = [_step(i, N) for i in states]
    x = torch.stack([values.detach().cpu() for values in states.values()], 1)
    if x.ndim == 5:
        return image_grid(x[:10], title, columns=labels)
    figure, axes = _panels(-(-len(states) // 3), 3, 2.1, bottom=0.04)
    for panel, label, values in zip(axes.flat, labels, states.values(), strict=False):
        _over_data(panel, values, data)
        _title(panel, label)
    for panel in axes.flat[len(states) :]:
        panel.set_visible(False)
    return figure


def _step(i: int, N: int) -> str:
    return f"N = {i}" if i == N else f"i = {i}"


def embedding(
    states: Mapping[int, Tensor],
    data: Tensor,
    classes: Mapping[int, Tensor] | None,
    labels: Tensor | None,
    N: int,
    seed: int = 0,
    title: str = "",
) -> Figure:
    """The chain at some steps beside data in one plane: coloured by step above, by class below.

    t-SNE of all points together; values of two dimensions are drawn as they are.

    Arguments:
        states: i -> values of the chains at step i, (B, *). data: the same kind of values of real examples, (n, *).
        classes: i -> the judge's class of each, (B,), and labels: the data's, (n,); None where there are none.
        seed: of t-SNE.
    """
    values = np.concatenate([_flat(data), *map(_flat, states.values())])
    plane = embed(values, seed)
    cuts = np.cumsum([len(data), *map(len, states.values())])
    real, *chains = np.split(plane, cuts[:-1])
    figure, axes = _panels(2, 1, 4.6, bottom=0.52)
    above, below = axes[:, 0]
    ramp = colormaps["plasma"](np.linspace(0, 0.9, len(chains)))[:, :3]
    # Drawn in a random order: the last step would hide the others wherever a chain has stayed.
    order = np.random.default_rng(0).permutation(len(plane) - len(real))
    walked = np.concatenate(chains)[order]
    steps = ramp.repeat([len(points) for points in chains], 0)
    kinds = _colours(None if classes is None else torch.cat([classes[i] for i in states]), len(walked))
    _scatter(above, real, DATA, 11, alpha=1)
    _scatter(above, walked, steps[order], 11)
    _scatter(below, real, _colours(labels, len(real)), 15, marker="x", linewidths=0.8, alpha=0.6)
    _scatter(below, walked, kinds[order], 11)
    for panel in (above, below):
        _frame(panel, plane, 0.06)
    _title(above, f"{title}, by step")
    _title(below, f"{title}, by class: samples ●, data ×")
    _legend(figure, ["data", *(_step(i, N) for i in states)], [DATA, *ramp], 5, y=0.5)
    if classes is not None:
        _class_legend(figure, labels)
    return figure


def _class_legend(figure: Figure, labels: Tensor | None, more: Sequence[tuple[str, str]] = ()) -> None:
    """A dot for each class, where they are few enough to be told apart by colour."""
    known = [] if labels is None else sorted(set(labels.tolist()))
    if known and known[-1] >= len(PALETTE):
        known = []
    names, colors = [str(c) for c in known], [PALETTE[c] for c in known]
    names, colors = names + [name for name, _ in more], colors + [color for _, color in more]
    if names:
        _legend(figure, names, colors, min(len(names), 6))


def embed(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Values (n, d) to a plane (n, 2) by t-SNE from their principal components; d <= 2 as they are."""
    if values.shape[1] <= 2:
        return np.pad(values, ((0, 0), (0, 2 - values.shape[1])))
    n, d = values.shape
    if d > 50 and n > 50:
        values = PCA(50, random_state=seed).fit_transform(values)
    return TSNE(init="pca", perplexity=min(30, (n - 1) / 3), random_state=seed).fit_transform(values)


def latent_plane(means: Tensor, prior: Tensor, labels: Tensor | None, title: str = "") -> Figure:
    """Where data lie in a latent's space: two dimensions as they are, more by the first two principal components.

    means: posterior means or draws, (n, *). prior: draws of the latent without data, (m, *), grey; they set the limits,
    and what lies outside is drawn on the frame. labels: (n,) colours, or None.
    """
    points, prior = _principal(_flat(means), _flat(prior))
    figure, axes = _panels(1, 1, 4.6, bottom=0.52)
    panel = axes[0, 0]
    _frame(panel, prior, 0.05)
    (low, high), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    _scatter(panel, prior, DATA, 8, alpha=0.7)
    _scatter(panel, points.clip([low, bottom], [high, top]), _colours(labels, len(points)), 11, clip_on=False)
    _title(panel, title)
    if means[0].numel() > 2:
        panel.set_xlabel("first principal component", size=8, color=MUTED, labelpad=3)
        panel.set_ylabel("second", size=8, color=MUTED, labelpad=3)
        figure.subplots_adjust(left=0.05, bottom=0.145)
    _class_legend(figure, labels, [("prior", DATA)])
    return figure


def _principal(points: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in the plane of the points' first two principal components."""
    if points.shape[1] <= 2:
        return embed(points), embed(prior)
    axes = PCA(2, random_state=0).fit(points).components_  # whose largest weights scikit-learn makes positive
    return points @ axes.T, prior @ axes.T


def interpolations(x: Tensor, data: Tensor, ends: tuple[Tensor, Tensor], title: str = "") -> Figure:
    """From one real example to another on a straight line between their latents.

    Arguments:
        x: what is decoded along the way, (R, K, C, H, W) in [-1, 1] or (R, K, 2); its ends are reconstructions.
        data: (n, *), sets a plane's limits.
        ends: the real examples, two of shape (R, *), drawn at either side.
    """
    if x.ndim == 5:
        row = torch.cat([ends[0][:, None], x, ends[1][:, None]], 1)
        labels = ["real", "t = 0", *[""] * (x.shape[1] - 2), "t = 1", "real"]
        return image_grid(row, title, columns=labels)
    figure, axes = _panels(1, 1, 4.6, bottom=0.3)
    panel = axes[0, 0]
    _scatter(panel, _flat(data), DATA, 6, alpha=1)
    for path, start, end, color in zip(x.cpu().numpy(), *(_flat(end) for end in ends), _cycle(len(x)), strict=True):
        panel.plot(*path.T, color=color, linewidth=1, alpha=0.8)
        _scatter(panel, np.stack([start, end]), color, 28, edgecolors=INK, linewidths=0.6)
    _frame(panel, _flat(data))
    _title(panel, title)
    _legend(figure, ["data", "real ends of a path"], [DATA, PALETTE[0]], 2)
    return figure


def _cycle(n: int) -> list[str]:
    return [PALETTE[k % len(PALETTE)] for k in range(n)]


def reconstructions(x: Tensor, again: Tensor, data: Tensor, title: str = "") -> Figure:
    """Real examples and what a latent remembers of them: rows of x and of x' alternate; points are joined by lines.

    x, again: (B, C, H, W) in [-1, 1], the first 50 are shown, or (B, 2). data: (n, *), sets a plane's limits.
    """
    if x.ndim == 4:
        columns = min(10, len(x))
        n = min(50, len(x) // columns * columns)
        pairs = torch.stack([v[:n].detach().cpu().unflatten(0, (-1, columns)) for v in (x, again)], 1).flatten(0, 1)
        return image_grid(pairs, title, rows=["x", "x′"] * (n // columns), every=2)
    figure, axes = _panels(1, 1, 4.6, bottom=0.3)
    panel, x, again = axes[0, 0], _flat(x), _flat(again)
    panel.plot(*np.stack([x, again], 1).transpose(2, 1, 0), color=MUTED, linewidth=0.4, alpha=0.5, zorder=0)
    _scatter(panel, x, DATA, 12, alpha=1)
    _scatter(panel, again, PALETTE[0], 8)
    _frame(panel, _flat(data))
    _title(panel, title)
    _legend(figure, ["x", "x′"], [DATA, PALETTE[0]], 2)
    return figure


def fills(columns: Mapping[str, Tensor], held: Tensor | None = None, title: str = "") -> Figure:
    """Real images and what a partially clamped chain makes of them, a row each, at most ten.

    columns: label -> images (B, C, H, W) in [-1, 1]. held: bool, as the images; with it a column "held" is put in after the
    first one, in which what is missing is coloured.
    """
    columns = {name: x[:10].detach().cpu().expand(-1, 3, -1, -1) for name, x in columns.items()}
    if held is not None:
        first, *rest = columns.items()
        colour = 2 * torch.tensor(to_rgb(PALETTE[4])).view(3, 1, 1) - 1
        shown = torch.where(held[:10].cpu().expand(-1, 3, -1, -1), first[1], colour)
        columns = dict([first, ("held", shown), *rest])
    return image_grid(torch.stack(list(columns.values()), 1), title, columns=list(columns))


def by_class(x: Tensor, y: Tensor, classes: int, title: str = "", rows: int = 8) -> Figure:
    """A column for each class (ten at most) of images (n, C, H, W) in [-1, 1] that have the label y, (n,); white where there are
    too few."""
    columns = []
    for k in range(min(classes, 10)):
        mine = x[y == k][:rows].detach().cpu()
        columns.append(torch.cat([mine, mine.new_ones(rows - len(mine), *mine.shape[1:])]))
    return image_grid(torch.stack(columns, 1), title, columns=[str(k) for k in range(len(columns))])


# ------------------------------------------------------------------------------------------------------ all of them


def figures(module, data: DataSet, judge, seed: int = 0, quick: bool = False) -> Iterator[tuple[str, Figure]]:
    """Names and figures of one model: samples, chain, tsne_x, tsne_z, latent_<z>, interpolations, reconstructions_<z>; of one
    with labels, for images, classes_joint, classes_asked, classes_read, edits_y and perhaps edits_a.

    Equal seeds show the same real examples and use the same noise, whenever it is called and whatever the model.

    Arguments:
        module: what has latents, N, trajectory, infer, posterior_mean, reconstruct and decode, as GibbsNet has.
        data: shown are examples of its test split; with `quick`, of its validation split.
        judge: x -> logits (B, classes), or None: then a toy's samples take the class of the nearest mode.
        quick: no embeddings, no interpolations, and chains of 10 steps: for use during training.
    """
    device = _device(module)
    real, labels = _real(data.validation if quick else data.test, data.levels, seed, 1000)
    steps = sorted({*(QUICK_STEPS if quick else STEPS), module.N})
    states = _walk(module, 1000 if real.ndim == 2 else 120, seed, steps)
    x = {i: state["x"] for i, state in states.items()}
    yield "samples", samples(x[module.N], real, f"samples, {_step(module.N, module.N)}")
    yield "chain", chain(x, real, module.N)
    given = {"x": real.to(device)} | ({} if labels is None else {"y": labels.to(device)})
    observed = getattr(module, "labels", [])
    given |= {"a": data.measure(real).to(device)} if "a" in observed else {}
    state = module.infer(given, seed)
    inferred = {z: state[z] for z in module.latents if state[z].is_floating_point()}  # a label has no plane
    if "y" in observed and real.ndim == 4:
        yield from _labelled(module, states[module.N], given, state, seed)
    if not quick:
        yield from _embeddings(module, states, real, inferred, labels, lambda x: _classes(judge, data, x), seed)
    prior = next(iter(module.trajectory(1000, seed)))
    for latent in inferred:
        mean = module.posterior_mean(given, latent, seed)
        yield f"latent_{latent}", latent_plane(mean, prior[latent], labels, f"{latent}, posterior means of data")
    if not quick:
        ends = inferred | {v: state[v] for v in observed}
        path, ends = _between(module, ends, real, seed)
        yield "interpolations", interpolations(path, real, ends, f"between latents {' and '.join(inferred)}")
    for latent in inferred:
        again = module.reconstruct(state, latent, seed)
        yield f"reconstructions_{latent}", reconstructions(real, again, real, f"x and x′ from {latent} alone")


def _labelled(module, joint: State, given: State, state: State, seed: int) -> Iterator[tuple[str, Figure]]:
    """What a model with labels does with them.

    joint: chains that ran freely; given, state: real images with their labels, and what was inferred of them.
    """
    classes = joint["y"].shape[1]
    drawn = joint["y"].argmax(1)
    yield "classes_joint", by_class(joint["x"], drawn, classes, "x and y drawn together: samples by their label")
    y = torch.arange(classes, device=_device(module)).repeat(8)
    asked = next(islice(module.fill({"y": y}, {}, seed), module.N, None))["x"]
    yield "classes_asked", by_class(asked, y, classes, "y clamped: the class that was asked for")
    read = module.posterior_mean({"x": given["x"]}, "y", seed).argmax(1)
    yield "classes_read", by_class(given["x"], read, classes, "x clamped: real images by the class they are read as")
    few = {v: values[:8] for v, values in state.items() if v != "x"}
    columns = {v: {"real": given["x"][:8], "x′": module.edit(few, v, few[v], seed)} for v in module.labels}
    every = torch.eye(classes, device=_device(module), dtype=few["y"].dtype)
    held = {v: ", ".join(z for z in module.latents if z not in module.below(v)) for v in module.labels}
    styles = {str(k): module.edit(few, "y", every[k].expand_as(few["y"]), seed) for k in range(min(classes, 10))}
    yield "edits_y", fills(columns["y"] | styles, title=f"{held['y']} clamped, y changed")
    if "a" in state:
        edits = {f"¬{name}": module.edit(few, "a", _flipped(few["a"], k), seed) for k, name in enumerate(ATTRIBUTES)}
        yield "edits_a", fills(columns["a"] | edits, title=f"{held['a']}, y clamped, a changed")


def _flipped(a: Tensor, k: int) -> Tensor:
    """Attributes (B, K) with bit k the other way."""
    a = a.clone()
    a[:, k] = 1 - a[:, k]
    return a


def _device(module) -> torch.device:
    return getattr(module, "device", torch.device("cpu"))


def _real(split, levels: int, seed: int, most: int) -> tuple[Tensor, Tensor | None]:
    """At most `most` examples in units and their labels, chosen by the seed."""
    chosen = torch.randperm(len(split), generator=Noise(seed, "plots").generator)[:most]
    return units(split.x[chosen], levels), None if split.y is None else split.y[chosen]


def _walk(module, batch: int, seed: int, steps: Sequence[int]) -> dict[int, State]:
    """The states of some unclamped chains at these steps (ascending), on the CPU."""
    walk = enumerate(islice(module.trajectory(batch, seed), steps[-1] + 1))
    return {i: {name: v.detach().cpu() for name, v in state.items()} for i, state in walk if i in steps}


def _classes(judge, data: DataSet, x: Tensor) -> Tensor | None:
    """The class of each x (B,): the judge's, else a toy's nearest mode, else none."""
    if judge is not None:
        with torch.no_grad():
            return judge(x.to(next(judge.parameters()).device)).argmax(1).cpu()
    return None if data.modes is None else torch.cdist(x, data.modes.centres).argmin(1)


def _embeddings(module, states, real, inferred, labels, classify, seed) -> Iterator[tuple[str, Figure]]:
    """t-SNE of x and of the highest of the latents `inferred`; 120 chains a step and 400 data make some 1,200 points."""
    states = {i: {name: v[:120] for name, v in state.items()} for i, state in states.items()}
    labels = None if labels is None else labels[:400]
    classes = {i: classify(state["x"]) for i, state in states.items()}
    classes = None if None in classes.values() else classes
    top = list(inferred)[-1]
    for name, variable, values in (("tsne_x", "x", real), ("tsne_z", top, inferred[top])):
        chains = {i: state[variable] for i, state in states.items()}
        kind = "" if values[0].numel() <= 2 else ", t-SNE"
        yield name, embedding(chains, values[:400], classes, labels, module.N, seed, f"{variable}{kind}")


def _between(module, latents: State, real: Tensor, seed: int, rows: int = 8, columns: int = 9):
    """Decoded lines between pairs of latents, (rows, columns, *), and the real ends.

    All latents move together. Each column is one batch with the same noise, so that along a row nothing else changes.
    """
    rows = min(rows, len(real) // 2)
    first, last = ({z: values[k : k + rows] for z, values in latents.items()} for k in (0, rows))
    line = [{z: torch.lerp(first[z], last[z], t) for z in first} for t in torch.linspace(0, 1, columns).tolist()]
    path = torch.stack([module.decode(state, seed).detach().cpu() for state in line], 1)
    return path, (real[:rows], real[rows : 2 * rows])


# ----------------------------------------------------------------------------------------------------------- sweeps


def parallel(
    trials: Sequence[Mapping], parameters: Sequence[str], metric: str, goal: str, ranges: Mapping[str, bool] = {}
) -> Figure:
    """Parallel coordinates of a sweep: a line per trial through its parameters to its value; dark is good, the best is red.

    Arguments:
        trials: each with params (name -> word), value (finite) and state; those that were stopped early are dashed.
        parameters, metric: the axes, from left to right.
        goal: minimize or maximize.
        ranges: the parameters that are numbers from a range -> whether their axis is logarithmic.
    """
    worst_first = sorted(trials, key=lambda trial: trial["value"], reverse=goal == "minimize")
    values = np.array([trial["value"] for trial in worst_first])
    axes = [_axis([t["params"][name] for t in worst_first], ranges.get(name)) for name in parameters]
    axes.append(_continuous(values, log=values.min() > 0 and values.max() > 5 * values.min()))
    figure = Figure(figsize=(max(5.5, 1.9 * len(axes)), 3.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.set(xlim=(-0.4, len(axes) - 0.7), ylim=(-0.06, 1.06), xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    arrow = "↓" if goal == "minimize" else "↑"
    for x, (name, (_, ticks)) in enumerate(zip([*parameters, f"{metric} {arrow}"], axes, strict=True)):
        _upright(panel, x, name, ticks)
    for k, trial in enumerate(worst_first):
        colour = colormaps["viridis_r"](0.1 + 0.9 * k / max(1, len(worst_first) - 1))
        best = k == len(worst_first) - 1
        panel.plot(
            range(len(axes)), [places[k] for places, _ in axes], color=PALETTE[3] if best else colour,
            linewidth=2 if best else 1.1, alpha=0.9, linestyle="--" if trial["state"] == "stopped" else "-", zorder=2 + best,
        )  # fmt: skip
    return figure


def _upright(panel: Axes, x: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    """One axis of many: its name above, its ticks to the left."""
    panel.plot([x, x], [0, 1], color=MUTED, linewidth=0.8, zorder=1)
    panel.text(x, 1.09, name, size=8.5, color=INK, ha="center", va="bottom")
    for y, label in ticks:
        panel.plot([x - 0.02, x], [y, y], color=MUTED, linewidth=0.8, zorder=1)
        panel.text(
            x - 0.04, y, label, size=7.5, color=MUTED, ha="right", va="center",
            path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=5,
        )  # fmt: skip


def _axis(words: Sequence[str], log: bool | None) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Where each word stands on an axis from 0 to 1, and the axis's ticks: evenly spaced where it is no range."""
    if log is not None:
        return _continuous(np.array(words, float), log)
    known = sorted(set(words), key=lambda word: (word[:1] == "[", [float(n) for n in NUMBERS.findall(word)], word))
    centres = dict(zip(known, (np.arange(len(known)) + 0.5) / len(known), strict=True))
    # Lines through one word lie side by side, in the order of their values, so that each can be followed.
    places = np.empty(len(words))
    for word in known:
        same = [k for k, other in enumerate(words) if other == word]
        places[same] = centres[word] + np.linspace(-0.25, 0.25, len(same) + 2)[1:-1] / len(known)
    return places, [(centre, word) for word, centre in centres.items()]


def _continuous(values: np.ndarray, log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    low, high = values.min(), values.max()
    place = np.log if log else np.asarray
    span = float(place(high) - place(low)) or 1.0
    marks = np.exp(np.linspace(np.log(low), np.log(high), 5)) if log else np.linspace(low, high, 5)
    return (place(values) - place(low)) / span, [(float(place(m) - place(low)) / span, f"{m:.3g}") for m in marks]


# ------------------------------------------------------------------------------------------------------------ files


def save(figure: Figure, path: str | Path) -> None:
    """Writes a PNG whose bytes depend on the figure alone, at most about 200 KiB, whole or not at all.

    Larger pictures are reduced to 256 colours.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    if buffer.tell() > LIMIT:
        picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        picture.save(buffer, format="png", optimize=True)
    write(path, buffer.getvalue())


def write(path: str | Path, content: bytes) -> None:
    """Writes a file whole or not at all, and its folder where there is none."""
    replace(Path(path), lambda draft: draft.write_bytes(content))
