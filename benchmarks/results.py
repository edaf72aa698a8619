"""The README's tables: python -m benchmarks.results [experiment ...] [models=gibbsnet,...]

Trains and evaluates what the tables compare, several seeds each, holds the numbers against the floors they have to pass, and
writes docs/results.json, docs/results.md, the part of README.md between its two marks, and docs/figures.  A run that is
finished is not run again; an interrupted one goes on; some models alone join the others in the record.  Run folders:
runs/<experiment>/<data>/<model>/<seed>/.  With `clock=20` nothing is trained: prints the CPU milliseconds of every
model's step, interleaved, 20 rounds in one thread, and what its steps come to.
"""

import json
import operator
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.contenders import clock
from benchmarks.runs import finished, numbers, options, rounds, summary, table
from gibbsnet.config import load

# experiment -> (data, model -> (settings over the experiment's, seeds)). On digits meant for at most 5 CPU minutes each: a step
# of ALI takes some 14 and of HALI 22 ms of one thread, GibbsNet's 1.38 times ALI's where this was made. Tuning used other seeds:
# on digits 11, and 1 to 6 after earlier tables; HALI was seen on 7 to 9 with a floor of .15 and 12,000 steps, on 12 to 14
# with 14,000 steps, on 29 to 32 with a smaller critic, on 38 to 40 without whitening, on 44 and 45 with 13,800 steps, on 47 to
# 49 in bf16 and on 53 to 55 with a z2 of 32; GibbsNet on 7 to 9 without persistent chains, and with N in 0..3 on 17 to 19 and
# 26 to 28.
TABLES = {
    "digits": (
        "digits",
        {
            "ali": (["steps=15200"], (7, 8, 9)),
            "hali": (["steps=12000", "size.floor=0.12", "size.z2=[8]"], (53, 54, 55)),
            "gibbsnet": (["steps=10900"], (50, 51, 52)),
        },
    ),
    "digits_floor": ("digits", {"ali": (["steps=15200"], (7, 8, 9))}),
    "ring": ("ring", {"gibbsnet": ([], (1, 2, 3))}),
    "ring_bce": ("ring", {"gibbsnet": ([], (1, 2, 3))}),
}
ROWS = {
    "digits": [
        "samples/class_score", "chain/3/class_score", "samples/class_frechet_ratio",
        "chain/10/class_frechet_ratio", "chain/100/class_frechet_ratio",
        "chain/1000/class_frechet_ratio", "chain/10/classes", "chain/100/classes", "chain/1000/classes", "chain/switch_rate",
        "latent/*/probe_accuracy", "reference/untrained_encoder/*/probe_accuracy", "latent/*/non_gaussianity",
        "reconstruction/*/mse", "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
    ],
    "ring": [
        "chain/1/modes", "chain/3/modes", "chain/10/modes", "chain/100/modes", "chain/1/share", "chain/3/share", "chain/10/share",
        "chain/100/share", "chain/switch_rate", "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
    ],
}  # fmt: skip
REFERENCES = [
    "reference/test/class_score", "reference/gaussian/class_score", "reference/test/class_frechet_ratio",
    "reference/gaussian/class_frechet_ratio", "reference/mean_image/mse", "reference/raw_pixels/probe_accuracy",
]  # fmt: skip
# What a model has to reach: "<metric> <relation> <number or metric>". The negative control is held against the ring's.
RING = [
    *(f"chain/{i}/modes >= 8" for i in (1, 3, 10, 100)), "chain/1/share >= 0.75",
    *(f"chain/{i}/share >= 0.9" for i in (3, 10, 100)), "reconstruction/z/same_class >= 0.97",
]  # fmt: skip
PROBE = "latent/{0}/probe_accuracy > reference/untrained_encoder/{0}/probe_accuracy"
FLOORS = {
    "digits": {
        "ali": [
            "samples/class_score >= 8.3", "samples/class_frechet_ratio <= 0.3", "reconstruction/z/mse <= 0.05",
            "reconstruction/z/same_class >= 0.7", PROBE.format("z"),
        ],
        "hali": ["samples/class_score >= 8.3", "samples/class_frechet_ratio <= 0.3", PROBE.format("z1"), PROBE.format("z2")],
        "gibbsnet": [
            "samples/class_score >= 7.8", "samples/class_frechet_ratio <= 0.6", "reconstruction/z/same_class >= 0.65",
            *(f"chain/{i}/classes >= 8" for i in (10, 100, 1000)), "chain/1000/class_frechet_ratio <= 1", PROBE.format("z"),
        ],
    },
    "ring": {"gibbsnet": RING},
    "ring_bce": {"gibbsnet": RING},
}  # fmt: skip
RELATIONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt}
README_ROWS = [
    "samples/class_score", "chain/3/class_score", "samples/class_frechet_ratio",
    "chain/1000/class_frechet_ratio", "chain/1000/classes",
    "chain/switch_rate", "latent/*/probe_accuracy", "reconstruction/*/mse", "reconstruction/*/same_class", "train/cpu_seconds",
]  # fmt: skip
README_RING = [
    "chain/1/modes", "chain/100/modes", "chain/1/share", "chain/3/share", "chain/100/share", "chain/switch_rate",
    "reconstruction/*/same_class", "train/cpu_seconds",
]  # fmt: skip
PICTURES = {"chain.png": "digits_gibbsnet_chain.png", "samples.png": "digits_gibbsnet_samples.png"}
MARKS = "<!-- results: written by python -m benchmarks.results -->", "<!-- end of results -->"


