"""What models do beside drawing samples, over seeds: python -m benchmarks.abilities PART [seeds=1,2,3] [models=...]

PART is one of

    labels   a label and attributes as variables: asked for, read, edited; by the game, by dreams; 100 labels, HALI (digits)
    fills    holes in real images, filled by partially clamped chains                      (digits)
    fills_mnist   the same, ten minutes of a core for each training                        (MNIST)
    fills_labels  the same by a model with labels, that are held too                      (digits)
    fills_labels_mnist   the same, by the model that learned from 100 labels              (MNIST)
    fills_apart   what an attentive chain owes to its start, and what to its refusals     (digits)
    fills_latents   what parts of z tell a chain that holds nothing else                  (digits)
    levels   HALI with three levels, on a diamond, with a wide z1, with a narrow z2, and swept by passes  (digits)
    modes    three levels: sweeps until perception settles, and how daydreams are woken    (digits)
    phases   negative phases that dream, are ready-to-hand, or daydream, against one positive phase
    approach how fast chains forget a wrong start, and whether a learned one helps         (ring)
    labels_mnist  100 labels, over one level and two, half an hour or more for each run    (MNIST)
    levels_mnist  two latent levels, HALI's and GibbsNet's                                 (MNIST)

Trains, and scores by benchmarks.labels, .fill, .settle and .approach.  Writes docs/abilities.json and .md; a run that is finished
is not run again, an interrupted one goes on.  With `pictures=NAME` nothing is recorded: samples, t-SNEs and latent planes of
the models' first seed are laid side by side, docs/figures/NAME_PART_*.png.  `phases clock=8` trains nothing and prints the CPU
milliseconds of the phases' steps, 8 rounds interleaved in one thread, and the steps that take as long as dreaming's.  Run
folders: runs/abilities/<part>/<model>/<seed>.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import approach, fill, labels, settle, stability
from benchmarks.contenders import clock, equal_time
from benchmarks.gallery import gallery
from benchmarks.runs import (
    REFERENCES,
    command,
    figure,
    finished,
    flat,
    head,
    in_one_line,
    keep,
    lasting,
    matches,
    numbers,
    options,
    pictures,
    place,
    rounds,
    several,
    summary,
    table,
)
from benchmarks.stability import CHAIN, YOUNG
from gibbsnet.config import load
from gibbsnet.data import ATTRIBUTES
from gibbsnet.evaluation.fills import HOLES, IN_LATENT, MIXED
from gibbsnet.evaluation.labels import STEPS

# One positive phase and equal time for all: a sweep, anew in every batch. Daydreaming alone teaches p(x|z1) nothing, so every
# second or fourth batch dreams. dreaming_short is gibbsnet2 but for its persistent chains. Steps: 6,000 of dreaming, in CPU
# milliseconds of fp32, by `clock=8` (docs/lab/modes.md).
ALL = ["experiment=phases"]
PHASES = {
    "dreaming": ["mode=dreaming", "steps=6000"],
    "dreaming_short": ["mode=dreaming", f"{CHAIN}.steps=[0,1]", "steps=6500"],
    "ready_to_hand": ["mode=ready_to_hand", "steps=6700"],
    "ready_to_hand_2": ["mode=ready_to_hand", f"{CHAIN}.dream_every=2", "steps=6200"],
    "daydreaming_2": ["mode=daydreaming", f"{CHAIN}.dream_every=2", "steps=6700"],
    "daydreaming_4": ["mode=daydreaming", f"{CHAIN}.dream_every=4", "steps=7400"],
}
# Not whitened where the diamond is not. Above both of the diamond's arms z2 has 8 dimensions, or 32
# (diamond_wide); hali_wide has one z1 of as many as the diamond's z1 and w1. Then HALI as README has it, and GibbsNet by its
# passes, in as much time; passes_young, in as many steps, has no chain that goes on.
DEEP = ["experiment=digits_levels"]
LEVELS = {
    "hali3": [*DEEP, "model=hali3"],
    "diamond": [*DEEP, "model=diamond"],
    "diamond_wide": [*DEEP, "model=diamond", "size.apex=[32]"],
    "hali_wide": [*DEEP, "model=hali", "size.z1=[64]", "game.whiten=0.0"],
    "hali_narrow": ["experiment=digits_hali"],
    "passes": ["experiment=digits_passes"],
    "passes_young": ["experiment=digits_passes", *YOUNG],
}
# As HALI, which takes no sweep: y is one more variable of its top block.
AS_HALI = [f"{CHAIN}.steps=0", *YOUNG, "model.name=labelled2_hali"]
EXPERIMENTS = ("labels", "labels_game", "labels_dreams", "labels100", "attributes", "labels2", "labels100_levels")
LABELS = {
    **{name: [f"experiment={name}"] for name in EXPERIMENTS},
    "labels100_hali": ["experiment=labels100_levels", *AS_HALI],
}
LABELS_MNIST = {
    "labels100_mnist": ["experiment=labels100_mnist"],
    "labels100_mnist_hali": ["experiment=labels100_mnist_levels", "model.name=labelled2_hali"],
    "labels100_mnist_passes": [
        "experiment=labels100_mnist_levels", f"{CHAIN}.steps=[0,1]", f"{CHAIN}.persistent=0.5", "critics.joint.hears.age=embed",
    ],
}  # fmt: skip
FILLS = {model: [f"model={model}", "steps=6000"] for model in ("gibbsnet", "ali")}
BRIEF = ["evaluation.samples=1000", "evaluation.steps=[0,1,3]"]  # of MNIST's fills: the page shows none of it
TRAINED = ["train/steps", "train/cpu_seconds"]
CHAINED = [
    "samples/class_score", "samples/class_frechet_ratio", "chain/3/class_score",
    *(f"chain/{i}/class_frechet_ratio" for i in (3, 100, 1000)), "chain/1000/joint_distance", "chain/switch_rate",
    "latent/*/probe_accuracy", "reconstruction/*/mse", "reconstruction/*/same_class", *REFERENCES,
]  # fmt: skip
LABELLED = [
    *(f"asked/{i}" for i in STEPS), *(f"joint/{i}/agreement" for i in STEPS), "joint/3/shuffled", "classified/*",
    *(f"halves/{kind}{name}/*" for kind in ("", "attentive_") for name in ("free", "own", "next")),
    "copied/*", *(f"attributes/*/{a}" for a in (*ATTRIBUTES, "class")),
    *(f"edits/{a}/*/{score}" for a in ATTRIBUTES for score in ("changed", "class_kept", "others_kept")),
]  # fmt: skip
FILLED = [f"{hole}/*/{score}" for hole in HOLES for score in fill.NAMES]
APART = [f"{hole}/*/{score}" for hole in MIXED for score in fill.NAMES]
IN_Z = [f"z/{hole}/*/{score}" for hole in IN_LATENT for score in fill.NAMES]
TOLD = [f"labelled_{row}" for row in FILLED]
MIXES = [f"mix_{hole}/*/{score}" for hole in MIXED for score in fill.MIXES]
PERCEIVED = ("sweeps", "d_0", "band", "mse_settled", "same_0", "same_settled", "same_last")
WANDERED = ("alarms", "same_0", "same_10", f"same_{settle.SWEEPS - 1}", f"mse_{settle.SWEEPS - 1}")
SETTLED = [
    *(f"present_at_hand/{p}/{n}" for p in settle.POTENCIES for n in PERCEIVED),
    *(f"daydreaming/{t}/{n}" for t in settle.THRESHOLDS for n in WANDERED),
]
APPROACHED = ["second", "half_life", "noise", "rate/*", *(f"d/*/{i}" for i in approach.SHOWN)]


@dataclass(frozen=True)
class Part:
    """models: name -> its command line. seeds: the usual ones. rows: of the page.

    score: what measures a run, beside `evaluate`, and leaves its numbers in the run's `file`.
    newest: what that file holds only since its measure last grew, as a name joined with '/'; where it lacks that, the run is
        measured again.
    runs: the part whose runs are measured, if it is another one.
    """

    title: str
    models: Mapping[str, Sequence[str]]
    seeds: str
    rows: Sequence[str]
    score: Callable[[Path], Mapping] | None = None
    file: str = ""
    newest: str = ""
    runs: str = ""


PARTS = {
    "labels": Part(
        "Labels and attributes",
        LABELS,
        "1,2,3", [*LABELLED, *CHAINED, *TRAINED], labels.measure, "labels.json",
    ),
    "fills": Part(
        "Partially clamped chains",
        FILLS,
        "0,1,2", [*FILLED, *MIXES, *TRAINED], fill.measure, "fill.json", "mix_right",
    ),
    "fills_mnist": Part(
        "Partially clamped chains on MNIST",
        {"gibbsnet": ["experiment=mnist", *BRIEF], "ali_floor": ["experiment=mnist", "model=ali", "steps=13900", *BRIEF]},
        "0,1,2", [*FILLED, *MIXES, *TRAINED], fill.measure, "fill.json", "mix_right",
    ),
    "fills_labels": Part(
        "Partially clamped chains that know the label", {"labels": ["experiment=labels"]}, "1,2,3",
        [*TOLD, *FILLED, *MIXES, *TRAINED], fill.measure, "fill.json", "labelled_right",
    ),
    "fills_apart": Part(
        "What an attentive chain owes to its start and to its refusals",
        FILLS,
        "0,1,2", [*APART, *TRAINED], fill.apart, "apart.json", "right", "fills",
    ),
    "fills_labels_mnist": Part(
        "Partially clamped chains that know the label, on MNIST", {"labels100_mnist": LABELS_MNIST["labels100_mnist"]},
        "2,4", [*TOLD, *FILLED, *MIXES, *TRAINED], fill.measure, "fill.json", "labelled_right", "labels_mnist",
    ),
    "fills_latents": Part(
        "Chains that hold a part of z",
        FILLS,
        "0,1,2", [*IN_Z, *TRAINED], fill.in_latents, "latents.json", "", "fills",
    ),
    "levels": Part(
        "Latent levels", {name: [*of, f"model.name={name}"] for name, of in LEVELS.items()}, "1,2,3", [*CHAINED, *TRAINED]
    ),
    "modes": Part(
        "Modes of being",
        {"gibbsnet2": ["experiment=digits_levels2"]},
        "41,42,43", [*SETTLED, *CHAINED, *TRAINED], settle.measure, "settle.json",
    ),
    "phases": Part(
        "Negative phases", {name: [*ALL, *of, f"model.name={name}"] for name, of in PHASES.items()}, "1,2,3", [*CHAINED, *TRAINED]
    ),
    "labels_mnist": Part(
        "100 labels of MNIST", LABELS_MNIST, "2,3,4",  # of seed 1 a first form was scored
        [*LABELLED, *CHAINED, *TRAINED], labels.measure, "labels.json",
    ),
    "levels_mnist": Part(
        "Two latent levels on MNIST",
        {"hali": ["experiment=mnist_levels"], "gibbsnet2": ["experiment=mnist_levels2"]},
        "1,2,3", [*CHAINED, *TRAINED],
    ),
    "approach": Part(
        "The approach to the stationary law",
        {how: stability.settings("ring", how) for how in ("random", "learned")},
        "1,2,3", [*APPROACHED, "chain/switch_rate", *TRAINED], approach.measure, "approach.json", "d/mixture",
    ),
}  # fmt: skip


def settings(part: str, model: str, seed: int, more: Sequence[str] = ()) -> list[str]:
    """A run's command line."""
    where = place("abilities", PARTS[part].runs or part, model, seed, more)
    return [*PARTS[part].models[model], f"seed={seed}", f"run={where}", *more]


