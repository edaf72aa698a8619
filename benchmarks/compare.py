r"""ALI against GibbsNet: python -m benchmarks.compare DATA [seeds=21,22,23,24,25] [models=ali,gibbsnet,...] [data.root=data]

DATA is ring, grid, digits, mnist, mnist_long (some of them, four times as long), cifar10 (for a GPU) or cifar10_long (two of
them, to the end of ALI's published recipe).  All contenders have the same networks, bounds, critic, losses and average of the
weights, and equal time: a step count each, from the CPU milliseconds of their steps, interleaved, in one thread (`clock=20`: 20
rounds, printed; `device=cuda`: a GPU's milliseconds; STEPS holds what came out).  Differences are taken seed by seed from ALI
under GibbsNet's floor.  Writes docs/comparison.json, .md, docs/figures/comparison_DATA.png and memory_DATA.png; some models alone
join those of the same seeds there.  With `pictures=NAME` nothing is recorded: the models' samples, t-SNEs and latent planes of
the first seed are laid side by side, docs/figures/NAME_DATA_*.png.  A run that is finished is not run again; run folders:
runs/compare/DATA/MODEL/SEED.  Further settings, but for those of the place where it runs, make a table, figures and run folders
of their own, DATA_SETTING=VALUE.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks import runs
from benchmarks.contenders import clock, equal_time
from benchmarks.gallery import gallery
from benchmarks.runs import (
    command,
    compared,
    figure,
    finished,
    head,
    lasting,
    matches,
    nested,
    numbers,
    options,
    paired,
    several,
    summary,
    table,
    title,
)
from gibbsnet import plots
from gibbsnet.config import load
from gibbsnet.report.charts import colours, memory

DATA = ("ring", "grid", "digits", "mnist", "mnist_long", "cifar10", "cifar10_long")
BASE = "ali_floor"  # what differences are taken from
ALI = ["model=ali", "chains.unclamped.steps=0"]
CHAINS = ["chains.unclamped.steps={steps}", "size.floor_swept={floor}"]
# Data -> contender -> what was found best for it there (docs/lab/tuning.md), the values of SEARCHED and of the floor under q's
# scale: tuned, by sweeps/tuning.yaml at its own N, on digits one setting for both; nearest, of sweeps/random.yaml's settings that
# whose chain is nearest at 1000; surest, that with the greatest class score after three sweeps (on MNIST of random_mnist.yaml's).
SEARCHED = ("optim.lr", "optim.lr_critic", "penalty.x", "penalty.z")
ALIKE = (0.00106, 0.0026, 0.0482, 0.0369, 0.439)
TUNED = {
    "digits": {
        "ali_tuned": ALIKE,
        "gibbsnet_tuned": ALIKE,
        "ali_nearest": (0.0018, 0.000864, 0.134, 0.256, 0.878),
        "gibbsnet_nearest": (0.00134, 0.0016, 0.172, 0.00693, 0.782),
        "ali_surest": (0.000502, 0.00167, 0.0379, 0.0037, 0.389),
        "gibbsnet_surest": (0.000485, 0.00152, 0.0208, 0.157, 0.237),
    },
    "ring": {
        "ali_tuned": (0.000952, 0.00177, 0.00396, 0.0339, 0.219),
        "gibbsnet_tuned": (0.000784, 0.00263, 0.003, 0.0121, 0.217),
        "ali_nearest": (0.000485, 0.00152, 0.0208, 0.157, 0.237),
        "gibbsnet_nearest": ALIKE,
    },
    "mnist": {
        "ali_surest": (0.000355, 0.000766, 0.382, 0.105, 0.814),  # ALI's nearest late as well
        "gibbsnet_surest": (0.000261, 0.000788, 0.1, 0.0402, 0.217),
    },
}
# GibbsNet with what was found best for ALI, which so chooses the ground: contender -> whose it is.
BORROWED = {"gibbsnet_alike": "ali_surest", "gibbsnet_alike_nearest": "ali_nearest"}
YOUNG = ["model=gibbsnet_published", *CHAINS]  # every chain starts anew
# Half never start again, in experiments without such chains as well.
OLD = ["model=gibbsnet", *CHAINS, "chains.unclamped.persistent=0.5", "critics.joint.hears.age=embed"]
# Contender -> its settings over the data's `experiment`. "{own}" is the floor under q's scale that ALI has there, "{floor}"
# GibbsNet's, "{steps}" its number of sweeps as published.
CONTENDERS = {
    "ali": [*ALI, "size.floor={own}"],
    "ali_floor": [*ALI, "size.floor={floor}"],
    "ali_cycle": [*ALI, "size.floor={floor}", "game.cycle=1.0"],
    "gibbsnet": YOUNG,
    "gibbsnet_persistent": OLD,
    "gibbsnet_cycle": [*OLD, "game.cycle=1.0"],
    "gibbsnet_short": [*OLD, "chains.unclamped.steps=[0,1]"],
    "gibbsnet_short_sharp": [*OLD, "chains.unclamped.steps=[0,1]", "size.floor_swept={own}"],
    "gibbsnet_short_cycle": [*OLD, "chains.unclamped.steps=[0,1]", "game.cycle=1.0"],
    "gibbsnet_mixed": [*OLD, "chains.unclamped.steps=[0,[1,4]]"],
    "gibbsnet_cut": [*YOUNG, "chains.unclamped.grad_draws=1"],
    # The encoder learns by the critic's sight of z, not through the decoder; above, of the unclamped chain, the decoder alone.
    "gibbsnet_cut_x": [*YOUNG, "chains.unclamped.cut=[x]"],
    "untied": ["model={untied}", "chains.unclamped.steps=0", "size.floor_swept={floor}"],
    "gibbsnet_sharp": ["model=gibbsnet", "size.floor_swept={own}"],
    "ali_shift": [*ALI, "size.floor={floor}", "game.shift=1"],
    "gibbsnet_shift": [*OLD, "chains.unclamped.steps=[0,1]", "game.shift=1"],
    "ali_cycle_sharp": [*ALI, "size.floor={own}", "game.cycle=1.0"],
    "gibbsnet_cycle_sharp": ["model=gibbsnet", "size.floor_swept={own}", "game.cycle=1.0"],
    "gibbsnet_cycle_late": [
        "model=gibbsnet",
        "size.floor_swept={own}",
        "game.cycle=1.0",
        "chains.unclamped.rise=16000",
    ],
    # With what TUNED has for the data; where it has nothing, STEPS does not name them.
    "ali_tuned": [*ALI, "size.floor={own}"],
    "gibbsnet_tuned": [*OLD, "chains.unclamped.steps=[0,1]"],
    "ali_nearest": [*ALI, "size.floor={own}"],
    "gibbsnet_nearest": [*OLD, "chains.unclamped.steps=[0,1]"],
    "ali_surest": [*ALI, "size.floor={own}"],
    "gibbsnet_surest": [*OLD, "chains.unclamped.steps=[0,1]"],
    **{name: [*OLD, "chains.unclamped.steps=[0,1]"] for name in BORROWED},
}
CALLED = {"gibbsnet": "gibbsnet_published"}
# How many sweeps GibbsNet as published takes there.
SWEEPS = {"ring": "1", "grid": "[0,1]", "digits": "[0,3]", "mnist": "[0,3]", "cifar10": "[0,3]"}
# As deep as GibbsNet's chain there.
SWEPT = {"ring": "untied", "grid": "untied", "digits": "untied3", "mnist": "untied3", "cifar10": "untied3"}
# ALI's own (on MNIST a lower one: both ship with .5 there), GibbsNet's; on CIFAR-10 they are one. On the grid GibbsNet's was .2
# until gibbsnet_sharp.
FLOORS = {"ring": (0.1, 0.3), "grid": (0.1, 0.2), "digits": (0.15, 0.7), "mnist": (0.3, 0.5), "cifar10": (0.5, 0.5)}
# What is compared on a data set, and how long each is trained.
# `equal_time` of milliseconds before they were rounded to the tenths in docs/lab/comparison.md, fixed before any run. From the
# tenths untied would have 7600 on the ring, and ali 15300 on digits: its 15200 there is that of benchmarks/results.py.
RING = {"ali": 9600, "ali_floor": 9600, "ali_cycle": 9000, "gibbsnet": 8000, "gibbsnet_persistent": 6900,
        "gibbsnet_cycle": 6500, "gibbsnet_short": 7400, "gibbsnet_mixed": 6600,
        "gibbsnet_cut": 9200, "gibbsnet_cut_x": 8000, "untied": 7700, "gibbsnet_sharp": 8000, "gibbsnet_short_sharp": 7400,
        "ali_tuned": 9600, "gibbsnet_tuned": 7400, "ali_nearest": 9600, "gibbsnet_nearest": 7400,
        "gibbsnet_alike_nearest": 7400}  # fmt: skip
GRID = {"ali": 11000, "ali_floor": 11000, "ali_cycle": 9200, "gibbsnet": 10000, "gibbsnet_persistent": 9100,
        "gibbsnet_cycle": 7900, "gibbsnet_cut": 9900, "untied": 8300, "gibbsnet_sharp": 10000,
        "ali_cycle_sharp": 9200, "gibbsnet_cycle_sharp": 8500, "gibbsnet_cycle_late": 8900}  # fmt: skip
DIGITS = {"ali": 15200, "ali_floor": 15200, "ali_cycle": 12700, "gibbsnet": 12000, "gibbsnet_persistent": 10600,
          "gibbsnet_cycle": 9200, "gibbsnet_short": 12300, "gibbsnet_mixed": 11000,
          "gibbsnet_cut": 13400, "gibbsnet_cut_x": 12200, "untied": 8000, "gibbsnet_sharp": 12300,
          "ali_shift": 14400, "gibbsnet_shift": 11900,
          "ali_tuned": 15200, "gibbsnet_tuned": 12300, "ali_nearest": 15200, "gibbsnet_nearest": 12300,
          "ali_surest": 15200, "gibbsnet_surest": 12300, "gibbsnet_alike": 12300,
          "gibbsnet_alike_nearest": 12300}  # fmt: skip
MNIST = {"ali": 13900, "ali_floor": 13900, "ali_cycle": 11800, "gibbsnet": 10000, "gibbsnet_persistent": 8700,
         "gibbsnet_cycle": 7900, "gibbsnet_short": 10000, "gibbsnet_mixed": 9100,
         "gibbsnet_cut": 11600, "gibbsnet_cut_x": 10000, "untied": 6400,
         "gibbsnet_sharp": 10000, "gibbsnet_short_cycle": 8800, "ali_surest": 13900, "gibbsnet_surest": 10000,
         "gibbsnet_alike": 10000}  # fmt: skip
# gibbsnet_sharp is what the experiment holds (grid_plain on the grid), and costs what that costs; on CIFAR-10 both floors are
# one, so it is left out. Those with a cycle loss under ALI's floor cost what the loss adds; on the grid alone.
# gibbsnet_cycle_late sweeps for 900 steps. On images gibbsnet_short_sharp is gibbsnet_sharp, and on the grid such chains learn
# next to nothing: on the ring alone. On the grid gibbsnet_persistent is gibbsnet_short already; gibbsnet_cycle is not timed
# there, nor on CIFAR-10, nor there gibbsnet_short and gibbsnet_mixed: estimates. gibbsnet_short_cycle: of a clock beside
# gibbsnet_short; on MNIST alone.
# CIFAR-10: of milliseconds on a GPU; a twentieth of the published recipe's 200,000.
CIFAR10 = {"ali": 14700, "ali_floor": 14700, "ali_cycle": 12500, "gibbsnet": 10000, "gibbsnet_persistent": 6200,
           "gibbsnet_cycle": 5700, "gibbsnet_short": 7100, "gibbsnet_mixed": 6400,
           "gibbsnet_cut": 11300, "untied": 5600}  # fmt: skip
# The recipe's own length, and what takes as long, to the thousand, in recorded steps: 7.1 and 10.9 ms (docs/scale.md).
RECIPE = {"ali_floor": 200_000, "gibbsnet_short": 130_000}
LONG = {m: 4 * MNIST[m] for m in ("ali", "ali_floor", "ali_cycle", "gibbsnet", "gibbsnet_short",
                                  "ali_surest", "gibbsnet_surest", "gibbsnet_alike")}  # fmt: skip
STEPS = {"ring": RING, "grid": GRID, "digits": DIGITS, "mnist": MNIST, "mnist_long": LONG, "cifar10": CIFAR10,
         "cifar10_long": RECIPE}  # fmt: skip
EVERYWHERE = [
    "latent/*/probe_accuracy", "latent/*/non_gaussianity", "chain/switch_rate", "reconstruction/*/mse",
    "reconstruction/*/same_class", "train/steps", "train/cpu_seconds",
]  # fmt: skip
AT = (0, 1, 3, 10, 100, 1000)
IMAGES = ["samples/class_score", "samples/class_frechet_ratio",
          *(f"chain/{i}/{name}" for name in ("class_score", "class_frechet_ratio", "joint_distance") for i in AT),
          "chain/1000/classes", *EVERYWHERE]  # fmt: skip
TOYS = ["samples/modes", "samples/share", "samples/sliced_wasserstein",
        *(f"chain/{i}/{name}" for name in ("modes", "share", "joint_distance") for i in AT), *EVERYWHERE]  # fmt: skip


def rows(data: str) -> list[str]:
    """What is compared."""
    return [*(TOYS if data in ("ring", "grid") else IMAGES), *runs.REFERENCES]


def tuned(data: str, model: str) -> list[str]:
    """What was found best for a contender there, or for whom it borrows from, as settings; none where it was not tuned."""
    found = TUNED.get(data, {}).get(BORROWED.get(model, model), ())
    floor = "size.floor" if model.startswith("ali") else "size.floor_swept"
    return [f"{key}={value}" for key, value in zip((*SEARCHED, floor), found, strict=bool(found))]


def settings(data: str, model: str, more: Sequence[str] = ()) -> list[str]:
    """A contender's command line, without its seed and steps.

    Its name is its model's, by which the report tells models apart; but for `gibbsnet`, which is not the one of the README.
    """
    examples = data.removesuffix("_long")
    own, floor = FLOORS[examples]
    words = {"own": own, "floor": floor, "untied": SWEPT[examples], "steps": SWEEPS[examples]}
    chosen = [s.format(**words) for s in CONTENDERS[model]] + tuned(examples, model)
    return [
        f"experiment={runs.experiment(data)}",
        f"data={examples}",
        *chosen,
        f"model.name={CALLED.get(model, model)}",
        *more,
    ]


def run(data: str, model: str, seed: int, more: Sequence[str] = ()) -> Path:
    """One finished and evaluated run."""
    where = runs.place("compare", data, model, seed, more)
    return finished([*settings(data, model), f"steps={STEPS[data][model]}", f"seed={seed}", f"run={where}", *more])


def measure(data: str, models: Sequence[str], seeds: Sequence[int], more: Sequence[str] = ()) -> dict:
    """What is recorded: of every model the numbers of its seeds."""
    folders = {m: [] for m in models}
    for seed in seeds:
        for m in models:
            folders[m].append(run(data, m, seed, more))
    models = {m: [kept(numbers(f), data) for f in found] for m, found in folders.items()}
    return {"seeds": list(seeds), "settings": lasting(more), "models": models}


def draw(data: str, found: Mapping) -> None:
    """A table's curves over the steps of the chain, and its distance over memory."""
    runs.redraw(data, found["models"], figure("comparison", data, found), base=BASE)
    if drawn := over_memory(data, found):
        plots.save(drawn, figure("memory", data, found))