def settings(experiment: str, model: str) -> list[str]:
    """A model's command line, without its seed."""
    data, models = TABLES[experiment]
    return [f"experiment={experiment}", f"data={data}", f"model={model}", *models[model][0]]


def run(experiment: str, model: str, seed: int) -> Path:
    """One finished and evaluated run."""
    return finished([*settings(experiment, model), f"seed={seed}"])


def cost(experiment: str, rounds: int, only: Sequence[str] = ()) -> list[str]:
    """What training costs, a line for each model."""
    configs = {m: load(settings(experiment, m)) for m in TABLES[experiment][1] if m in (only or TABLES[experiment][1])}
    ms = clock(configs, rounds)
    return [
        f"{experiment}/{m}: {t:.1f} ms a step, {configs[m]['steps'] * t / 1e3:.0f} CPU seconds" for m, t in ms.items()
    ]


def verdicts(floors: Sequence[str], seeds: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """floor -> how many seeds pass it; a metric that is missing, as a switch rate of nothing is, passes none."""
    return {floor: sum(passes(floor, seed) for seed in seeds) for floor in floors}


def passes(floor: str, found: Mapping[str, float]) -> bool:
    """Whether a run's numbers satisfy "<metric> <relation> <number or metric>"."""
    name, relation, bound = floor.split()
    wanted = found.get(bound) if "/" in bound else float(bound)
    return name in found and wanted is not None and RELATIONS[relation](found[name], wanted)


def floors_table(experiment: str, passed: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Markdown: the floors of an experiment's models, and how many of its seeds pass each."""
    of = {model: len(seeds) for model, (_, seeds) in TABLES[experiment][1].items()}
    rows = [
        f"| {model} | {floor} | {n} of {of[model]} |" for model, found in passed.items() for floor, n in found.items()
    ]
    return ["", "| model | has to reach | seeds that do |", "|---|---|---:|", *rows] if rows else []


def made(experiment: str, model: str) -> str:
    """What is run of a model, in words: its settings and seeds."""
    settings, seeds = TABLES[experiment][1][model]
    return f"{' '.join([model, *settings])}, seeds {', '.join(map(str, seeds))}"


def page(record: Mapping) -> list[str]:
    """docs/results.md."""
    text = ["# Results", "", "Median over three seeds [least .. greatest], by `make results`.", ""]
    for experiment, found in record.items():
        rows = ROWS["ring"] if experiment.startswith("ring") else [*ROWS["digits"], *REFERENCES]
        text += [
            f"## {experiment}",
            "",
            f"`python -m benchmarks.results {experiment}`: {'; '.join(found['made'].values())}",
            "",
        ]
        text += [*table(found["models"], rows), *floors_table(experiment, found["floors"]), ""]
    return text


def digest(record: Mapping) -> list[str]:
    """The README's tables, to three digits: the models, and beside them what tells a result from an accident of its settings."""
    tables = (
        ("digits", "digits_floor", "ali", "ali, same floor", README_ROWS),
        ("ring", "ring_bce", "gibbsnet", "gibbsnet, no penalty", README_RING),
    )
    text = []
    for experiment, control, model, name, rows in tables:
        if experiment in record and model in record.get(control, {"models": {}})["models"]:
            columns = record[experiment]["models"] | {name: record[control]["models"][model]}
            text += ["", f"`python -m benchmarks.results {experiment} {control}`", "", *table(columns, rows, digits=3)]
    return text[1:]


def between(text: str, marks: tuple[str, str], lines: Sequence[str]) -> str:
    """The text with the lines in place of what stood between the marks."""
    head, _, rest = text.partition(marks[0])
    _, _, tail = rest.partition(marks[1])
    return "\n".join([head + marks[0], "", *lines, "", marks[1] + tail])


def measure(experiment: str, only: Sequence[str] = (), known: Mapping = {}) -> dict:
    """What is recorded of one experiment, by model: how it was made, its numbers, and the floors they pass.

    known: its record, which stays of models that are not in `only`, if they would be made the same way today.
    """
    models, floors = TABLES[experiment][1], FLOORS.get(experiment, {})
    chosen = [m for m in models if m in (only or models)]
    found = {m: [numbers(run(experiment, m, seed)) for seed in models[m][1]] for m in chosen}
    new = {
        "made": {m: made(experiment, m) for m in chosen},
        "models": {m: summary(seeds) for m, seeds in found.items()},
        "floors": {m: verdicts(floors[m], seeds) for m, seeds in found.items() if m in floors},
    }
    old = {m for m, how in known.get("made", {}).items() if m in models and how == made(experiment, m)}
    there = [m for m in models if m in old or m in chosen]
    return {part: {m: of[m] if m in of else known[part][m] for m in there if m in of or m in known.get(part, {})}
            for part, of in new.items()}  # fmt: skip


def show() -> None:
    """The README's pictures, from the first run of GibbsNet on digits."""
    figures = Path("runs/digits/digits/gibbsnet", str(TABLES["digits"][1]["gibbsnet"][1][0]), "figures")
    for name, kept in PICTURES.items():
        if (figures / name).exists():
            Path("docs/figures").mkdir(exist_ok=True)
            shutil.copyfile(figures / name, Path("docs/figures", kept))


def main(arguments: Sequence[str]) -> None:
    chosen, wanted = options(arguments, models="", clock="")
    only = chosen["models"].split(",") if chosen["models"] else []
    if unknown := sorted(set(wanted) - set(TABLES)):
        raise SystemExit(f"unknown experiment {unknown[0]!r}: expected some of {', '.join(TABLES)}")
    if unknown := sorted(set(only) - {m for e in wanted or TABLES for m in TABLES[e][1]}):
        raise SystemExit(f"models={unknown[0]}: expected some of those that the experiments compare")
    if many := rounds(chosen):
        print(*(line for e in wanted or TABLES for line in cost(e, many, only)), sep="\n")
        return
    record_path, readme = Path("docs/results.json"), Path("README.md")
    record = json.loads(record_path.read_text()) if record_path.exists() else {}
    for experiment in [e for e in wanted or TABLES if not only or {*only} & TABLES[e][1].keys()]:
        record[experiment] = measure(experiment, only, record.get(experiment, {}))
        record_path.write_text(json.dumps(record, indent=1) + "\n")
    record = {experiment: record[experiment] for experiment in TABLES if experiment in record}
    Path("docs/results.md").write_text("\n".join(page(record)))
    readme.write_text(between(readme.read_text(), MARKS, digest(record)))
    show()
    print("\n".join(page(record)))


if __name__ == "__main__":
    main(sys.argv[1:])
