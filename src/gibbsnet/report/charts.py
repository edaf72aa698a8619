"""Curves as SVG: scores over the steps of the chain, and the record of training."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from statistics import median

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from gibbsnet.plots import INK, MUTED, RULE
from gibbsnet.report.runs import Run
from gibbsnet.report.scores import Comparison, Spread, meaning, reference_spreads, scores, spreads, steps

OVER_STEPS = ("class_frechet_ratio", "class_score", "joint_distance", "share", "sliced_wasserstein")
DISTANCES = {
    "class_frechet_ratio",
    "joint_distance",
    "sliced_wasserstein",
}  # of models and steps by factors, not by differences
FOLLOWED = "val/distance"
POINTS = 300  # per curve: more cannot be seen
PANELS = 8

# Okabe and Ito's colours without black and yellow, for lines on white, and seven that can be told from them and from grey.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#332288",
    "#9467bd",
    "#882255",
    "#999933",
    "#8c564b",
    "#7fbf00",
    "#ff6f91",
)

CROWD = 6  # models; of more, each row of panels shows a few
FEW = 5
LONGEST = 40  # letters of a name in a legend
AWAY = 15  # pixels from its dots' middle at which a name no longer tells by itself whose they are
DOT = 3  # pixels from a dot's middle within which no name should lie


def colours(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model, the same in every chart of a page; of more models than colours the next have them darker."""
    return {model: _darker(*reversed(divmod(k, len(COLOURS)))) for k, model in enumerate(sorted(models))}


def _darker(which: int, times: int) -> str:
    return to_hex([0.55**times * part for part in to_rgb(COLOURS[which])])


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "gibbsnet"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def over_steps(
    comparison: Comparison, palette: Mapping[str, str], base: str | None = None, named: bool = False
) -> Figure | None:
    """Scores of the unclamped chain at its steps i: medians as lines, seeds as bands, references as dashes.

    Of more than CROWD models every row of panels shows a few, named beside it, before the medians of the others in grey.

    base: a model that every row shows.
    named: fewer models are named too, below the panels.
    """
    at = steps(comparison)
    curves = {name: found for name in OVER_STEPS if (found := _over_steps(comparison, name, at))}
    if not curves or len(at) < 2:
        return None
    rows = _rows(list(palette), base)
    columns = len(curves) if len(rows) > 1 else min(max(len(curves), 2), 3)
    figure, axes = _panels(len(curves) * len(rows), columns)
    for k, few in enumerate(rows):
        row = axes[k * len(curves) : (k + 1) * len(curves)]
        for panel, first, (name, found) in zip(row, axes, curves.items(), strict=False):
            _over_steps_panel(panel, first, comparison, name, found, {m: c for m, c in palette.items() if m in few})
        if len(rows) > 1:
            _names(row[-1], {m: palette[m] for m in few}, loc="center left", bbox_to_anchor=(1, 0.5))
    for first, (name, found) in zip(axes, curves.items(), strict=False):
        _scores_axis(first, name, _edge(found, name))
    if named and len(rows) == 1:
        _names_below(figure, palette)
    figure.draw_without_rendering()  # only now is it known where things are
    for panel in axes:
        _clear_of_curves(panel)
    return figure


def _over_steps(comparison: Comparison, name: str, at: Sequence[int]) -> dict[str, dict[int, Spread]]:
    """Model -> its spread at each step that has one."""
    found = {i: spreads(comparison, ("chain", str(i), name)) for i in at}
    models = {m: {i: by[m] for i, by in found.items() if m in by} for m in comparison.models}
    return {m: curve for m, curve in models.items() if curve}


def _over_steps_panel(
    panel: Axes,
    first: Axes,
    comparison: Comparison,
    name: str,
    curves: Mapping[str, Mapping[int, Spread]],
    palette: Mapping[str, str],
) -> None:
    """One score's curves, those of the palette in colour, on the axis of the first row."""
    if name in DISTANCES:
        panel.set_yscale("log")  # before anything is drawn: on a linear axis the 0 where a band begins would count
    if panel is not first:
        panel.sharey(first)
    _title(panel, name)
    at = steps(comparison)
    _references(panel, comparison, name, at, _edge(curves, name))
    for model, curve in curves.items():
        _line(panel, curve, palette.get(model))
    _steps_axis(panel, at)


