r"""How well a partially clamped chain fills in what is missing of real images, and what it has to beat.

For images x with a hole, K fills each:

    mse           (fill - x)^2 / 4 over the pixels of the hole, one fill
    mse_of_mean   the same of the mean of the K fills, which is what regression aims at
    diversity     the same between two fills of one image.  Were the fills draws of the data's own law given what is held, it
                  would equal mse: a fill is then as far from the truth as from another fill
    class_kept    the judge gives fill and x the same class; class_voted: the most frequent class of the K fills
    class_score   of all fills

Where the hole holds another image's part instead (a mix), all of x is held, and what the model makes of it is x drawn again
from the chain's latents, K times:

    mse           (drawn - mix)^2 / 4 over all pixels
    either        the judge gives what is drawn the class of one of the two images
    class_score   of all that is drawn

Where the hole lies in a latent, entries of it are held at what the model infers of x, and all of x is missing: the numbers are
those of fills, over all pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product

import torch
from torch import Tensor

from gibbsnet.classifier import Judge
from gibbsnet.data import DataSet, hole
from gibbsnet.evaluation.references import pixel_mse
from gibbsnet.evaluation.scores import class_score
from gibbsnet.evaluation.yardsticks import batches
from gibbsnet.noise import Noise, seed_of

HOLES = ("left", "right", "top", "bottom", "row", "random")
MIXED = ("right", "bottom")
IN_LATENT = ("none", "random", "left")  # what is missing of it
STEPS = (1, 4, 30)
FILLS = 14  # of each image
KNOWN = 1000  # training images that say how far x lies from its mean
# Name -> whether a chain begins from a chosen dream, and whether it refuses sweeps: for either it listens.
PLAIN = {"plain": (False, False)}
WAYS = {**PLAIN, "attentive": (True, True)}
APART = {**WAYS, "refused": (False, True), "chosen": (True, False)}


@torch.no_grad()
def evaluate_fills(
    module, data: DataSet, judge: Judge, *, holes: Sequence[str] = HOLES, steps: Sequence[int] = STEPS, images: int = 360,
    dreams: int = 2000, seed: int = 0, labelled: bool = False
) -> dict:  # fmt: skip
    """hole -> what fills -> scores: "plain" and "attentive" chains after some sweeps, and "mean", "nearest", "ridge", "real".

    Arguments:
        module: a trained module (`fill`, `misfit`).
        data: its images; holes are cut into the first `images` of the test split, references are fitted to the rest.
        judge: the data set's classifier.
        dreams: that an attentive chain chooses its start from.
        labelled: an image's label is held beside what is seen of it, by a module with a variable y; references are then those
            among images of that label, whether the module knew their labels or not.
    """
    x, y, known, labels = _examples(data, images, seed)
    scale, told = _scale(module, known, seed), {"y": y} if labelled else {}
    result = {}
    for kind in holes:
        missing = hole(kind, data.shape, len(x), Noise(seed, "holes", kind))
        beside = by_class(known, labels, x, y, missing) if labelled else dict(references(known, x, missing))
        rows = {name: fill[None] for name, fill in beside.items()}
        rows |= dict(chains(module, {"x": x, **told}, {"x": ~missing}, steps, seed, WAYS, scale, dreams))
        result[kind] = {name: scores(judge, x, fills, missing) for name, fills in rows.items()}
    return result


@torch.no_grad()
def evaluate_apart(
    module, data: DataSet, judge: Judge, *, holes: Sequence[str] = MIXED, steps: Sequence[int] = (0, *STEPS), images: int = 360,
    dreams: int = 2000, seed: int = 0
) -> dict:  # fmt: skip
    """hole -> what fills -> scores, of what an attentive chain is made of: "plain" chains; "refused", which start as they do and
    refuse sweeps; "chosen", which start from the best of the dreams and refuse none; "attentive", both.  Arguments as above."""
    x, _, known, _ = _examples(data, images, seed)
    scale, result = _scale(module, known, seed), {}
    for kind in holes:
        missing = hole(kind, data.shape, len(x), Noise(seed, "holes", kind))
        found = chains(module, {"x": x}, {"x": ~missing}, steps, seed, APART, scale, dreams)
        result[kind] = {name: scores(judge, x, fills, missing) for name, fills in found}
    return result


@torch.no_grad()
def evaluate_mixes(
    module, data: DataSet, judge: Judge, *, holes: Sequence[str] = MIXED, steps: Sequence[int] = STEPS, images: int = 360,
    dreams: int = 2000, seed: int = 0
) -> dict:  # fmt: skip
    """hole -> what is drawn of a mix of each test image and the next, whose part the hole has -> scores: by "plain" and
    "attentive" chains after some sweeps; the "mean" of, and the "nearest" among, training and validation images, and the mix as
    it is "pasted".  Arguments as above."""
    x, _, known, _ = _examples(data, images, seed)
    scale, result = _scale(module, known, seed), {}
    for kind in holes:
        missing = hole(kind, data.shape, len(x), Noise(seed, "holes", kind))
        mix = torch.where(missing, x.roll(-1, 0), x)
        held = torch.ones_like(missing)
        rows = {"pasted": mix, "mean": known.mean(0).expand_as(mix), "nearest": known[nearest(known, mix, held)]}
        rows = {name: shown[None] for name, shown in rows.items()}
        rows |= dict(chains(module, {"x": mix}, {}, steps, seed, WAYS, scale, dreams))
        result[kind] = {name: mixed(judge, x, mix, shown) for name, shown in rows.items()}
    return result


@torch.no_grad()
def evaluate_latent_holes(
    module, data: DataSet, judge: Judge, *, holes: Sequence[str] = IN_LATENT, steps: Sequence[int] = STEPS, images: int = 360,
    seed: int = 0
) -> dict:  # fmt: skip
    """latent -> what is missing of it -> what fills -> scores: "plain" chains that hold the rest of that latent as the model
    infers it, and draw x and the other latents; "nearest" and "ridge", which see those entries alone; "mean" and "real".
    Arguments as above; the hole "none" leaves the whole latent held."""
    x, _, known, _ = _examples(data, images, seed)
    here = module.infer({"x": x.to(module.device)}, seed)
    apart = seed_of(seed, "known")  # else the k-th image of both would have the same noise
    there = module.infer({"x": known.to(module.device)}, apart)
    result: dict = {v: {} for v in module.latents}
    for v, kind in product(module.latents, holes):
        z, known_z, all_of_x = here[v].cpu(), there[v].cpu(), torch.ones_like(x, dtype=torch.bool)
        missing = torch.zeros_like(z, dtype=torch.bool)
        if kind != "none":
            missing = hole(kind, z[0].shape, len(z), Noise(seed, "holes", kind))
        rows = {name: fill[None] for name, fill in _told_by(known, known_z, x, z, missing)}
        rows |= dict(chains(module, {v: z}, {v: ~missing}, steps, seed, PLAIN, None, 0))
        result[v][kind] = {name: scores(judge, x, fills, all_of_x) for name, fills in rows.items()}
    return result


def _told_by(known: Tensor, known_z: Tensor, x: Tensor, z: Tensor, missing: Tensor) -> Iterator[tuple[str, Tensor]]:
    """`references` that see of images x (n, C, H, W) nothing but those entries of a latent z (n, *) that are not missing."""
    rows, both = (torch.cat([a.flatten(1), b.flatten(1)], 1) for a, b in ((known, known_z), (x, z)))
    pixels = x[0].numel()
    holes = torch.cat([torch.ones(len(x), pixels, dtype=torch.bool), missing.flatten(1)], 1)
    for name, fill in references(rows, both, holes):
        yield name, fill[:, :pixels].view_as(x)


def _examples(data: DataSet, images: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Test images and their labels; those of training and validation, and theirs."""
    x, which = next(batches(data, data.test, (seed, "fills"), min(images, len(data.test)), size=images))
    parts, indices = zip(*batches(data, data.development, (seed, "fills", "known")), strict=True)
    return x, data.test.y[which], torch.cat(parts), data.development.y[torch.cat(indices)]


