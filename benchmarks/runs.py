"""Runs of several seeds: made once, read into numbers, summed up in tables and curves."""

import json
import re
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from gibbsnet import plots
from gibbsnet.__main__ import clear
from gibbsnet.config import CIRCUMSTANCES, folder, load
from gibbsnet.evaluate import evaluate
from gibbsnet.report.charts import CROWD, colours, over_steps
from gibbsnet.report.runs import Run, read, stale
from gibbsnet.report.scores import Comparison
from gibbsnet.train import look_into, train

# What scores have to be held against; a record has those of its data.
REFERENCES = [
    "reference/test/class_score", "reference/gaussian/class_score", "reference/test/class_frechet_ratio",
    *(f"reference/test/{name}" for name in ("modes", "share", "sliced_wasserstein")),
    *(f"reference/{name}" for name in ("mean_image/mse", "mean_image/same_class", "raw_pixels/probe_accuracy")),
    *(f"reference/pca/*/{name}" for name in ("mse", "same_class", "probe_accuracy")),
    "reference/untrained_encoder/*/probe_accuracy",
    "reference/test/joint_distance", "reference/test/joint_distance_shuffled",
]  # fmt: skip


def experiment(data: str) -> str:
    """What contenders on a data set differ from: its experiment, but for the grid's, whose cycle loss is a contender's, and for
    cifar10_long, which is `cifar10` to its end."""
    return {"grid": "grid_plain", "cifar10_long": "cifar10"}.get(data, data)


def options(arguments: Sequence[str], **defaults: str) -> tuple[dict[str, str], list[str]]:
    """The command line's key=value over the defaults; and what has another key, which is every run's setting.

    Raises:
        SystemExit: such a key without a value, in one line.
    """
    if bare := [a for a in arguments if a in defaults]:
        raise SystemExit(f"{bare[0]}: expected {bare[0]}=VALUE")
    own = [a for a in arguments if a.partition("=")[0] in defaults]
    return {**defaults, **dict(a.split("=", 1) for a in own)}, [a for a in arguments if a not in own]


def asked(arguments: Sequence[str], of: str = "", **defaults: str | int) -> tuple[list[Path], dict]:
    """The folders of run=FOLDER, and the command line's key=value over the defaults, an integer where that is one.

    Arguments:
        of: what the runs are to be of.

    Raises:
        SystemExit: another key, no integer, no run; in one line.
    """
    pairs = [a.partition("=")[::2] for a in arguments]
    if unknown := [key for key, _ in pairs if key not in {"run", *defaults}]:
        expected = ", ".join(["run=FOLDER", *(f"{key}={value}" for key, value in defaults.items())])
        raise SystemExit(f"unknown {unknown[0]!r}: expected {expected}")
    given = {key: value for key, value in pairs if key != "run"}
    chosen = {k: integer(k, v) if isinstance(defaults[k], int) else v for k, v in given.items()}
    runs = [Path(value) for key, value in pairs if key == "run"]
    if not runs:
        raise SystemExit(f"which run? Say run=FOLDER{of}, for example run=runs/mine")
    return runs, {**defaults, **chosen}


def integer(key: str, value: str) -> int:
    if not value.isdecimal():
        raise SystemExit(f"{key}={value}: expected an integer >= 0")
    return int(value)


def pictures(chosen: Mapping[str, str]) -> str:
    """How the names of the pictures begin that are asked for, `pictures=beside`; empty where none are.

    Raises:
        SystemExit: no word.
    """
    word = chosen["pictures"]
    if word and not word.isidentifier():
        raise SystemExit(f"pictures={word}: expected the word that the files' names begin with, for example beside")
    return word


def rounds(chosen: Mapping[str, str]) -> int:
    """Of how many rounds a clock is asked for, `clock=20`; 0 where none is.

    Raises:
        SystemExit: no integer, or 0, or pictures beside it; in one line.
    """
    if chosen["clock"] and chosen.get("pictures"):
        raise SystemExit(f"clock={chosen['clock']} pictures={chosen['pictures']}: one or the other")
    if chosen["clock"] and not integer("clock", chosen["clock"]):
        raise SystemExit("clock=0: expected at least 1 round")
    return int(chosen["clock"] or 0)


