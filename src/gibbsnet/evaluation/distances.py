r"""Distances between sets of points, as pure functions; n counts points, d coordinates; arithmetic is in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gibbsnet.noise import Noise, seed_of


def energy_distance(a: Tensor, b: Tensor) -> float:
    r"""The energy distance of two samples, 0 if and only if they are one empirical law.

    .. math:: 2 \, E |a - b| - E |a - a'| - E |b - b'|

    with means over all pairs, the zero distances of a point to itself included; shapes (n, d) and (m, d).

    Reference:
        Energy statistics (Szekely & Rizzo, 2013), https://doi.org/10.1016/j.jspi.2013.03.018
    """
    return 2 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)


def mean_distance(a: Tensor, b: Tensor) -> float:
    """The mean Euclidean distance over all pairs of a row of `a` and a row of `b`."""
    return float(torch.cdist(a.double(), b.double()).mean())


def split_band(pool: Tensor, splits: int = 200, quantile: float = 0.95, seed: int = 0) -> float:
    r"""What the energy distance of two halves of one sample of size 2n stays below: a quantile over random halvings.

    With :math:`s_i = \pm 1` for the two halves and D the matrix of pairwise distances, computed once, the energy
    distance of a halving is :math:`- s^T D s / n^2`.

    Arguments:
        pool: points, shape (2n, d); the last one is left out when their number is odd.
    """
    half = len(pool) // 2
    pool = pool[: 2 * half].double()
    order = Noise(seed, "split_band").uniform((splits, 2 * half)).argsort(dim=1)
    signs = torch.where(order < half, 1.0, -1.0).double()
    distances = -((signs @ torch.cdist(pool, pool)) * signs).sum(dim=1) / half**2
    return float(distances.quantile(quantile))


@dataclass(frozen=True)
class Whitening:
    """An affine map that gives the sample it was fitted to zero mean and unit covariance.

    Directions with less than `floor` of the largest variance are dropped, since whitening would raise their noise to
    the rank of a signal, and at most `keep` are kept, the largest first; constant samples keep every direction, times 1e6.
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, x: Tensor, keep: int = 128, floor: float = 1e-2) -> "Whitening":
        """Fit to x, shape (n, d)."""
        x = x.double()
        centred = x - x.mean(dim=0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(x) - 1, 1))
        values, vectors = values.flip(0)[:keep], vectors.flip(1)[:, :keep]
        kept = values >= floor * values[0]
        return cls(x.mean(dim=0), vectors[:, kept] / values[kept].clamp(min=1e-12).sqrt())

    def __call__(self, x: Tensor) -> Tensor:
        return (x.double() - self.mean) @ self.matrix


class JointDistance:
    r"""The energy distance of pairs (features of x, z, ...) to real pairs, with a real-against-real band.

    Every part is whitened by the real pairs' statistics, each on its own, so that correlations *between* x and z, the
    thing to be tested, survive. Both sides hold n pairs; the band is made of halvings of 2n real ones, so that it has
    the same sampling noise.

    Arguments:
        real: the parts of 2n real pairs, each of shape (2n, d_part), row by row belonging together.
        seed: keys the halvings and the shuffle.
    """

    def __init__(self, real: Sequence[Tensor], seed: int = 0):
        self.seed, self.n = seed, len(real[0]) // 2
        self.finite = all(bool(part.isfinite().all()) for part in real)
        self.whitening = [Whitening.fit(part if self.finite else torch.zeros_like(part)) for part in real]
        self.parts = [white(part) for white, part in zip(self.whitening, real, strict=True)]
        self.half = torch.cat(self.parts, dim=1)[: self.n]
        self.spread = mean_distance(self.half, self.half)

    def __call__(self, parts: Sequence[Tensor]) -> float:
        """The distance of n pairs, given by their parts, to n real ones; nan where something is not finite."""
        return self._to_half([white(part) for white, part in zip(self.whitening, parts, strict=True)])

    def band(self, splits: int = 200) -> float:
        """95 % of real-against-real distances lie below this."""
        return split_band(torch.cat(self.parts, dim=1), splits, seed=self.seed) if self.finite else float("nan")

    def shuffled(self) -> float:
        """The distance of real pairs whose parts beyond the first were given to other rows: it must leave the band."""
        other = [part[self.n : 2 * self.n] for part in self.parts]
        order = permutation(self.n, self.seed, "shuffled")
        return self._to_half([other[0], *(part[order] for part in other[1:])])

    def _to_half(self, whitened: Sequence[Tensor]) -> float:
        pairs = torch.cat(list(whitened), dim=1)
        if not (self.finite and bool(pairs.isfinite().all())):
            return float("nan")
        return 2 * mean_distance(pairs, self.half) - mean_distance(pairs, pairs) - self.spread


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 256, seed: int = 0) -> float:
    r"""The sliced 2-Wasserstein distance of two samples of equal size.

    .. math:: \Big( E_\theta \, \frac{1}{n} \sum_i \big( (a \theta)_{(i)} - (b \theta)_{(i)} \big)^2 \Big)^{1/2}

    with :math:`\theta` uniform on the sphere and (i) for the i-th smallest. In units of the coordinates.

    Arguments:
        a, b: points, shape (n, ...) each, flattened to (n, d).
        directions: the number of draws of :math:`\theta`, the same for every call with one seed and d.

    Raises:
        ValueError: when the samples differ in size or shape.

    Reference:
        Sliced and Radon Wasserstein Barycenters (Bonneel et al., 2015), https://doi.org/10.1007/s10851-014-0506-3
    """
    if a.shape != b.shape:
        raise ValueError(f"sliced_wasserstein: samples of shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    a, b = a.flatten(1).double(), b.flatten(1).double()
    theta = Noise(seed, "sliced_wasserstein").normal((directions, a.shape[1]), dtype=torch.float64)
    theta = theta / theta.norm(dim=1, keepdim=True)
    return float(((a @ theta.T).sort(dim=0).values - (b @ theta.T).sort(dim=0).values).square().mean().sqrt())


def permutation(n: int, *key: int | str) -> Tensor:
    """A random order of 0..n-1, a pure function of n and the key."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(*key)))
