r"""What a model with labels y, and perhaps attributes a, does by clamping alone, and what it has to beat.  For reading labels
and attributes there may be a cross-entropy beside the game, `supervised` in conf/model; for nothing else.

asked       y clamped, the chain runs freely: does the judge see the class that was asked for?
joint       nothing clamped: does the judge give x the class that the chain gives it?
copied      y clamped: is a sample nearer to a training image whose label is known than to all the others?
classified  x clamped: argmax_y q(y|x) on test images, of its mean over 16 draws of what lies between
attributes  y and a clamped to those of test images: does a sample measure as it was asked to?
edits       a measured of a test image and clamped, z and y inferred; then one attribute is changed and x drawn
halves      y clamped and half of the image, by chains that listen to that half (attentive) and by plain ones
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from gibbsnet.classifier import Judge
from gibbsnet.data import ATTRIBUTES, DataModule, Split, State, hole
from gibbsnet.evaluation.fills import KNOWN, nearest
from gibbsnet.evaluation.latents import probe_accuracy
from gibbsnet.evaluation.references import pixel_mse
from gibbsnet.evaluation.yardsticks import batches
from gibbsnet.noise import Noise

STEPS = (0, 1, 3, 10, 100)
HALF_STEPS = (1, 4, 30)


@torch.no_grad()
def evaluate_labels(
    module, data: DataModule, judge: Judge, *, split: str = "test", samples: int = 5000, steps: Sequence[int] = STEPS,
    images: int = 360, seed: int = 0
) -> dict:  # fmt: skip
    """Scores by the names of the module's docstring, plain numbers in [0, 1].

    Arguments:
        module: a trained module with a variable y; `attributes` and `edits` need an a.
        data: its data; references are fitted to the training examples whose label is known.
        split: of the images that are classified and edited: test, or validation while settings are chosen.
        samples: of each kind; images: that are edited and halved, at most all there are.
    """
    held = getattr(data.data, split)
    result = {
        "asked": asked(module, judge, samples, steps, seed),
        "joint": joint(module, judge, samples, steps, seed),
        "classified": classified(module, data, judge, held, seed),
        "halves": halves(module, data, judge, held, images, seed),
    }
    if data.known is not None:
        result["copied"] = copied(module, data, held, samples, seed)
    if "a" in module.labels:
        result["attributes"] = attributes(module, data, judge, held, samples, seed)
        result["edits"] = edits(module, data, judge, held, images, seed)
    return result


def share(hits: Tensor) -> float:
    return float(hits.double().mean())


def classes(judge: Judge, x: Tensor) -> Tensor:
    """The judge's class of images, (n,)."""
    device = next(judge.parameters()).device
    return torch.cat([judge(part.to(device)).argmax(1).cpu() for part in x.split(500)])


def walked(states: Iterator[State], steps: Sequence[int]) -> Iterator[tuple[int, State]]:
    """(i, state) at these sweeps."""
    return ((i, state) for i, state in enumerate(islice(states, max(steps) + 1)) if i in steps)


def asked(module, judge: Judge, samples: int, steps: Sequence[int], seed: int) -> dict[str, float]:
    """i -> share of samples in which the judge sees the class that y was clamped to; all classes equally often."""
    y = torch.arange(samples) % module.graph["y"].shape[0]
    states = module.fill({"y": y.to(module.device)}, {}, seed)
    return {str(i): share(classes(judge, state["x"]) == y) for i, state in walked(states, {*steps, module.N})}


def joint(module, judge: Judge, samples: int, steps: Sequence[int], seed: int) -> dict[str, dict[str, float]]:
    """i -> agreement: the judge gives x the class y; shuffled: the same with y permuted, what independence would give."""
    result = {}
    for i, state in walked(module.trajectory(samples, seed), {*steps, module.N}):
        seen, y = classes(judge, state["x"]), state["y"].argmax(1).cpu()
        result[str(i)] = {"agreement": share(seen == y), "shuffled": share(seen == y.roll(1))}
    return result


def copied(module, data: DataModule, held: Split, samples: int, seed: int) -> dict[str, float]:
    """Share of images whose nearest training image is one of those whose label is known: of samples with y clamped, i = N
    ("model"), and of held-out images ("real").  Who draws the labelled images by heart obeys every label."""
    train, (real, _) = data.data.train, pictures(data, held, seed)
    marks = torch.zeros(len(train), dtype=torch.long)  # in the labels' place, since pictures come in random order
    marks[data.known] = 1
    many, known = pictures(data, Split(train.x, marks), seed)
    y = torch.arange(samples) % module.graph["y"].shape[0]
    drawn = next(islice(module.fill({"y": y.to(module.device)}, {}, seed), module.N, None))["x"].cpu()
    return {name: share(known[_nearest(many, x)] == 1) for name, x in (("model", drawn), ("real", real[:samples]))}


def _nearest(many: Tensor, x: Tensor) -> Tensor:
    """For each x which of the many is nearest, (n,), in parts: 5,000 images against 55,000 would be a GiB."""
    return torch.cat([nearest(many, part, torch.ones_like(part, dtype=torch.bool)) for part in x.split(500)])