def _scale(module, known: Tensor, seed: int) -> float:
    """What attentive chains listen with."""
    return module.misfit({"x": known[:KNOWN].to(module.device)}, seed)


def chains(
    module, given: Mapping[str, Tensor], seen: Mapping[str, Tensor], steps: Sequence[int], seed: int,
    ways: Mapping[str, tuple[bool, bool]], scale: float | None, dreams: int,
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """(name, fills (K, n, C, H, W)) of chains that hold what is given, values (n, ...), of a variable in `seen` what its mask
    shows; where all of x is held, x drawn from their latents.

    scale, dreams: what those of the `ways` that listen take, see `fill`.
    """
    n = len(next(iter(given.values())))
    given, seen = (
        {v: t.repeat(FILLS, *[1] * (t.ndim - 1)).to(module.device) for v, t in of.items()} for of in (given, seen)
    )
    whole = "x" in given and "x" not in seen
    show = (lambda state: module.decode(state, seed)) if whole else (lambda state: state["x"])
    for name, (chooses, refuses) in ways.items():
        listening, among = scale if chooses or refuses else None, dreams if chooses else 0
        walk = module.fill(given, seen, seed, listening, among, refuses=refuses)
        for i, state in enumerate(islice(walk, max(steps) + 1)):
            if i in steps:
                yield f"{name} {i}", show(state).cpu().unflatten(0, (FILLS, n))


@torch.no_grad()
def scores(judge: Judge, x: Tensor, fills: Tensor, missing: Tensor) -> dict[str, float]:
    """The numbers of the module's docstring for fills (K, n, C, H, W) of images (n, C, H, W)."""
    probs = _judged(judge, fills)
    real, classes = _judged(judge, x[None]).argmax(2)[0], probs.argmax(2)
    voted = torch.nn.functional.one_hot(classes, probs.shape[2]).sum(0).argmax(1)
    others = zip(fills, fills.roll(1, 0), strict=True)
    return {
        "mse": sum(pixel_mse(fill[missing], x[missing]) for fill in fills) / len(fills),
        "mse_of_mean": pixel_mse(fills.mean(0)[missing], x[missing]),
        "diversity": sum(pixel_mse(a[missing], b[missing]) for a, b in others) / len(fills),
        "class_kept": float((classes == real).double().mean()),
        "class_voted": float((voted == real).double().mean()),
        "class_score": _sure(probs),
    }


@torch.no_grad()
def mixed(judge: Judge, x: Tensor, mix: Tensor, shown: Tensor) -> dict[str, float]:
    """The numbers of the module's docstring for what is shown (K, n, C, H, W) of mixes (n, C, H, W) of each x with the next."""
    probs = _judged(judge, shown)
    one, classes = _judged(judge, x[None]).argmax(2)[0], probs.argmax(2)
    return {
        "mse": sum(pixel_mse(each, mix) for each in shown) / len(shown),
        "either": float(((classes == one) | (classes == one.roll(-1))).double().mean()),
        "class_score": _sure(probs),
    }


def _judged(judge: Judge, images: Tensor) -> Tensor:
    """p(class) (K, n, classes) of images (K, n, C, H, W)."""
    device = next(judge.parameters()).device
    return torch.stack([judge(some.to(device)).softmax(1).cpu() for some in images])


def _sure(probs: Tensor) -> float:
    """The class score of p(class) (K, n, classes); a single fill stands FILLS times, for with few samples it is biased."""
    return class_score(probs.repeat(FILLS // len(probs), 1, 1).flatten(0, 1))[0]


def references(known: Tensor, x: Tensor, missing: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, fill (n, C, H, W)): the images themselves, the mean, the nearest known image, and ridge regression."""
    yield "real", x
    yield "mean", torch.where(missing, known.mean(0), x)
    yield "nearest", torch.where(missing, known[nearest(known, x, ~missing)], x)
    yield "ridge", ridge(known, x, missing)


def by_class(known: Tensor, labels: Tensor, x: Tensor, y: Tensor, missing: Tensor) -> dict[str, Tensor]:
    """`references` of images whose labels y are known too: each among the known images of its class."""
    filled: dict[str, Tensor] = {}
    for c in y.unique():
        mine = y == c
        for name, fill in references(known[labels == c], x[mine], missing[mine]):
            filled.setdefault(name, torch.empty_like(x))[mine] = fill
    return filled


def nearest(known: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """For each x (n, *), which of the known (m, *) is nearest on the seen entries, (n,)."""
    held, seen, rows = torch.where(seen, x, 0).flatten(1), seen.flatten(1).to(x), known.flatten(1)
    return (seen @ rows.square().T - 2 * held @ rows.T).argmin(1)


def ridge(known: Tensor, x: Tensor, missing: Tensor, alpha: float = 1.0) -> Tensor:
    r"""The missing entries by ridge regression on the seen ones, x (n, *) filled in.

    With the scatter matrix S of the centred known images, W = (S_ss + alpha I)^-1 S_sm: scikit-learn's Ridge(alpha), but the
    images are multiplied out once and not for every mask.
    """
    rows, values, holes = known.flatten(1).double(), x.flatten(1).double(), missing.flatten(1)
    mean = rows.mean(0)
    scatter, filled = (rows - mean).T @ (rows - mean), values.clone()
    masks, which = holes.unique(dim=0, return_inverse=True)
    for k, mask in enumerate(masks):
        ss, sm = scatter[~mask][:, ~mask], scatter[~mask][:, mask]
        weights = torch.linalg.solve(ss + alpha * torch.eye(len(ss), dtype=ss.dtype), sm)
        examples = which == k
        part = filled[examples]
        part[:, mask] = mean[mask] + (values[examples][:, ~mask] - mean[~mask]) @ weights
        filled[examples] = part
    return filled.view_as(x).to(x.dtype)
