r"""What stands beside a model's scores: a Gaussian on pixels, the mean image, and principal components."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from gibbsnet.evaluation.latents import flat
from gibbsnet.noise import Noise


def gaussian_draws(x: Tensor, n: int, noise: Noise, low: float = -1.0, high: float = 1.0) -> Tensor:
    r"""Draws of the single Gaussian fitted to x, clipped to the range of the pixels.

    With centred data :math:`X` of m rows and :math:`g \sim N(0, I_m)`, :math:`\mu + X^T g / \sqrt{m - 1}` has exactly
    the sample covariance: no matrix is factorised, and fewer examples than pixels are no exception.

    Arguments:
        x: dequantised training images, shape (m, ...).
        n: number of draws.
        noise: keyed randomness.

    Returns:
        float32, shape (n, ...).
    """
    rows = x.flatten(1).float()
    mean = rows.mean(dim=0)
    rows = (rows - mean) / (len(rows) - 1) ** 0.5
    draws = [mean + noise.normal((len(part), len(rows))).to(rows) @ rows for part in torch.arange(n).split(500)]
    return torch.cat(draws).clamp(low, high).reshape(n, *x.shape[1:])


def pixel_mse(x: Tensor, y: Tensor) -> float:
    """The mean of (x - y)^2 / 4 over examples and pixels: images in [-1, 1] compared in units of [0, 1]; (n, *) both."""
    return float((x.double() - y.double()).square().mean()) / 4


class Components:
    """The leading principal components of training images.

    Arguments:
        x: dequantised training images, shape (m, ...).
        dim: their number; at most m and the number of pixels.
    """

    def __init__(self, x: Tensor, dim: int, seed: int = 0):
        rows = flat(x)
        self.pca = PCA(min(dim, *rows.shape), random_state=seed).fit(rows)

    def codes(self, x: Tensor) -> Tensor:
        """The coordinates of images (n, ...) on the components, (n, dim)."""
        return torch.from_numpy(self.pca.transform(flat(x)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (n, ...) projected to the span of the components."""
        return torch.from_numpy(self.pca.inverse_transform(self.codes(x).numpy())).reshape(x.shape)
