r"""How stable a chain is: python -m benchmarks.stability [seeds=1,2,3] [data=digits] [models=n0,n3] [steps=12000]

GibbsNets on ring, grid, digits or mnist that differ in how their unclamped chain is trained, with equal numbers of steps:
N sweeps, N at random, persistent chains, a chain whose encoder is not the clamped chain's, a learned start.  Scores their
chains at i = 0 .. 1000, with the band of the joint distance, into <run>/stability.json; writes docs/stability.json, .md and
docs/figures/stability_DATA.png; some models alone join those of the same seeds there, and seeds those of the same models (but
for ring and digits, of which older records keep spreads).  What is finished is not run again; run
folders: runs/stability/DATA/VARIANT/SEED.  Further settings, but for those of the place where it runs, make a table, a figure and
run folders of their own, DATA_SETTING=VALUE.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.runs import (
    ROWS,
    command,
    experiment,
    figure,
    flat,
    head,
    keep,
    lasting,
    options,
    place,
    redraw,
    several,
    spread_seeds,
    summary,
    table,
    title,
    trained,
)
from gibbsnet.config import folder
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation import evaluate
from gibbsnet.prepare import datamodule, prepare
from gibbsnet.train import device, load_run

CHAIN = "chains.unclamped"
YOUNG = [f"{CHAIN}.persistent=0.0", "critics.joint.hears.age=null"]  # every chain starts anew with every batch
VARIANTS = {
    "n0": [f"{CHAIN}.steps=0", *YOUNG],
    "n1": [f"{CHAIN}.steps=1", *YOUNG],
    "n3": [f"{CHAIN}.steps=3", *YOUNG],
    "random": [f"{CHAIN}.steps=[0,3]", *YOUNG],
    "persistent": [f"{CHAIN}.steps=[0,3]", f"{CHAIN}.persistent=0.5", "critics.joint.hears.age=embed"],
    "unshared": ["model=unshared", f"{CHAIN}.steps=[0,3]"],
    "learned": [f"{CHAIN}.steps=[0,3]", f"{CHAIN}.learned=[z]", *YOUNG],
    "n10": [f"{CHAIN}.steps=10", *YOUNG],
    "rising": [f"{CHAIN}.steps=[0,3]", f"{CHAIN}.rise=6000", *YOUNG],
    "untold": [f"{CHAIN}.steps=[0,3]", f"{CHAIN}.persistent=0.5", "critics.joint.hears.age=null"],
}
USUAL = list(VARIANTS)[:7]  # the others on request
GRID = (0, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)
SHOWN = (0, 1, 3, 10, 30, 100, 300, 1000)
SCORES = ("joint_distance", "class_frechet_ratio", "class_score", "share", "modes")
BAND = "reference/test/joint_distance"


def run(data: str, variant: str, seed: int, more: Sequence[str] = ()) -> dict:
    """A finished run's scores."""
    where = place("stability", data, variant, seed, more)
    config = trained([*settings(data, variant), f"seed={seed}", f"run={where}", *more])
    path = folder(config) / "stability.json"
    if not path.exists():
        write_json(score(config), path)
    return json.loads(path.read_text())


def settings(data: str, variant: str) -> list[str]:
    """A variant's command line, without its seed: the experiment, whose N does not rise but where the variant says so."""
    of = [*VARIANTS[variant], f"model.name={variant}"]
    return [f"experiment={experiment(data)}", "model=gibbsnet", f"data={data}", f"{CHAIN}.rise=0", *of]


def score(config: Mapping) -> dict:
    """metrics.json's numbers at every i of GRID."""
    data, wanted = datamodule(config), config["evaluation"]
    module = load_run(folder(config), config, data.shape, data.digest).to(device(config["trainer"]))
    options = {"seed": wanted["seed"], "samples": wanted["samples"], "steps": GRID, "inception": None}
    return evaluate(module, data.data, prepare(config), **options)


def rows(found: Iterable[Iterable[str]]) -> list[str]:
    """What the table shows of what there is."""
    names = {name for numbers in found for name in numbers}
    wanted = [f"chain/{i}/{score}" for score in SCORES for i in SHOWN]
    more = ["chain/switch_rate", "latent/z/probe_accuracy", "latent/z/non_gaussianity", "reconstruction/z/mse",
            "reconstruction/z/same_class", BAND, f"{BAND}_shuffled"]  # fmt: skip
    return [name for name in [*wanted, *more] if name in names]


def measure(data: str, variants: Sequence[str], seeds: Sequence[int], more: Sequence[str] = ()) -> dict:
    """What is recorded: of every variant the numbers of its seeds."""
    metrics = {v: [dict(flat(run(data, v, seed, more))) for seed in seeds] for v in variants}
    shown = {
        *rows(numbers for of in metrics.values() for numbers in of),
        *(f"chain/{i}/{score}" for score in SCORES for i in GRID),
    }
    models = {
        v: [{n: x for n, x in numbers.items() if n in shown or n.startswith("reference/")} for numbers in of]
        for v, of in metrics.items()
    }
    return {"seeds": list(seeds), "settings": lasting(more), "models": models}


def named(models: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Sequence[Mapping]]:
    """The variants by names that say their switch rates, where any seed has one."""
    rates = {v: [m["chain/switch_rate"] for m in seeds if "chain/switch_rate" in m] for v, seeds in models.items()}
    told = {v: f" (switch rate {median(of):.2f})" if of else "" for v, of in rates.items()}
    return {v + told[v]: seeds for v, seeds in models.items()}


def draw(data: str, found: Mapping) -> None:
    """A table's curves over the steps of the chain."""
    seeds = {v: spread_seeds(of) if isinstance(of, Mapping) else of for v, of in found["models"].items()}
    redraw(data, seeds, figure("stability", data, found), named, base="n0")


def section(data: str, found: Mapping) -> list[str]:
    """A data set's part of docs/stability.md."""
    text = [f"## {title(data, found['settings'])}", "", f"`{command(f'stability data={data}', found, USUAL)}`", ""]
    columns = {v: of if isinstance(of, Mapping) else summary(of) for v, of in found["models"].items()}
    return [
        *text,
        *table(columns, rows(columns.values())),
        "",
        f"![{data}](figures/{figure('stability', data, found).name})",
        "",
    ]


def page(record: Mapping) -> list[str]:
    """docs/stability.md."""
    data = list(dict.fromkeys(name.split()[0] for name in record))  # in the order in which they came
    tables = sorted(record, key=lambda name: (data.index(name.split()[0]), name))
    parts = [line for name in tables for line in section(name.split()[0], record[name])]
    return [*head("How stable the chains are", f"; `{BAND}` is the band{ROWS}"), *parts]


def main(arguments: Sequence[str]) -> None:
    chosen, more = options(arguments, seeds="1,2,3", data="digits", models=",".join(USUAL))
    data, found = chosen["data"], measure(chosen["data"], *several(chosen, VARIANTS), more)
    if record := keep(Path("docs", "stability.json"), title(data, more), found, USUAL):
        found = record[title(data, more)]
        Path("docs", "stability.md").write_text("\n".join(page(record)))
        draw(data, found)
    print("\n".join(section(data, found)))


if __name__ == "__main__":
    main(sys.argv[1:])
