r"""A module and its data set to metrics.json.

The module is used through `trajectory`, `infer`, `posterior_mean` and `reconstruct` alone, keyed by the seed: the same
weights, seed and number of threads give the same numbers, bit for bit, on a CPU.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from gibbsnet.classifier import Judge
from gibbsnet.data import DataSet, Split
from gibbsnet.evaluation.distances import JointDistance
from gibbsnet.evaluation.inception import Extractor, extract, find_inception, inception_scores, to_bytes
from gibbsnet.evaluation.latents import non_gaussianity, probe_accuracy
from gibbsnet.evaluation.references import Components, pixel_mse
from gibbsnet.evaluation.scores import switch_rate
from gibbsnet.evaluation.spread import spread
from gibbsnet.evaluation.yardsticks import Judged, Look, Points, Yardstick, batches, yardstick
from gibbsnet.noise import Noise, seed_of

STEPS = (0, 1, 3, 10, 100, 1000)
DRAWS = 10_000  # draws of z that a mixture is fitted to


def evaluate(
    module,
    data: DataSet,
    judge: Judge | None = None,
    *,
    seed: int = 0,
    samples: int = 5000,
    steps: Sequence[int] = STEPS,
    untrained=None,
    inception: Extractor | str | None = "find",
    inception_samples: int = 50_000,
    pairs: int = 2000,
    batch: int = 1000,
) -> dict:
    """All scores of a module, as plain numbers in the layout of metrics.json; what is not finite is None.

    Arguments:
        module: a trained module (see docs/design.md for its methods).
        data: its data set, or the DataModule that holds it; the test split is read here and nowhere else.
        judge: the data set's classifier; without one, distances in pixels take the place of class scores.
        seed: keys everything drawn here.
        samples: chains, and so samples at every i; at least 10.
        steps: the i at which the chain is scored; N is added.
        untrained: a module of the same shape that was never trained, whose encoder is the probe's control.
        inception: the extractor for the real Inception score and FID, None for none, "find" to look for it.
        inception_samples: samples for those two alone.
        pairs: n of the joint distance, at most `samples`.
        batch: chains run side by side; the first batch gives the switch rate.

    Returns:
        {"samples", "chain", "latent", "reconstruction", "reference"}. What depends on a latent is below its name, also
        in reference.pca and reference.untrained_encoder. reference.test.joint_distance is the band: 95 % of
        real-against-real distances lie below it; joint_distance_shuffled, of real pairs with shuffled z, must not.

    Raises:
        ValueError: when there are fewer than 10 samples.
    """
    if samples < 10:
        raise ValueError(f"evaluation.samples is {samples}: the class score needs at least 10")
    data, pairs = getattr(data, "data", data), min(pairs, samples)
    real, device = data.development, getattr(module, "device", torch.device("cpu"))
    stick = yardstick(data, judge, real, seed, device, samples)
    with torch.no_grad():
        joint = JointDistance(clamped_pairs(module, stick, 2 * pairs, seed), seed)
        watched = Watched(module, stick, {*steps, module.N}, samples, pairs, batch, seed)
        reference = references(module, stick, samples, joint, untrained, seed)
        at_n = stick.scores(watched.looks[module.N])
        if "class_score" in at_n:  # from chance to what real images reach
            best = reference["test"]["class_score"] - 1  # 0 where each of the score's splits holds one image
            at_n["class_score_ratio"] = (at_n["class_score"] - 1) / best if best else math.nan
            del at_n["classes"]
        chain = {
            str(i): stick.brief(look) | {"joint_distance": joint(watched.pairs(i))}
            for i, look in sorted(watched.looks.items())
        }
        if watched.switching:
            chain["switch_rate"] = switch_rate(watched.switching)
        return plain(
            {
                "samples": at_n | real_inception(module, data, inception, inception_samples, batch, seed),
                "chain": chain,
                "latent": {z: latent_scores(module, stick, z, seed) for z in latents(module)},
                "reconstruction": {z: reconstruction(module, stick, z, seed) for z in latents(module)},
                "reference": reference,
            }
        )


def validation_distance(
    module, data: DataSet, judge: Judge | None = None, seed: int = 0, samples: int = 1000
) -> dict[str, float]:
    """A quick look at samples at i = N against the *validation* split, for choosing among checkpoints.

    Returns:
        "distance", always: the Frechet distance of the judge's features, for toys that of the modes' shares, else the
        sliced Wasserstein distance; inf when the samples are not finite, which no minimum takes. Beside it the scores
        under their own names.
    """
    data = getattr(data, "data", data)
    stick = _validation(data, judge, getattr(module, "device", torch.device("cpu")))
    with torch.no_grad():
        parts = enumerate(sizes(samples, min(samples, 500)))
        looks = spread(parts, lambda part: stick.look(draw(module, part[1], seed, "validation", part[0])))
        look = Look.join(looks)
        scores = stick.quick(look)
    if not look.features.isfinite().all():
        scores["distance"] = math.inf
    return {name: value if math.isfinite(value) else math.inf for name, value in scores.items()}


@lru_cache(maxsize=1)
def _validation(data: DataSet, judge: Judge | None, device: torch.device) -> Yardstick:
    return yardstick(data, judge, data.validation, 0, device)


def sizes(n: int, batch: int) -> list[int]:
    """n as batches of at most `batch`."""
    return [len(part) for part in torch.arange(n).split(batch)]


def draw(module, size: int, *key: int | str) -> Tensor:
    """One batch of samples at i = N."""
    return next(islice(module.trajectory(size, seed_of(*key)), module.N, None))["x"]


class Watched:
    """Chains run once, and what was kept of them.

    Attributes:
        looks: at all samples, by i.
        switching: class probabilities of the first batch of chains at i = N, N + 10, ..., the last i being the first
            beyond 100; empty without classes.
    """

    def __init__(self, module, stick: Yardstick, wanted: set[int], samples: int, pairs: int, batch: int, seed: int):
        grid = [*range(module.N, max(module.N, 100) + 1, 10)]
        grid = {*grid, grid[-1] + 10} if isinstance(stick, Judged | Points) else set()

        def watch(part: tuple[int, int]) -> Batch:
            number, size = part
            switching, paired = grid if number == 0 else set(), wanted if number * batch < pairs else set()
            return watched(module, stick, wanted, switching, paired, size, seed_of(seed, "chain", number))

        parts = spread(enumerate(sizes(samples, batch)), watch)
        self._pairs, self.switching = pairs, parts[0].switching
        self.looks = {i: Look.join(part.looks[i] for part in parts) for i in wanted}
        self._latents = {i: [part.latents[i] for part in parts if part.latents] for i in wanted}

    def pairs(self, i: int) -> list[Tensor]:
        """The first pairs at i: features of x, and each latent."""
        parts = [torch.cat(part)[: self._pairs] for part in zip(*self._latents[i], strict=True)]
        return [self.looks[i].features[: self._pairs], *parts]


class Batch(NamedTuple):
    """What was kept of one batch of chains: looks and latents by i, class probabilities for the switch rate."""

    looks: dict[int, Look]
    latents: dict[int, list[Tensor]]
    switching: list[Tensor]


def watched(
    module, stick: Yardstick, wanted: set[int], switching: set[int], paired: set[int], size: int, seed: int
) -> Batch:
    """Runs one batch of chains to the last i that anybody asks for."""
    kept = Batch({}, {}, [])
    for i, state in enumerate(module.trajectory(size, seed)):
        if i in wanted | switching:
            look = stick.look(state["x"])
        if i in switching:
            kept.switching.append(look.probs)
        if i in wanted:
            kept.looks[i] = look
        if i in paired:
            kept.latents[i] = [state[z].flatten(1).cpu() for z in latents(module)]
        if i == max(wanted | switching):
            return kept


def latents(module) -> list[str]:
    """The names of the latents that are vectors: labels among the variables are no latents."""
    return [z for z in module.latents if z != "y"]


def inferred(module, stick: Yardstick, split: Split, n: int | None, seed: int, purpose: str) -> Iterator[dict]:
    """The clamped chain's states for n examples of a split, in batches."""
    for number, (x, _) in enumerate(batches(stick.data, split, (seed, purpose), n, stick.device)):
        yield {"x": x} | module.infer({"x": x}, seed_of(seed, purpose, number))


