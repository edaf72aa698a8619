"""The page: runs to one HTML document that needs nothing but itself."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence

from omegaconf import OmegaConf

from gibbsnet.report.charts import CROWD, colours, memory, over_steps, svg, training
from gibbsnet.report.html import Markup, join, raw, tag
from gibbsnet.report.records import Record, shown_records
from gibbsnet.report.runs import Run, command, conditions, differences, flatten
from gibbsnet.report.scores import (
    Comparison,
    Path,
    Spread,
    best,
    compare,
    meaning,
    reference_spreads,
    rows,
    scores,
    spreads,
    steps,
)
from gibbsnet.report.style import STYLE
from gibbsnet.report.summary import Entry, Finding, findings
from gibbsnet.report.sweeps import Sweep, shown_sweep
from gibbsnet.report.words import CONDITIONS, MEASUREMENTS, PICTURES, REFERENCES, SCORES

TITLE = "Adversarially learned joint models"
ABOUT = (
    "ALI, HALI and GibbsNet learn to draw data x together with latents z, and to infer z from x, by a game: a critic tells "
    "pairs (x, z) that start from data from pairs that the model dreams. ALI and HALI dream in one pass from the prior; "
    "GibbsNet runs a chain of N sweeps between x and z. The question of this page is what that chain buys: better samples, "
    "better latents, a chain that keeps going. Models of one experiment share data, networks and classifier. Samples are held "
    "against the training set, codes and reconstructions are of test images that no training saw; numbers are medians over "
    "seeds with [lowest, highest] below."
)
SECTIONS = {
    "samples": "Samples at i = N",
    "chain": "Chain",
    "latent": "Latents",
    "reconstruction": "Reconstruction from one latent",
}
ARROWS = {1: "↑", -1: "↓", 0: ""}
SHOWN = (0, 1, 3, 10, 30, 100, 300, 1000)  # of what was measured at every step of a chain


def page(runs: Sequence[Run], sweeps: Sequence[Sweep] = (), records: Sequence[Record] = ()) -> str:
    """The whole document; damaged runs are listed, the others compared, and below them the sweeps and the recorded results."""
    sound = [run for run in runs if not run.damage]
    comparisons = compare(sound)
    palette = colours({run.model for run in sound})
    body = [
        tag("header", tag("h1", TITLE), tag("p", ABOUT, class_="lead"), _counts(runs, comparisons, sweeps, records)),
        _in_short(comparisons),
        *(_comparison(comparison, palette) for comparison in comparisons),
        *(shown_sweep(sweep, _png) for sweep in sweeps),
        shown_records(records, _png),
        _troubles(runs),
        _all_runs(sound),
        _glossary(comparisons),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", TITLE),
        tag("style", raw(STYLE)),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", tag("main", *body)), lang="en") + "\n"


def _counts(
    runs: Sequence[Run], comparisons: Sequence[Comparison], sweeps: Sequence[Sweep], records: Sequence[Record]
) -> Markup:
    """How much there is, with links to each experiment."""
    links = [tag("a", _name(c), href=f"#{c.anchor}") for c in comparisons]
    links += [tag("a", f"sweep {sweep.folder.name}", href=f"#{sweep.anchor}") for sweep in sweeps]
    links += [tag("a", "recorded results", href="#records")] * bool(records)
    links += [tag("a", "runs", href="#runs")] * any(not run.damage for run in runs)
    more = [tag("a", "what the numbers mean", href="#glossary")]
    return tag("nav", tag("span", f"{len(runs)} run{'s' * (len(runs) != 1)}"), *links, *more)


def _name(comparison: Comparison) -> str:
    return comparison.data if comparison.experiment == "default" else f"{comparison.data} · {comparison.experiment}"


# ---------------------------------------------------------------------------------------------------------- in short


def _in_short(comparisons: Sequence[Comparison]) -> Markup | None:
    """The findings of every comparison."""
    parts = []
    for comparison in comparisons:
        found = list(findings(comparison))
        if found:
            parts += [tag("h3", _name(comparison)), tag("ul", *(tag("li", *_sentence(f)) for f in found))]
    return tag("section", tag("h2", "In short"), *parts, class_="short") if parts else None


def _sentence(finding: Finding) -> Iterator[str]:
    """Lead: the first (its number), then the others; references; caveats."""
    first, *others = finding.ranking
    places = meaning(first.row).places
    yield f"{finding.lead}: "
    yield tag("b", _entry_name(first))
    yield f" {_number(first.spread.median, places)}"
    if first.spread.n > 1:
        yield f" {_range(first.spread, places)}"
    if others:
        yield ", then " + ", ".join(f"{_entry_name(e)} {_number(e.spread.median, places)}" for e in others)
    yield " ("
    yield _score_link(first.row[-1])
    yield f"{_direction(first.row)})"
    if finding.beside:
        named = (f"{name.replace('_', ' ')} {_number(s.median, places)}" for name, s in finding.beside.items())
        yield tag("span", f". For comparison: {', '.join(named)}", class_="muted")
    yield "."
    if finding.notes:
        yield tag("span", f" Note: {'; '.join(finding.notes)}.", class_="note")


def _direction(row: Path) -> str:
    return {1: ", higher is better", -1: ", lower is better", 0: ""}[meaning(row).better]


def _entry_name(entry: Entry) -> str:
    return f"{entry.model} {entry.row[1]}" if entry.row[0] in ("latent", "reconstruction") else entry.model


# -------------------------------------------------------------------------------------------------------- comparison


def _comparison(comparison: Comparison, palette: dict[str, str]) -> Markup:
    """One experiment on one data set: tables, curves, pictures."""
    mine = {model: color for model, color in palette.items() if model in comparison.models}
    legend = [tag("span", _dot(color), model, class_="model") for model, color in mine.items()]
    return tag(
        "section",
        tag("h2", _name(comparison)),
        *_warnings(comparison),
        _scores(comparison, mine),
        _along_the_chain(comparison, mine, legend),
        _curves("Memory and drift", memory(comparison, mine), [], MEMORY_CAPTION),
        _curves("During training", training(comparison, mine), legend, TRAINING_CAPTION),
        *_pictures(comparison, mine),
        *_drawn(comparison, mine),
        *_measured(comparison, mine),
        id=comparison.anchor,
    )


def _along_the_chain(comparison: Comparison, palette: dict[str, str], legend: Sequence[Markup]) -> Markup | None:
    """The chart over steps; that of a crowd names its models itself."""
    crowd = len(palette) > CROWD
    caption = CHAIN_CAPTION + crowd * CROWD_CAPTION
    return _curves("Along the chain", over_steps(comparison, palette), [] if crowd else legend, caption)


CHAIN_CAPTION = (
    "Each score of the unclamped chain at its steps i, on a logarithmic axis. Lines are medians over seeds, bands reach from "
    "the lowest to the highest seed, dashes are references."
)
CROWD_CAPTION = " Each row shows a few models, the others in grey."
MEMORY_CAPTION = (
    "A dot per run: how near its chain is, over how much of an example its latent keeps. A chain that remembers adds its errors "
    "up, one that forgets has nothing to add: compare distances at equal memory."
)
DRAWN_CAPTION = (
    "Pictures that `python -m gibbsnet sample run=...` left in the runs' folders: chains that hold parts of real images or "
    "values of labels, or that stand in a mode of being."
)
TRAINING_CAPTION = "What was recorded during training, one line per run. Losses of different games do not compare."


def _dot(color: str) -> Markup:
    return tag("i", class_="dot", style=f"background:{color}")


def _warnings(comparison: Comparison) -> Iterator[Markup]:
    """Seeds of one model that differ in more than their seed are no repetitions; scores by different judges do not compare."""
    for model, runs in comparison.models.items():
        found = differences(runs)
        if found:
            named = "; ".join(f"{key} ({' / '.join(values)})" for key, values in list(found.items())[:6])
            more = f" and {len(found) - 6} more" if len(found) > 6 else ""
            yield tag("p", f"The runs of {model} differ in more than their seed: {named}{more}.", class_="warning")
        seeds = [run.seed for run in runs]
        if twice := sorted({str(seed) for seed in seeds if seeds.count(seed) > 1}):
            more = "a run counted twice is no repetition, and makes the spread too small."
            yield tag("p", f"{model} has several runs of seed {', '.join(twice)}: {more}", class_="warning")
    for key, found in conditions(run for runs in comparison.models.values() for run in runs).items():
        named = "; ".join(f"{value[:12]}: {', '.join(runs)}" for value, runs in found.items())
        yield tag("p", f"Scored {CONDITIONS[key]} ({named}): these do not compare. Evaluate again.", class_="warning")
    for run in comparison.runs:
        if run.caveats:
            yield tag("p", f"{run.model} {run.seed}: {'; '.join(run.caveats)}.", class_="warning")


def _scores(comparison: Comparison, palette: dict[str, str]) -> Markup | None:
    """The scores by which models are compared, and below, folded away, those of every step."""
    every = rows(comparison)
    if not every:
        return tag("p", "No run of this experiment has been evaluated yet.", class_="muted")
    last = str(max(steps(comparison), default=0))
    main = [row for row in every if not row[-1].endswith("_std") and not (_is_step(row) and row[1] != last)]
    folded = [row for row in every if _is_step(row)]
    table = _table(comparison, main, palette)
    if len(folded) <= sum(row in main for row in folded):
        return table
    summary = tag("summary", "All steps of the chain")
    return join(table, tag("details", summary, _table(comparison, folded, palette)))


def _is_step(row: Path) -> bool:
    return row[0] == "chain" and len(row) > 2


def _table(comparison: Comparison, shown: Sequence[Path], palette: dict[str, str]) -> Markup:
    """Scores by model, then references; the best of each row is marked."""
    beside = {row: reference_spreads(comparison, row) for row in shown}
    names = list(dict.fromkeys(name for found in beside.values() for name in found))
    names.sort(key=lambda name: list(REFERENCES).index(name) if name in REFERENCES else len(REFERENCES))
    winners = best(comparison, shown)
    body = []
    for section in dict.fromkeys(row[0] for row in shown):
        title = SECTIONS.get(section, section)
        body.append(
            tag("tr", tag("th", title, colspan=1 + len(palette) + len(names), class_="section", scope="rowgroup"))
        )
        for row in (row for row in shown if row[0] == section):
            found, places = spreads(comparison, row), meaning(row).places
            cells = [_cell(found.get(model), places, (row, model) in winners) for model in palette]
            cells += [_cell(beside[row].get(name), places, False, "reference") for name in names]
            body.append(tag("tr", tag("th", *_row_name(row), scope="row"), *cells))
    head = tag(
        "tr", tag("th"), *(_model_head(comparison, m, c) for m, c in palette.items()), *map(_reference_head, names)
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def _model_head(comparison: Comparison, model: str, color: str) -> Markup:
    seeds = [str(run.seed) for run in comparison.models[model] if scores(run)]
    told = f"seed{'s' * (len(seeds) != 1)} {', '.join(seeds)}" if seeds else "not evaluated"
    return tag("th", _dot(color), model, tag("small", told), scope="col")


def _reference_head(name: str) -> Markup:
    return tag("th", name.replace("_", " "), scope="col", class_="reference", title=REFERENCES.get(name))


def _row_name(row: Path) -> Iterator[str]:
    yield _score_link(row[-1])
    yield tag("span", ARROWS[meaning(row).better], class_="arrow")
    if _is_step(row):
        yield tag("span", f"i = {row[1]}", class_="part")
    elif len(row) > 2:
        yield tag("span", " ".join(row[1:-1]), class_="part")


def _score_link(name: str) -> Markup:
    return tag("a", name, href=f"#score-{name}") if name in SCORES else tag("span", name)


def _cell(spread: Spread | None, places: int, is_best: bool, kind: str = "") -> Markup:
    words = " ".join(word for word in (kind, "best" if is_best else "") if word) or None
    if spread is None:
        return tag("td", "", class_=words)
    several = spread.n > 1 and spread.low != spread.high
    return tag(
        "td", _number(spread.median, places), tag("small", _range(spread, places)) if several else None, class_=words
    )


def _number(value: float, places: int) -> str:
    return f"{value:.{places}f}".replace("-", "−") if math.isfinite(value) else str(value)


def _range(spread: Spread, places: int) -> str:
    return f"[{_number(spread.low, places)}, {_number(spread.high, places)}]"


# ---------------------------------------------------------------------------------------------------------- pictures


def _curves(title: str, figure, legend: Sequence[Markup], caption: str) -> Markup | None:
    if figure is None:
        return None
    image = tag("img", src=_uri(svg(figure), "svg+xml"), alt=title, tabindex=0)
    return join(tag("h3", title, *legend), tag("p", caption, class_="muted"), tag("figure", image, class_="card wide"))


def _png(content: bytes, alt: str) -> Markup:
    return tag("img", src=_uri(content, "png"), alt=alt, tabindex=0)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _pictures(comparison: Comparison, palette: dict[str, str]) -> Iterator[Markup]:
    """Each kind of picture, the models beside each other, every one by its first seed that has it."""
    for kind, (title, how) in _kinds(comparison).items():
        shown = [
            _picture(_first(comparison.models[model], name), name, kind, color)
            for model, color in palette.items()
            for name in _names(comparison.models[model], kind)
        ]
        yield tag("h3", title)
        yield tag("p", how, class_="muted")
        yield tag("div", *shown, class_="pictures")


def _kinds(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Kinds of pictures that any run has, those without a caption last."""
    found = {_kind(name) for run in comparison.runs for name in run.figures}
    known = {kind: words for kind, words in PICTURES.items() if kind in found}
    return known | {kind: (kind, "") for kind in sorted(found - known.keys())}