def over_memory(data: str, found: Mapping) -> Figure | None:
    """The report's chart of distance over memory, where two models have both."""
    columns = {m: [nested(seed) for seed in seeds] for m, seeds in found["models"].items()}
    return memory(compared(data, columns), colours(list(columns)))


def kept(found: Mapping[str, float], data: str) -> dict[str, float]:
    """Those numbers of a run that are compared, and those that are drawn."""
    compared = {n: found[n] for row in rows(data) for n in matches(row, {data: found}) if n in found}
    return compared | {n: v for n, v in found.items() if n.startswith(("chain/", "reference/"))}


def section(data: str, found: Mapping) -> list[str]:
    """A data set's part of docs/comparison.md."""
    models = found["models"]
    text = [f"## {title(data, found['settings'])}", "", f"`{command(f'compare {data}', found, STEPS[data])}`", ""]
    text += [*table({m: summary(seeds) for m, seeds in models.items()}, rows(data)), ""]
    if BASE in models and len(models) > 1:
        differences = {m: summary(paired(seeds, models[BASE])) for m, seeds in models.items() if m != BASE}
        compared = [row for row in rows(data) if not row.startswith(("reference/", "train/"))]
        text += [f"Less {BASE}, seed by seed:", "", *table(differences, compared, sign="+"), ""]
    kinds = ["comparison", *(["memory"] if over_memory(data, found) else [])]
    return text + [line for kind in kinds for line in (f"![{data}](figures/{figure(kind, data, found).name})", "")]