def clamped_pairs(module, stick: Yardstick, n: int, seed: int) -> list[Tensor]:
    """n real pairs: features of x and each latent, (n, d) each.

    x is drawn from the training split alone, the joint that the game is about: of a small data set the validation split
    is far enough from it to leave the band. It is drawn *with* replacement, since halves of a sample without repetition
    differ less from each other than n independent draws do.
    """
    train = stick.data.train
    chosen = (Noise(seed, "pairs").uniform((n,)) * len(train)).long()
    rows = []
    for state in inferred(module, stick, train[chosen], n, seed, "pairs"):
        rows.append(
            [stick.look(state["x"]).features, *(state[z].flatten(1).cpu() for z in latents(module))],
        )
    return [torch.cat(part) for part in zip(*rows, strict=True)]


def latent_scores(module, stick: Yardstick, latent: str, seed: int) -> dict[str, float]:
    """probe_accuracy (with labels) and non_gaussianity of one latent."""
    fitted, held = (
        torch.cat([s[latent].flatten(1).cpu() for s in inferred(module, stick, split, n, seed, f"z of {name}")])
        for name, split, n in (
            ("real", stick.real, DRAWS),
            ("test", stick.data.test, min(DRAWS, 7 * len(stick.data.test))),
        )
    )
    return probe(module, stick, latent, seed) | {"non_gaussianity": non_gaussianity(fitted, held)}