def scored(part: str, model: str, seed: int, more: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of one run that is trained, evaluated and measured: those that the page shows, and what tells its judge."""
    run, of = finished(settings(part, model, seed, more)), PARTS[part]
    with in_one_line():
        if of.score and not measured(run / of.file, of.newest):
            of.score(run)
    found = numbers(run) | (dict(flat(json.loads((run / of.file).read_text()))) if of.file else {})
    return {n: v for n, v in found.items() if n.startswith("reference/") or shown(part, n)}


def measured(path: Path, newest: str) -> bool:
    """Whether a measure's file is there, with all that it holds today."""
    if not newest or not path.exists():
        return path.exists()
    return any(f"{name}/".startswith(f"{newest}/") for name, _ in flat(json.loads(path.read_text())))


def shown(part: str, name: str) -> bool:
    """Whether the page has a row for this number."""
    return any(matches(row, {"": {name: 0}}) == [name] for row in PARTS[part].rows)


def measure(part: str, models: Sequence[str], seeds: Sequence[int], more: Sequence[str] = ()) -> dict:
    """What is recorded: of every model the numbers of its seeds."""
    found = {m: [] for m in models}
    for seed in seeds:
        for m in models:
            found[m].append(scored(part, m, seed, more))
    return {"seeds": list(seeds), "settings": lasting(more), "models": found}


def section(part: str, found: Mapping) -> list[str]:
    """A part of docs/abilities.md."""
    columns = {m: summary(seeds) for m, seeds in found["models"].items()}
    made = command(f"abilities {part}", found, PARTS[part].models)
    return [f"## {PARTS[part].title}", "", f"`{made}`", "", *table(columns, PARTS[part].rows), ""]


def page(record: Mapping) -> list[str]:
    """docs/abilities.md."""
    parts = [line for part in PARTS if part in record for line in section(part, record[part])]
    return [*head("What models do beside drawing samples"), *parts]


def main(arguments: Sequence[str]) -> None:
    part = arguments[0] if arguments else ""
    if part not in PARTS:
        raise SystemExit(f"which part? One of {', '.join(PARTS)}, for example python -m benchmarks.abilities fills")
    usual = PARTS[part]
    chosen, more = options(arguments[1:], seeds=usual.seeds, models=",".join(usual.models), clock="", pictures="")
    models, seeds = several(chosen, usual.models)
    beside = pictures(chosen)
    if many := rounds(chosen):
        if part != "phases" or "dreaming" not in models:
            raise SystemExit(
                f"clock={many}: expected with phases, whose steps take as long as dreaming's; dreaming among the models"
            )
        with in_one_line():
            configs = {m: load(settings(part, m, seeds[0], more)) for m in models}
        ms = clock(configs, many)
        print(ms, equal_time(ms, "dreaming", 6000), sep="\n")
        return
    if beside:
        folders = {m: finished(settings(part, m, seeds[0], more)) for m in models}
        print(*gallery(folders, figure(beside, part, {"settings": more})), sep="\n")
        return
    found = measure(part, models, seeds, more)
    if record := keep(Path("docs", "abilities.json"), part, found, usual.models):
        found = record[part]
        Path("docs", "abilities.md").write_text("\n".join(page(record)))
    print("\n".join(section(part, found)))


if __name__ == "__main__":
    main(sys.argv[1:])