def page(record: Mapping) -> list[str]:
    """docs/comparison.md."""
    tables = sorted(record, key=lambda name: (DATA.index(name.split()[0]), name))
    parts = [line for name in tables for line in section(name.split()[0], record[name])]
    return [*head("ALI against GibbsNet", runs.ROWS), *parts]


def main(arguments: Sequence[str]) -> None:
    data = arguments[0] if arguments else ""
    if data not in DATA:
        raise SystemExit(f"which data? One of {', '.join(DATA)}, for example python -m benchmarks.compare digits")
    usual = {"seeds": "21,22,23,24,25", "models": ",".join(STEPS[data]), "clock": "", "device": "cpu", "pictures": ""}
    chosen, more = options(arguments[1:], **usual)
    models, seeds = several(chosen, STEPS[data])
    if chosen["device"] not in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]:
        raise SystemExit(f"device={chosen['device']}: expected cpu, or cuda where there is a GPU")
    beside = runs.pictures(chosen)
    if many := runs.rounds(chosen):
        with runs.in_one_line():
            configs = {m: load(settings(data, m, more)) for m in models}
        ms = clock(configs, many, device=chosen["device"])
        base = "gibbsnet" if "gibbsnet" in models else models[0]
        print(ms, equal_time(ms, base, STEPS[data][base]), sep="\n")
        return
    if beside:
        runs_of = {m: run(data, m, seeds[0], more) for m in models}
        print(*gallery(runs_of, figure(beside, data, {"settings": more})), sep="\n")
        return
    found = measure(data, models, seeds, more)
    if record := runs.keep(Path("docs", "comparison.json"), title(data, more), found, STEPS[data]):
        found = record[title(data, more)]
        Path("docs", "comparison.md").write_text("\n".join(page(record)))
        draw(data, found)
    print("\n".join(section(data, found)))


if __name__ == "__main__":
    main(sys.argv[1:])