def probe(module, stick: Yardstick, latent: str, seed: int) -> dict[str, float]:
    """probe_accuracy of a module's posterior mean, development split to test split; nothing without labels."""

    def codes(x: Tensor, number: int) -> Tensor:
        return module.posterior_mean({"x": x}, latent, seed_of(seed, "probe", number)).flatten(1).cpu()

    return probe_of(stick, codes, seed)


def probe_of(stick: Yardstick, codes, seed: int) -> dict[str, float]:
    """probe_accuracy of any codes(x, number of the batch) -> (B, d); nothing where there is nothing to tell apart."""
    if stick.data.classes < 2:
        return {}
    sets = []
    for name, split in (("real", stick.real), ("test", stick.data.test)):
        parts = batches(stick.data, split, (seed, "probe", name), None, stick.device)
        rows = [(codes(x, number), split.y[indices]) for number, (x, indices) in enumerate(parts)]
        sets += [torch.cat(column) for column in zip(*rows, strict=True)]
    return {"probe_accuracy": probe_accuracy(*sets)}


def reconstruction(module, stick: Yardstick, latent: str, seed: int) -> dict[str, float]:
    """mse (images) and same_class (where there are classes) of one draw up and one down, on test examples."""
    states = list(inferred(module, stick, stick.data.test, None, seed, "reconstruction"))
    again = [module.reconstruct(s, latent, seed_of(seed, "reconstruct", k)) for k, s in enumerate(states)]
    return likeness(stick, torch.cat([s["x"] for s in states]), torch.cat(again))


def likeness(stick: Yardstick, x: Tensor, y: Tensor) -> dict[str, float]:
    """mse and same_class of examples and what stands for them, (n, *) each."""
    scores = {} if stick.data.levels == 0 else {"mse": pixel_mse(x, y)}
    pieces = [(stick.same_class(a, b), len(a)) for a, b in zip(x.split(500), y.split(500), strict=True)]
    if pieces[0][0] is not None:
        scores["same_class"] = sum(same * n for same, n in pieces) / len(x)
    return scores


def references(module, stick: Yardstick, samples: int, joint: JointDistance, untrained, seed: int) -> dict:
    """What stands beside the model's scores: see `evaluate`."""
    data = stick.data
    test = stick.look_at(data.test, "test", samples)
    result = {
        "test": stick.scores(test, unique=min(samples, len(data.test)))
        | {"joint_distance": joint.band(), "joint_distance_shuffled": joint.shuffled()}
    }
    if data.levels:
        result |= image_references(module, stick, samples, seed)
    if untrained is not None and data.classes > 1:
        result["untrained_encoder"] = {z: probe(untrained.to(stick.device), stick, z, seed) for z in latents(module)}
    return result


def image_references(module, stick: Yardstick, samples: int, seed: int) -> dict:
    """The Gaussian, the mean image, and principal components and raw pixels as codes."""
    pixels = stick.pixels()
    x = torch.cat([x for x, _ in batches(stick.data, stick.data.test, (seed, "reconstruction"))])
    result = {
        "gaussian": stick.scores(stick.gaussian(samples)),
        "mean_image": likeness_on(stick, x, pixels.mean(dim=0).expand_as(x)),
        "raw_pixels": probe_of(stick, lambda x, _: x.flatten(1).cpu(), seed),
        "pca": {},
    }
    dims = {z: module.infer({"x": x[:1].to(stick.device)}, seed)[z].numel() for z in latents(module)}
    by_dim = {d: pca_scores(Components(pixels, d), stick, x, seed) for d in set(dims.values())}
    result["pca"] = {z: by_dim[d] for z, d in dims.items()}
    return {name: scores for name, scores in result.items() if scores}


def pca_scores(components: Components, stick: Yardstick, x: Tensor, seed: int) -> dict[str, float]:
    """What principal components keep of x, (n, C, H, W), and know of its class."""
    kept = likeness_on(stick, x, components.reconstruct(x))
    return kept | probe_of(stick, lambda x, _: components.codes(x), seed)


def likeness_on(stick: Yardstick, x: Tensor, y: Tensor) -> dict[str, float]:
    return likeness(stick, x.to(stick.device), y.to(stick.device, x.dtype))


def real_inception(module, data: DataSet, extractor, n: int, batch: int, seed: int) -> dict[str, float]:
    """inception_score, inception_score_std and fid of n samples against all of the training set, extracted by all ranks
    together; {} where they cannot be had or mean nothing (other pixels than bytes)."""
    if data.levels != 256:
        return {}
    if extractor == "find":
        extractor = find_inception(device=getattr(module, "device", "cpu"))
    if extractor is None:
        return {}

    def drawn(part: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return extract(extractor, to_bytes(draw(module, part[1], seed, "inception", part[0])))

    def real(images: Tensor) -> Tensor:
        return extract(extractor, images.expand(-1, 3, -1, -1))[0]

    samples = spread(enumerate(sizes(n, min(batch, n))), drawn)
    return inception_scores(samples, spread(data.development.x.split(500), real))


def plain(value):
    """Python numbers, dicts and None for what is not finite: what JSON can hold."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if value is None or isinstance(value, bool | int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None