def several(chosen: Mapping[str, str], known: Iterable[str]) -> tuple[list[str], list[int]]:
    """The models and the seeds that were chosen, `models=a,b` and `seeds=1,2`; seeds each once, in rising order.

    Raises:
        SystemExit: a model that is not known, no integer; in one line.
    """
    models, seeds = chosen["models"].split(","), {integer("seeds", seed) for seed in chosen["seeds"].split(",")}
    if unknown := sorted(set(models) - set(known)):
        raise SystemExit(f"models={unknown[0]}: expected some of {', '.join(known)}")
    return models, sorted(seeds)


@contextmanager
def in_one_line() -> Iterator[None]:
    """What cannot be used ends the command, and is said in one line, as `python -m gibbsnet` says it."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if not clear(error):
            raise
        raise SystemExit(" ".join(str(error).split())) from error


def lasting(more: Sequence[str]) -> list[str]:
    """Those settings that make other numbers: what is trained and how it is scored; not where data lie, or on what it runs."""
    here = [f"{key}." for key in CIRCUMSTANCES if key != "evaluation"]
    return sorted(s for s in more if not f"{s.partition('=')[0]}.".startswith(tuple(here)))


def title(what: str, more: Sequence[str]) -> str:
    """What a table of such further settings is called."""
    return " ".join([what, *lasting(more)])


def file(title: str) -> str:
    """A table's title as part of a file's name."""
    return re.sub(r"[^\w.=-]+", "_", title)


def figure(kind: str, data: str, found: Mapping) -> Path:
    """Where a table's figure stands."""
    return Path("docs", "figures", f"{kind}_{file(title(data, found['settings']))}.png")


def place(benchmark: str, what: str, model: str, seed: int, more: Sequence[str] = ()) -> Path:
    """A run's folder: one of its own for further settings, else numbers of one would be read as those of another."""
    return Path("runs", benchmark, file(title(what, more)), model, str(seed))


def trained(settings: Sequence[str]) -> dict:
    """The configuration of a run that is trained: one that is finished is not run again, an interrupted one goes on.

    Raises:
        SystemExit: what cannot be trained, a folder of another configuration, a training that `trainer.max_time` ended early; in
            one line.
    """
    with in_one_line():
        config = load([*settings, "tracking.mode=disabled"])
        steps, _ = look_into(train(config) / "checkpoints" / "last.ckpt") or (0, None)  # a fast_dev_run keeps none
    if steps < config["steps"]:
        raise SystemExit(
            f"{folder(config)} has {steps} of its {config['steps']} steps, and what is compared is trained to its end: "
            "leave trainer.max_time and trainer.fast_dev_run out, and it goes on from there"
        )
    return config


def finished(settings: Sequence[str]) -> Path:
    """The folder of a run that is trained and evaluated."""
    config = trained(settings)
    if not (folder(config) / "metrics.json").exists() or stale(read(folder(config))):
        with in_one_line():
            evaluate(config)
    return folder(config)


def keep(path: Path, data: str, found: Mapping, usual: Iterable[str]) -> dict | None:
    """Writes what was found into the record, data -> {seeds, settings, models}; returns it.

    Of the same settings and judge, further models join those of the same seeds, and further seeds those of the same models, where
    numbers are kept by seed and not as spreads; what was run again takes the place of what it was.  If neither fits, nothing is
    written, and None is returned: only what has all the usual models, and all models and seeds that are recorded, takes the place
    of what is there.  Whether a model's YAML file has changed since is not asked.
    """
    record = json.loads(path.read_text()) if path.exists() else {}
    old = record.get(data)
    together = _together(old, found, usual) if old else found
    if together is None:
        print(f"not written: {path} has {data} {_told(old)}, here: {_told(found)}. {JOINING}")
        return None
    record[data] = together
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return record


