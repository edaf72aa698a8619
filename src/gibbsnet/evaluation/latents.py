r"""What the latents know of the class, and how far they are from a Gaussian; all fits are scikit-learn's, seeded."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler
from torch import Tensor

FLOOR = 1e-3  # added to every variance of every mixture, in units of the draws' own variance


def probe_accuracy(train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor, iterations: int = 300) -> float:
    """The test accuracy of a logistic regression (C = 1) on standardised features, fitted to the training features.

    Arguments:
        train, test: features, shapes (n, ...) and (m, ...), flattened; standardised by the training mean and deviation.
        train_y, test_y: labels, int64.
        iterations: of L-BFGS at most; many pixels converge slowly, and the accuracy is settled long before.

    Returns:
        The accuracy in [0, 1]; nan when a feature is not finite.
    """
    a, b = flat(train), flat(test)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    scaler = StandardScaler().fit(a)
    probe = LogisticRegression(C=1.0, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(scaler.transform(a), train_y.cpu().numpy())
    return float(probe.score(scaler.transform(b), test_y.cpu().numpy()))


def non_gaussianity(train: Tensor, test: Tensor, components: int = 10, seed: int = 0) -> float:
    r"""How much better a mixture of Gaussians explains held-out draws than one Gaussian does, in nats per dimension.

    .. math:: \frac{1}{d} \Big( E \log \sum_k \pi_k N(z; \mu_k, \Sigma_k) - E \log N(z; \mu, \Sigma) \Big)

    with full covariances, both fitted to `train`, expectations over `test`. The draws are first standardised by the
    training moments, which leaves the difference as it is, and the same floor is added to the diagonal of every
    :math:`\Sigma`, so that the scale of a latent buys nothing.

    Arguments:
        train, test: draws of z, shapes (n, ...) and (m, ...), flattened to (n, d).

    Returns:
        Nats per dimension: 0 for Gaussian draws, up to what the mixture overfits, which makes it negative; nan when a
        draw is not finite.
    """
    a, b = flat(train), flat(test)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    scaler = StandardScaler().fit(a)
    a, b = scaler.transform(a), scaler.transform(b)
    mixture, single = (
        GaussianMixture(k, covariance_type="full", reg_covar=FLOOR, max_iter=50, random_state=seed)
        for k in (components, 1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(mixture.fit(a).score(b) - single.fit(a).score(b)) / a.shape[1]


def flat(x: Tensor) -> np.ndarray:
    """A tensor as float64 rows, (n, ...) -> (n, d)."""
    return x.detach().flatten(1).double().cpu().numpy()