def classified(module, data: DataModule, judge: Judge, held: Split, seed: int) -> dict[str, float]:
    """Accuracies on a split: the model's, those of references with the same known labels, and the judge's with all."""
    x, y = pictures(data, held, seed)
    train = data.data.train if data.known is None else data.data.train[data.known]
    known, labels = pictures(data, train, seed)
    probs = torch.cat([module.posterior_mean({"x": part.to(module.device)}, "y", seed).cpu() for part in x.split(500)])
    return {
        "model": share(probs.argmax(1) == y),
        "logistic": probe_accuracy(known, labels, x, y),
        "nearest": share(labels[_nearest(known, x)] == y),
        "majority": share(y == labels.mode().values),
        "judge": share(classes(judge, x) == y),
    }


def pictures(data: DataModule, split: Split, seed: int) -> tuple[Tensor, Tensor]:
    """All images of a split, dequantised once, in random order, and their labels."""
    parts = [(x, split.y[indices]) for x, indices in batches(data.data, split, (seed, "labels"))]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def halves(module, data: DataModule, judge: Judge, held: Split, images: int, seed: int) -> dict[str, dict[str, float]]:
    """what fills -> i -> share in which the judge sees the class: "own" class y clamped with the left half, y "free", and the
    "next" class clamped: there it is that one that should be seen.  By plain chains, and by "attentive_*" ones."""
    x, y = (part[:images] for part in pictures(data, held, seed))
    seen = ~hole("right", x.shape[1:], len(x), Noise(seed, "half"))
    known, _ = pictures(data, data.data.train[torch.arange(min(KNOWN, len(data.data.train)))], seed)
    scale = module.misfit(placed(module, {"x": known}), seed)
    following = (y + 1) % module.graph["y"].shape[0]
    result = {}
    for kind, listening in (("", None), ("attentive_", scale)):
        for name, given, wanted in (("free", {}, y), ("own", {"y": y}, y), ("next", {"y": following}, following)):
            states = module.fill(placed(module, {"x": x} | given), placed(module, {"x": seen}), seed, listening)
            shares = {str(i): share(classes(judge, s["x"]) == wanted) for i, s in walked(states, HALF_STEPS)}
            result[kind + name] = shares
    return result


def placed(module, state: State) -> State:
    return {v: x.to(module.device) for v, x in state.items()}


def attributes(
    module, data: DataModule, judge: Judge, held: Split, samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """what makes the images -> {each attribute: share that measure as asked, class: share of the class asked for}.

    Asked for are the label and the attributes of images of the split, in turn.  "model": both clamped; "class": the label alone;
    "real": the images themselves, dequantised; "majority": every attribute's more frequent value in training.
    """
    chosen = torch.arange(samples) % len(held)
    y, a = held.y[chosen], held.a[chosen]
    real = data.state(held, chosen[: len(held)], seed)
    rows = {"real": as_asked(data, judge, real["x"], real["y"], real["a"])}
    for name, given in (("model", {"y": y, "a": a}), ("class", {"y": y})):
        states = module.fill(placed(module, given), {}, seed)
        rows[name] = as_asked(data, judge, next(islice(states, module.N, None))["x"].cpu(), y, a)
    common = data.data.train.a.double().mean(0) > 0.5
    rows["majority"] = {name: share(column) for name, column in zip(ATTRIBUTES, (held.a == common).T, strict=True)}
    return rows


def as_asked(data: DataModule, judge: Judge, x: Tensor, y: Tensor, a: Tensor) -> dict[str, float]:
    """Shares of images that have each of the attributes, and the class, as asked."""
    same = data.data.measure(x) == a
    return dict(zip(ATTRIBUTES, map(share, same.T), strict=True)) | {"class": share(classes(judge, x) == y)}


def edits(
    module, data: DataModule, judge: Judge, held: Split, images: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """attribute -> what edits -> {changed, class_kept, others_kept, mse}.

    "model": a measured of the image and clamped, z and y inferred; then one attribute is changed and x drawn;
    "reconstruction": the same, none changed; "nearest": the nearest training image that has the attribute changed.
    """
    real = data.state(held, torch.arange(min(images, len(held))), seed)
    train = data.data.train
    known = data.state(train, None, seed)["x"]
    state = module.infer(placed(module, {"x": real["x"], "a": real["a"]}), seed)
    again = module.edit(state, "a", state["a"], seed).cpu()
    result = {}
    for k, name in enumerate(ATTRIBUTES):
        wanted = real["a"].clone()
        wanted[:, k] = ~wanted[:, k]
        edited = module.edit(state, "a", wanted.to(state["a"]), seed).cpu()
        found = torch.empty_like(real["x"])
        for value in (False, True):
            there = known[train.a[:, k] == value]
            mine = real["x"][wanted[:, k] == value]
            found[wanted[:, k] == value] = there[nearest(there, mine, torch.ones_like(mine, dtype=torch.bool))]
        makers = {"model": edited, "reconstruction": again, "nearest": found}
        result[name] = {maker: edit(data, judge, real["x"], x, wanted, k) for maker, x in makers.items()}
    return result


def edit(data: DataModule, judge: Judge, x: Tensor, edited: Tensor, wanted: Tensor, k: int) -> dict[str, float]:
    """What became of attribute k, of the class, of the other attributes and of the pixels."""
    same = data.data.measure(edited) == wanted
    others = [j for j in range(same.shape[1]) if j != k]
    return {
        "changed": share(same[:, k]),
        "class_kept": share(classes(judge, edited) == classes(judge, x)),
        "others_kept": share(same[:, others]),
        "mse": pixel_mse(edited, x),
    }