JOINING = (
    "Further models join with the same seeds, further seeds with the same models if numbers are kept by seed, under one judge; "
    "to replace what is there, run all of its seeds and models or take it out of the file"
)


def _told(found: Mapping) -> str:
    """What a record's part is of, for the one line that refuses another."""
    judged = [f"judged {', '.join(map(str, sorted(known)))}"] if (known := judges(found["models"])) else []
    seeds, models = ",".join(map(str, found["seeds"])), ",".join(found["models"])
    return " ".join([f"seeds={seeds}", f"models={models}", *found.get("settings", []), *judged])


def _together(old: Mapping, new: Mapping, usual: Iterable[str]) -> Mapping | None:
    """What is recorded once `new` has come to `old`, see `keep`; None where neither may go."""
    settled = old.get("settings", []) == new["settings"]
    same, models = settled and old["seeds"] == new["seeds"], old["models"] | new["models"]
    whole = models.keys() == new["models"].keys() and {*old["seeds"]} <= {*new["seeds"]}
    if settled and not _judged_apart(old, new):
        if same:
            return {**new, "models": models}
        spreads_alone = any(isinstance(of, Mapping) for side in (old, new) for of in side["models"].values())
        if old["models"].keys() == new["models"].keys() and not spreads_alone:
            return _seeds_joined(old, new)
    return new if whole and (same or {*usual} <= models.keys()) else None


def _seeds_joined(old: Mapping, new: Mapping) -> dict:
    """The same models with the seeds of both; of a seed that both have, the new numbers."""
    seeds = sorted({*old["seeds"], *new["seeds"]})
    by_seed = {
        m: dict(zip(old["seeds"], of, strict=True)) | dict(zip(new["seeds"], new["models"][m], strict=True))
        for m, of in old["models"].items()
    }
    return {**new, "seeds": seeds, "models": {m: [of[seed] for seed in seeds] for m, of in by_seed.items()}}


def _judged_apart(old: Mapping, new: Mapping) -> bool:
    """Whether the judges of both are known, and are not the same."""
    here, there = judges(new["models"]), judges(old["models"])
    return bool(here and there and here != there)


def judges(models: Mapping[str, Sequence[Mapping] | Mapping]) -> set[float]:
    """The judges of a record's models, known by what they say of the test images: class scores, where they are recorded."""
    seeds = [seed for of in models.values() for seed in ([of] if isinstance(of, Mapping) else of)]
    scores = [seed["reference/test/class_score"] for seed in seeds if "reference/test/class_score" in seed]
    return {round(score["median"] if isinstance(score, Mapping) else score, 3) for score in scores}


def command(start: str, found: Mapping, usual: Iterable[str]) -> str:
    """The command that makes a record's part: its seeds, its models if they are not the usual ones, its settings."""
    models = [] if set(found["models"]) == set(usual) else [f"models={','.join(found['models'])}"]
    seeds = ",".join(map(str, found["seeds"]))
    return f"python -m benchmarks.{start} " + shlex.join([f"seeds={seeds}", *models, *found.get("settings", [])])


ROWS = f"; of more than {CROWD} models a chart shows a few in each row, the others in grey"


def head(title: str, more: str = "") -> list[str]:
    """How a page of numbers over seeds begins."""
    text = "Median over seeds [least .. greatest]; what it says: [findings.md](findings.md); what was expected: [lab](lab)."
    return [f"# {title}", "", f"{text} Names: [metrics.md](metrics.md){more}.", ""]


def redraw(
    data: str,
    models: Mapping[str, Sequence[Mapping[str, float]]],
    path: Path,
    named: Callable = dict,
    base: str | None = None,
) -> None:
    """Draws the curves of a record's models: those of scores at steps of the chain, and references, that all of them have.

    named: gives the models their names in the legend.
    base: the model that every row of a crowd shows.
    """
    everyone = [seed for seeds in models.values() for seed in seeds]
    drawn = {n for n in everyone[0] if all(n in seed for seed in everyone)}
    shown = {
        m: [{n: v for n, v in seed.items() if n in drawn or not _of_all(n)} for seed in seeds]
        for m, seeds in models.items()
    }
    columns = {m: [nested(seed) for seed in seeds] for m, seeds in named(shown).items()}
    names = dict(zip(shown, columns, strict=True))
    figure = curves(data, columns, names.get(base))
    if figure is None:
        print(f"{path} is not drawn: its models have no curve in common")
    else:
        plots.save(figure, path)


