r"""Scores of samples, as pure functions of a classifier's probabilities and features.

Everywhere n counts samples, K classes and F features; arithmetic is in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

CONFIDENCE = 0.9  # what counts as belonging to a class: a probability of at least this


def class_score(probs: Tensor, splits: int = 10) -> tuple[float, float]:
    r"""The Inception-score formula on any classifier's probabilities.

    .. math:: S = \exp \Big( \frac{1}{n} \sum_x KL \big( p(y | x) \,\|\, p(y) \big) \Big), \quad
              p(y) = \frac{1}{n} \sum_x p(y | x)

    computed on each of `splits` contiguous parts, as the reference implementation does.

    Arguments:
        probs: :math:`p(y | x)`, shape (n, K), rows summing to 1.
        splits: the number of parts; n // splits samples each, the remainder left out.

    Returns:
        The mean and the (population) standard deviation over the parts, each score in [1, K].

    Raises:
        ValueError: when there are fewer samples than parts.

    Reference:
        Improved Techniques for Training GANs (Salimans et al., 2016), https://arxiv.org/abs/1606.03498
    """
    size = len(probs) // splits
    if size == 0:
        raise ValueError(f"class_score: {len(probs)} samples cannot be cut into {splits} splits")
    parts = probs.double()[: size * splits].reshape(splits, size, -1)
    marginal = parts.mean(dim=1, keepdim=True)
    divergence = (torch.xlogy(parts, parts) - torch.xlogy(parts, marginal)).sum(dim=2).mean(dim=1)
    scores = divergence.exp()
    return float(scores.mean()), float(scores.std(correction=0))


@dataclass(frozen=True)
class Statistics:
    r"""What the Frechet distance needs to know of a set of features.

    mean: :math:`\mu`, shape (F,).  cov: :math:`\Sigma` with n - 1 in the denominator, shape (F, F).
    """

    mean: Tensor
    cov: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """The statistics of features, shape (n, F), n > 1."""
        features = features.double()
        centred = features - features.mean(dim=0)
        return cls(features.mean(dim=0), centred.T @ centred / (len(features) - 1))


def frechet(a: Statistics, b: Statistics) -> float:
    r"""The squared Frechet (2-Wasserstein) distance of two Gaussians.

    .. math:: d^2 = \| \mu_a - \mu_b \|^2 + \mathrm{tr} \big(
              \Sigma_a + \Sigma_b - 2 ( \Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2} )^{1/2} \big)

    The product is symmetrised before its root is taken, so that singular covariances (dead features) need no
    offset on the diagonal and no imaginary part has to be thrown away.

    Returns:
        The distance, at least 0; nan when a statistic is not finite.

    Reference:
        GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017), https://arxiv.org/abs/1706.08500
    """
    if not all(bool(t.isfinite().all()) for t in (a.mean, a.cov, b.mean, b.cov)):
        return float("nan")
    root = symmetric_root(a.cov)
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return max(float(distance), 0.0)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The positive semi-definite square root of a symmetric matrix, negative round-off set to zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def kernel_distance(a: Tensor, b: Tensor) -> float:
    r"""The unbiased squared maximum mean discrepancy under the kernel :math:`k(u, v) = (u \cdot v / F + 1)^3`.

    .. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{m (m - 1)} \sum_{i \ne j} k(b_i, b_j)
              - \frac{2}{n m} \sum_{i, j} k(a_i, b_j)

    It is computed on all pairs at once instead of the mean over random subsets, whose expectation it shares.

    Arguments:
        a, b: independent draws of features, shapes (n, F) and (m, F); two copies of one image are not independent.

    Returns:
        The distance; it may be slightly negative, since its expectation is 0 for equal distributions.

    Reference:
        Demystifying MMD GANs (Binkowski et al., 2018), https://arxiv.org/abs/1801.01401
    """
    a, b = a.double(), b.double()
    return _mean_kernel(a) + _mean_kernel(b) - 2 * float(_kernel_rows(a, b).mean()) / len(b)


def _mean_kernel(a: Tensor) -> float:
    """The mean of k over pairs of *different* rows."""
    diagonal = _cube(a.square().sum(dim=1) / a.shape[1] + 1)
    return float((_kernel_rows(a, a) - diagonal).sum()) / (len(a) * (len(a) - 1))


def _kernel_rows(a: Tensor, b: Tensor) -> Tensor:
    """The sums of k(a_i, b_j) over j, shape (n,), a block of rows at a time to keep memory small."""
    return torch.cat([_cube(block @ b.T / a.shape[1] + 1).sum(dim=1) for block in a.split(1000)])


def _cube(x: Tensor) -> Tensor:
    return x * x * x  # a power would cost ten times as much


def confident_class(probs: Tensor) -> Tensor:
    """The most probable class, or -1 where its probability is below .9 (or not a number); (..., K) -> (...)."""
    highest, label = probs.max(dim=-1)
    return torch.where(highest >= CONFIDENCE, label, -1)


def classes(probs: Tensor, share: float = 0.02) -> int:
    """How many classes hold at least `share` of all n samples, counting only confident ones; probs: (n, K)."""
    label = confident_class(probs)
    held = torch.bincount(label[label >= 0], minlength=probs.shape[1])
    return int((held >= share * len(probs)).sum())


def switch_rate(probs: Sequence[Tensor]) -> float:
    r"""How often chains change class over ten sweeps, in units of what independent draws would do.

    .. math:: \frac{P(c_{i + 10} \ne c_i \mid \text{both confident})}{1 - \sum_c p_c^2}

    where :math:`p_c` is the share of class c among the labels at both ends, averaged over i. A frozen chain has 0, and
    so has one that shows a single class for ever; independent redraws have 1.

    Arguments:
        probs: class probabilities of the same n chains at i = N, N + 10, N + 20, ..., each of shape (n, K).

    Returns:
        The rate, at least 0; nan when no chain is ever confident at both ends.
    """
    label = torch.stack([confident_class(p) for p in probs])
    rates = [_switches(*pair, probs[0].shape[-1]) for pair in pairwise(label)]
    defined = [rate for rate in rates if rate is not None]
    return sum(defined) / len(defined) if defined else float("nan")


def _switches(before: Tensor, after: Tensor, count: int) -> float | None:
    both = (before >= 0) & (after >= 0)
    before, after = before[both], after[both]
    if len(before) == 0:
        return None
    share = torch.bincount(torch.cat([before, after]), minlength=count).double() / (2 * len(before))
    chance = 1 - share.square().sum()
    changed = (before != after).double().mean()
    return float(changed / chance) if changed > 0 else 0.0