def _kind(name: str) -> str:
    """latent_z1 -> latent."""
    return next(
        (kind for kind in ("latent", "reconstructions", "classes", "edits") if name.startswith(f"{kind}_")), name
    )


def _names(runs: Sequence[Run], kind: str) -> list[str]:
    return sorted({name for run in runs for name in run.figures if _kind(name) == kind})


def _first(runs: Sequence[Run], name: str) -> Run:
    return next(run for run in runs if name in run.figures)


def _picture(run: Run, name: str, kind: str, color: str) -> Markup:
    part = name.removeprefix(kind).strip("_")
    words = [run.model, part, f"seed {run.seed}"]
    image = tag(
        "img", src=_uri(run.figures[name].read_bytes(), "png"), alt=f"{name} of {run.model}", tabindex=0, loading="lazy"
    )
    return tag("figure", tag("figcaption", _dot(color), " · ".join(filter(None, words))), image, class_="card")


def _drawn(comparison: Comparison, palette: dict[str, str]) -> Iterator[Markup]:
    """What was drawn by hand from single runs, with `sample`."""
    shown = [
        tag(
            "figure",
            tag("figcaption", _dot(palette[run.model]), f"{run.model} · {name.replace('_', ' ')} · seed {run.seed}"),
            _png(path.read_bytes(), f"{name} of {run.model}"),
            class_="card",
        )
        for run in comparison.runs
        for name, path in run.drawn.items()
    ]
    if shown:
        yield tag("h3", "Drawn from these runs")
        yield tag("p", DRAWN_CAPTION, class_="muted")
        yield tag("div", *shown, class_="pictures")