def _rows(models: Sequence[str], base: str | None) -> list[Sequence[str]]:
    """All models together or, where they are a crowd, in their order, as even as can be: at most FEW to a row beside the base."""
    if len(models) <= CROWD:
        return [models]
    others = [m for m in models if m != base]
    n = -(-len(others) // FEW)
    ends = [k * len(others) // n for k in range(n + 1)]
    return [[m for m in models if m == base] + others[start:end] for start, end in pairwise(ends)]


def _names(place: Axes | Figure, palette: Mapping[str, str], fontsize: float = 8, **where) -> Legend:
    """A legend; long names are cut in their middle, or the panels would have no room."""
    cut = {m: m if len(m) <= LONGEST else f"{m[: LONGEST // 2]}…{m[1 - LONGEST // 2 :]}" for m in palette}
    lines = [Line2D([], [], color=c, marker="o", markersize=3.5, label=cut[m]) for m, c in palette.items()]
    legend = place.legend(handles=lines, frameon=False, fontsize=fontsize, labelcolor=MUTED, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def _names_below(figure: Figure, palette: Mapping[str, str]) -> None:
    """A legend below the panels, in as many columns as fit between the edges."""
    for columns in range(min(len(palette), 6), 0, -1):
        legend = _names(figure, palette, 8.5, loc="outside lower center", ncols=columns)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def memory(comparison: Comparison, palette: dict[str, str], at: Sequence[int] = (1, 1000)) -> Figure | None:
    """How near each run's chain is after so many sweeps, over how faithfully its latent keeps an example; a dot per run.

    A chain that remembers adds its errors up, one that forgets has nothing to add: distances of chains compare at equal memory.
    Nearness is class_frechet_ratio or, of toys, joint_distance; of several latents the most faithful counts.  A run without
    finite numbers of both has no dot; None where fewer than two models have dots at each of the steps.
    """
    judged = any(row[-1] == "class_frechet_ratio" for run in comparison.runs for row in scores(run))
    name = "class_frechet_ratio" if judged else "joint_distance"
    found = {i: {m: dots for m in palette if (dots := _remembered(comparison.models.get(m, []), i, name))} for i in at}
    if any(len(models) < 2 for models in found.values()):
        return None
    figure, axes = _panels(len(at), columns=2)
    figure.set_figheight(max(4, 0.45 * max(map(len, found.values()))))  # room for the names of many
    for panel, (i, models) in zip(axes, found.items(), strict=True):
        _title(panel, name, f" after {i} sweep{'s' * (i > 1)}")
        panel.set_xlabel("share of test examples whose reconstruction keeps its class or mode", size=8, color=MUTED)
        for model, dots in models.items():
            panel.scatter(*zip(*dots, strict=True), s=16, color=palette[model], linewidths=0, zorder=3)
        _scores_axis(panel, name, 0)
        _at_least(panel)
    figure.draw_without_rendering()  # the layout, by which names are placed
    for panel, models in zip(axes, found.values(), strict=True):
        _names_of(panel, models, palette)
    return figure


def _remembered(runs: Sequence[Run], i: int, name: str) -> list[tuple[float, float]]:
    """(share kept, distance after i sweeps) of those runs that have both."""
    found = []
    for every in map(scores, runs):
        kept = [
            v for row, v in every.items() if row[0] == "reconstruction" and row[-1] == "same_class" and math.isfinite(v)
        ]
        near = every.get(("chain", str(i), name), math.nan)
        found += [(max(kept), near)] if kept and math.isfinite(near) and near > 0 else []
    return found


def _at_least(panel: Axes) -> None:
    """Room for names, and no axis so short that two seeds fill it: at least a quarter across and a factor of four up."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    across, up = max(0.0, 0.25 - (right - left)) / 2 + 0.03, max(1.0, 4 * low / high) ** 0.5
    panel.set(xlim=(max(left - across, -0.03), min(right + across, 1.03)), ylim=(low / up, high * up))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))


def _names_of(panel: Axes, models: Mapping[str, Sequence[tuple[float, float]]], palette: Mapping[str, str]) -> None:
    """Each model's name by the middle of its dots, from the lowest up, see `_beside`; a hairline leads those that stand off."""
    middles = {m: tuple(map(median, zip(*dots, strict=True))) for m, dots in models.items()}
    halo = [withStroke(linewidth=2, foreground="white")]
    places = panel.transData.transform([dot for dots in models.values() for dot in dots])
    dots = [Bbox.from_extents(x, y, x, y).padded(DOT) for x, y in places]
    placed, frame = [], panel.get_window_extent()
    for model, middle in sorted(middles.items(), key=lambda item: item[1][1]):
        text = panel.annotate(
            model, middle, (0, 4), textcoords="offset points", color=palette[model], fontsize=7.5, ha="center",
            zorder=2, path_effects=halo, parse_math=False, annotation_clip=False,  # under the dots: none is hidden
        )  # fmt: skip
        text.set_in_layout(False)
        free = _drawn(text)
        box = _beside(free, frame, dots, placed)
        right, up = ((end - start) * 72 / panel.figure.dpi for start, end in zip(free.p0, box.p0, strict=True))
        text.set_position((right, 4 + up))
        placed.append(box)
        _lead(panel, box, middle, palette[model])


def _lead(panel: Axes, box: Bbox, to: tuple[float, float], color: str) -> None:
    """A hairline from a name's box to a place of the panel, unless the one stands by the other."""
    place = panel.transData.transform(to)
    start = np.clip(place, box.min, box.max)
    if np.hypot(*(place - start)) > AWAY:
        x, y = panel.transData.inverted().transform([start, place]).T
        panel.add_line(Line2D(x, y, color=color, linewidth=0.5, alpha=0.7, zorder=1.8))


def _drawn(text: Text) -> Bbox:
    """Where a name is drawn: with a halo as a path, which is wider than the hinted letters by which its extent is measured."""
    box = text.get_window_extent()
    plain = text.get_text().replace("$", r"\$")
    path = TextPath((0, 0), plain, size=text.get_fontsize() * text.figure.dpi / 72)
    return Bbox.from_bounds(box.x0, box.y0, max(box.width, path.get_extents().x1), box.height)


def _beside(free: Bbox, frame: Bbox, dots: Sequence[Bbox], placed: Sequence[Bbox]) -> Bbox:
    """Where a name stands: as it is, else below, right or left of its place, or farther, if there no dot and no other name lies;
    if there is no such place, above the names that it would lie on. One that would leave the panel is moved back."""
    right, up = free.width / 2 + 2 * DOT, free.height + 4 * DOT
    around = [
        (0, 0),
        (0, -up),
        (right, -up / 2),
        (-right, -up / 2),
        (right, 0),
        (-right, 0),
        (right, -up),
        (-right, -up),
    ]
    for times in (1, 2):
        for x, y in around:
            box = _within(frame, free.translated(times * x, times * y))
            if not any(box.overlaps(other) for other in (*dots, *placed)):
                return box
    box = _within(frame, free)
    for other in sorted(placed, key=lambda other: other.y0):
        if box.overlaps(other):
            box = box.translated(0, other.y1 + 1 - box.y0)
    return box


def _within(frame: Bbox, box: Bbox) -> Bbox:
    """The box moved back between the frame's left and right, and not below its bottom."""
    across = min(0, frame.x1 - box.x1) + max(0, frame.x0 - box.x0)
    return box.translated(across, max(0, frame.y0 - box.y0))


def _line(panel: Axes, curve: Mapping[int, Spread], color: str | None) -> None:
    """A model's medians over the steps and, where there are several, the band of its seeds; without a color medians in grey."""
    x, values = [_place(i) for i in curve], list(curve.values())
    medians = [v.median for v in values]
    if color is None:
        panel.plot(x, medians, color=RULE, linewidth=1, zorder=1.5)
        return
    panel.plot(x, medians, color=color, marker="o", markersize=3.5, linewidth=1.6, zorder=3)
    if any(v.n > 1 for v in values):
        panel.fill_between(x, [v.low for v in values], [v.high for v in values], color=color, alpha=0.15, linewidth=0)


def _place(i: int) -> float:
    """Where step i stands: logarithmic, with room for 0."""
    return math.log10(i) if i else -0.6


def _steps_axis(panel: Axes, at: Sequence[int]) -> None:
    apart = _apart(at)
    panel.xaxis.set_major_locator(FixedLocator([_place(i) for i in apart]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(i) for i in apart])
    panel.set_xlabel("step i of the chain", size=8, color=MUTED)
    panel.set_xlim(_place(at[0]) - 0.15, _place(at[-1]) + 0.15)


def _apart(at: Sequence[int]) -> list[int]:
    """The steps written at the axis, clear of each other: the last one before all, then 0 and powers of ten, then the others."""
    room = 0.09 * (_place(at[-1]) - _place(at[0]))
    round_ones = [i for i in at if i == 0 or math.log10(i).is_integer()]
    shown = []
    for i in (at[-1], *round_ones, *at):
        if all(abs(_place(i) - _place(other)) > room for other in shown):
            shown.append(i)
    return sorted(shown)


def _references(panel: Axes, comparison: Comparison, name: str, at: Sequence[int], edge: float) -> None:
    """Dashed lines with their names; for the joint distance also the band that cannot be told from real pairs.

    Those below the edge of the axis are named there, with their values: on their account the curves would share the upper third.
    """
    found = reference_spreads(comparison, ("chain", str(at[-1]), name)).items()
    found = sorted((spread.median, reference) for reference, spread in found if math.isfinite(spread.median))
    if below := [f"{_words(reference)} {value:.2g}" for value, reference in found if value < edge]:
        _name(panel, f"below: {', '.join(below)}", (1, 0), "axes fraction")
    for k, (value, reference) in enumerate(pair for pair in found if pair[0] >= edge):
        if (name, reference) == ("joint_distance", "test"):
            panel.axhspan(0, value, color=RULE, alpha=0.5, linewidth=0, zorder=0)
        panel.axhline(value, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        _name(panel, _words(reference), ((1, 0)[k % 2], value), ("axes fraction", "data"))


def _words(reference: str) -> str:
    return reference.replace("_", " ")


def _name(panel: Axes, text: str, place: tuple[float, float], coordinates: str | tuple[str, str]) -> None:
    """A reference's name above its line, at the right end or, where the one below it writes there, at the left."""
    name = panel.annotate(
        text, place, (0, 0), xycoords=coordinates, textcoords="offset points", size=7.5, color=MUTED, va="bottom",
        path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=2,  # under the curves: no name hides a point
    )  # fmt: skip
    _put(name, place[0], up=True)


def _put(name: Annotation, at: float, up: bool) -> None:
    """Puts a reference's name at the left end of its line, 0, its middle, 0.5, or its right end, 1; above it or below."""
    name.xy = (at, name.xy[1])
    place = (2 - 4 * at, 2 if up else -2)
    name.set(position=place, ha=("left", "center", "right")[int(2 * at)], va="bottom" if up else "top")


def _clear_of_curves(panel: Axes) -> None:
    """Moves a reference's name to its line's other end, its middle, or below it, where fewer curves, no other reference's line
    and no other name are."""
    placed = []
    for name in panel.texts:
        usual, tried = name.xy[0], []
        for up, at in product((True, False), (usual, 1 - usual, 0.5)):
            _put(name, at, up)
            box = name.get_window_extent().padded(DOT)
            out = not panel.bbox.y0 - DOT <= box.y0 < box.y1 <= panel.bbox.y1 + 2 * DOT
            taken = out or any(map(box.overlaps, placed)) or _crossed(panel, name, box)
            tried.append((taken, _passing(panel, box), len(tried), at, up, box))
        *_, at, up, box = min(tried, key=lambda found: found[:3])
        _put(name, at, up)
        placed.append(box)


def _crossed(panel: Axes, name: Annotation, box: Bbox) -> bool:
    """Whether another reference's line than its own runs through a name's box."""
    others = {line.get_ydata()[0] for line in panel.lines if line.get_linestyle() != "-"} - {name.xy[1]}
    return any(box.y0 < panel.transData.transform((0, y))[1] < box.y1 for y in others)


def _passing(panel: Axes, box: Bbox) -> int:
    """How much of the panel's curves in colour lies in a box, in twentieths of the way from one step to the next."""
    drawn = [line.get_path() for line in panel.lines if line.get_marker() == "o"]
    return sum(box.count_contains(panel.transData.transform_path(path).interpolated(20).vertices) for path in drawn)


def _edge(curves: Mapping[str, Mapping[int, Spread]], name: str) -> float:
    """What a distance's axis does not go below: a tenth of the least positive value, over steps, models and seeds."""
    if name not in DISTANCES:
        return -math.inf
    lows = [spread.low for curve in curves.values() for spread in curve.values()]
    return min((low for low in lows if 0 < low < math.inf), default=-math.inf) / 10


def _scores_axis(panel: Axes, name: str, edge: float) -> None:
    """Distances on a logarithmic axis: linear, one bad start would make all else a line at the bottom."""
    if name in DISTANCES:
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        low = max(low, edge)
        panel.set_ylim(low, high * (high / low) ** 0.06)
        # Within a decade 1, 2 and 5 alone may leave a single label.
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
        return
    low, high = panel.get_ylim()
    panel.set_ylim(0 if 0 <= low < 0.25 * high else low, high + 0.06 * (high - low))


def training(comparison: Comparison, palette: dict[str, str]) -> Figure | None:
    """What history.jsonl recorded, over images seen: a line per run, panels of equal names."""
    names = recorded(comparison.runs)[:PANELS]
    if not names:
        return None
    figure, axes = _panels(len(names), columns=4)
    for panel, name in zip(axes, names, strict=True):
        _title(panel, name)
        for model, color in palette.items():
            for run in comparison.models.get(model, []):
                _record(panel, run, name, color)
        panel.set_xlabel("images seen", size=8, color=MUTED)
        panel.xaxis.set_major_formatter(FuncFormatter(_short))
        panel.locator_params(axis="x", nbins=4)
    return figure


def recorded(runs: Sequence[Run]) -> list[str]:
    """Names with two numbers or more in some run's history: scores first, then what training itself reports.

    Of val/distance, which is another score by the name that picks best.ckpt, only where that score is not in the history.
    """
    names = {name for run in runs for row in run.history for name in row} - {"step", "images_seen", "epoch"}
    curves = {name: [_curve(run, name) for run in runs] for name in names}
    curves = {name: drawn for name, drawn in curves.items() if any(len(x) > 1 for x, _ in drawn)}
    followed = curves.pop(FOLLOWED, None)
    if followed and not any(name.startswith("val/") and drawn == followed for name, drawn in curves.items()):
        curves[FOLLOWED] = followed
    known = {name: k for k, name in enumerate(OVER_STEPS)}

    def place(name: str):
        leaf = name.split("/")[-1]
        return name.startswith("train/"), known.get(leaf, len(known)), "loss" not in leaf, name

    return sorted(curves, key=place)


def _curve(run: Run, name: str) -> tuple[list[float], list[float]]:
    points = [(row.get("images_seen"), row.get(name)) for row in run.history]
    points = [(x, y) for x, y in points if _is_number(x) and _is_number(y)]
    return [x for x, _ in points], [y for _, y in points]


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _record(panel: Axes, run: Run, name: str, color: str) -> None:
    x, y = _curve(run, name)
    span = -(-len(x) // POINTS) or 1  # the mean of so many points is one
    x, y = ([sum(v[k : k + span]) / len(v[k : k + span]) for k in range(0, len(v), span)] for v in (x, y))
    panel.plot(x, y, color=color, linewidth=1.1, alpha=0.8)


def _short(value: float, _=None) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _panels(n: int, columns: int) -> tuple[Figure, list[Axes]]:
    rows, width = -(-n // columns), 12
    figure = Figure(figsize=(width, 2.7 * rows if columns < 4 else 2.15 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08, wspace=0.02)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(RULE)
        panel.tick_params(colors=MUTED, labelsize=8, length=3, color=RULE)
        panel.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.6)
    for panel in axes[n:]:
        panel.set_visible(False)
    return figure, axes[:n]


def _title(panel: Axes, name: str, more: str = "") -> None:
    arrow = {1: "  ↑", -1: "  ↓", 0: ""}[meaning((name.split("/")[-1],)).better]
    panel.set_title(name + more + arrow, size=9.5, color=INK, loc="left")