def _of_all(name: str) -> bool:
    """Whether a number is drawn only where all models have it."""
    return name.startswith("reference/") or (name.startswith("chain/") and name.count("/") == 2)


def spread_seeds(summed: Mapping[str, Mapping[str, float]]) -> list[dict[str, float]]:
    """Three seeds that have the spreads of this `summary`, which is all that an older record kept."""
    return [{n: spread[k] for n, spread in summed.items()} for k in ("min", "median", "max")]


def numbers(run: Path, scores: str = "metrics.json") -> dict[str, float]:
    """Metrics by names joined with '/', train.json's among them; of the validation split they lie in another file."""
    metrics = json.loads((run / scores).read_text())
    return dict(flat({**metrics, "train": json.loads((run / "train.json").read_text())}))


def flat(nested: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


def nested(flat: Mapping[str, float]) -> dict:
    """Names joined with '/' as the mappings of mappings that they came from."""
    found: dict = {}
    for name, value in flat.items():
        *above, leaf = name.split("/")
        place = found
        for key in above:
            place = place.setdefault(key, {})
        place[leaf] = value
    return found


def summary(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """name -> median, least and greatest over the seeds."""
    names = [n for n in seeds[0] if all(n in s for s in seeds)]
    return {
        n: {"median": statistics.median(v), "min": min(v), "max": max(v)} for n in names if (v := [s[n] for s in seeds])
    }


def paired(seeds: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """seeds - others, seed by seed, of what both have."""
    return [{n: a[n] - b[n] for n in a if n in b} for a, b in zip(seeds, others, strict=True)]


def table(columns: Mapping[str, Mapping], rows: Sequence[str], sign: str = "", digits: int = 4) -> list[str]:
    """Markdown: a row per metric that any model has (a '*' stands for each latent), a column per model.

    columns: model -> its `summary`; a cell is median [least .. greatest].
    sign: "+" shows that of positive numbers too; digits: how many of a number are shown, from the first that is not 0 on.
    """
    expanded = [
        name for row in rows for name in matches(row, columns) if any(name in column for column in columns.values())
    ]
    lines = ["| metric | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    cells = [[cell(column.get(name), f"{sign}.{digits}g") for column in columns.values()] for name in expanded]
    return lines + [f"| {name} | " + " | ".join(row) + " |" for name, row in zip(expanded, cells, strict=True)]


def matches(row: str, columns: Mapping[str, Iterable[str]]) -> list[str]:
    if "*" not in row:
        return [row]
    head, tail = row.split("*")
    found = {n for column in columns.values() for n in column if n.startswith(head) and n.endswith(tail)}
    return sorted(n for n in found if "/" not in n[len(head) : len(n) - len(tail)])


def cell(value: Mapping[str, float] | None, form: str = ".4g") -> str:
    if value is None:
        return "-"
    median, low, high = (f"{value[k]:{form}}" for k in ("median", "min", "max"))
    return median if low == high else f"{median} [{low} .. {high}]"


def compared(data: str, columns: Mapping[str, Sequence[Mapping]]) -> Comparison:
    """What the report's charts draw, of name -> its seeds' metrics."""
    runs = {name: [Run(Path(), metrics=dict(metrics)) for metrics in seeds] for name, seeds in columns.items()}
    return Comparison("", data, runs)


def curves(data: str, columns: Mapping[str, Sequence[Mapping]], base: str | None = None) -> Figure | None:
    """Scores over the steps of the chain, the report's chart, with names, if there are any; name -> its seeds' metrics."""
    palette = colours(list(columns))
    in_order = {name: palette[name] for name in columns}  # the record's, by which a crowd's rows go
    return over_steps(compared(data, columns), in_order, base, named=True)