def _measured(comparison: Comparison, palette: dict[str, str]) -> Iterator[Markup]:
    """What benchmarks measured on single runs, folded away."""
    found = [(kind, run) for run in comparison.runs for kind in run.measured]
    for kind in dict.fromkeys(kind for kind, _ in found):
        title, how = MEASUREMENTS.get(kind, (kind.replace("_", " "), ""))
        yield tag("h3", title)
        yield tag("p", how, class_="muted")
        for run in (run for name, run in found if name == kind):
            tables = (t for name, found in _tabled(run.measured[kind]).items() for t in _plain_table(name, found))
            summary = tag("summary", _dot(palette[run.model]), f"{run.model} · seed {run.seed}")
            yield tag("details", summary, *tables)


def _tabled(measured: Mapping) -> dict[str, object]:
    """What was measured by the titles of its tables; plain numbers share one without a title."""
    single = {name: value for name, value in measured.items() if not isinstance(value, Mapping | list)}
    return {"": single} | {name: value for name, value in measured.items() if name not in single}


def _plain_table(title: str, found: object) -> Iterator[Markup]:
    """A table of nested numbers: the innermost keys are its columns, those above them, joined, its rows.

    Of a list of numbers along a chain the entries at SHOWN; whatever has another form is left out.
    """
    rows: dict[str, dict[str, float]] = {}
    for path, value in flatten(found) if isinstance(found, Mapping) else ():
        if isinstance(value, list):
            along = {f"i = {i}": value[i] for i in SHOWN if i < len(value) and isinstance(value[i], int | float)}
            rows |= {" / ".join(path): along} if along else {}
        elif isinstance(value, int | float):
            rows.setdefault(" / ".join(path[:-1]), {})[path[-1]] = value
    if rows:
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        head = tag(
            "tr", tag("th", title.replace("_", " ")), *(tag("th", c.replace("_", " "), scope="col") for c in columns)
        )
        body = [
            tag(
                "tr",
                tag("th", name.replace("_", " "), scope="row"),
                *(tag("td", _plain(row.get(column))) for column in columns),
            )
            for name, row in rows.items()
        ]
        yield tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def _plain(value: object) -> str:
    return f"{value:.3g}".replace("-", "−") if isinstance(value, int | float) else ""


# -------------------------------------------------------------------------------------------------------------- runs


def _troubles(runs: Sequence[Run]) -> Markup | None:
    """Damaged, unfinished and outdated runs, with what is wrong."""
    listed = [
        tag("tr", tag("th", run.folder.as_posix(), scope="row"), tag("td", *_trouble(run), class_="words"))
        for run in runs
        if run.damage or run.missing or run.caveats
    ]
    if not listed:
        return None
    table = tag("div", tag("table", tag("tbody", *listed), class_="plain"), class_="scroll")
    return tag("section", tag("h2", "Unfinished, outdated and damaged runs"), table, id="troubles")


def _trouble(run: Run) -> Iterator[str]:
    if run.damage:
        yield tag("b", "damaged, not used: ")
        yield run.damage
        return
    missing = [f"unfinished, without {', '.join(run.missing)}"] if run.missing else []
    yield "; ".join([*missing, *run.caveats])


def _all_runs(runs: Sequence[Run]) -> Markup | None:
    """How each run was made."""
    if not runs:
        return None
    how = "The command that makes each run, how fast it was, and everything it was configured with."
    return tag("section", tag("h2", "Runs"), tag("p", how, class_="muted"), *map(_run, runs), id="runs")


def _run(run: Run) -> Markup:
    line, recorded = command(run)
    hint = None if recorded else "Rebuilt from the configuration: keys set one by one may be missing; all are below."
    facts = " · ".join(f"{key.replace('_', ' ')} {_fact(value)}" for key, value in run.speed.items())
    return tag(
        "details",
        tag("summary", tag("b", run.folder.as_posix()), tag("span", _speed(run), class_="muted")),
        tag("pre", line),
        hint and tag("p", hint, class_="muted"),
        tag("p", facts) if facts else None,
        tag("details", tag("summary", "Configuration"), tag("pre", OmegaConf.to_yaml(run.config).rstrip())),
        class_="run",
    )


def _speed(run: Run) -> str:
    told = {"steps": "{:,.0f} steps", "images_per_second": "{:,.0f} images/s", "seconds": "{:,.0f} s"}
    numbers = {key: run.speed.get(key) for key in told}
    return " · ".join(told[key].format(v) for key, v in numbers.items() if isinstance(v, int | float))


def _fact(value) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---------------------------------------------------------------------------------------------------------- glossary


def _glossary(comparisons: Sequence[Comparison]) -> Markup:
    """A sentence for every score on the page, and for every reference."""
    used = {row[-1] for comparison in comparisons for row in rows(comparison)}
    terms = [
        join(
            tag("dt", name, tag("span", ARROWS[score.better], class_="arrow"), id=f"score-{name}"),
            tag("dd", score.meaning),
        )
        for name, score in SCORES.items()
        if name in used
    ]
    references = [join(tag("dt", name.replace("_", " ")), tag("dd", f"{text}.")) for name, text in REFERENCES.items()]
    return tag(
        "section",
        tag("h2", "What the numbers mean"),
        tag(
            "p",
            "↑ higher is better, ↓ lower is better. i counts sweeps of the unclamped chain; ALI and HALI have N = 0.",
        ),
        tag("dl", *terms),
        tag("h3", "References"),
        tag("dl", *references),
        id="glossary",
    )
