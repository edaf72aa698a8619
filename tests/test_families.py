import pytest
import torch
from torch.distributions import OneHotCategorical

from gibbsnet.families import FAMILIES, Bernoulli, Categorical, Gaussian, Pixels, Points, build_family
from gibbsnet.noise import Noise
from tests.models import normal

EACH = [Gaussian(), Gaussian(0.1, 2.0, 0.6), Points(0.3), Pixels(0.2), Bernoulli(), Categorical()]
each = pytest.mark.parametrize("family", EACH, ids=lambda f: type(f).__name__)
SHAPE, DRAWS = (4,), 20000


def some_eta(family, shape=SHAPE, seed=0):
    """eta of one example: the prior and one message."""
    message = normal(1, *family.parameters(shape), seed=seed)
    return family.prior(shape).double() + family.natural(message)


def within(values, expected, k=5.0):
    """Whether the mean over dimension 0 lies within k standard errors of what is expected."""
    error = values.std(0) / len(values) ** 0.5 + 1e-12
    return bool(((values.mean(0) - expected).abs() <= k * error).all())


def test_every_family_is_tested():
    assert {type(family) for family in EACH} == set(FAMILIES.values())


@each
def test_draws_have_the_distribution(family):
    eta = some_eta(family)
    law = family.distribution(eta)
    draws = family.draw(eta.expand(DRAWS, -1), Noise(0))
    assert draws.shape == (DRAWS, *SHAPE) and draws.dtype == torch.float64
    assert law.batch_shape == (1,) and law.event_shape == SHAPE
    assert within(draws, law.mean)
    assert within((draws - law.mean).square(), law.variance)
    assert within(-law.log_prob(draws), law.entropy())
    assert torch.allclose(family.mean(eta), law.mean)
    assert not within(family.draw(some_eta(family, seed=1).expand(DRAWS, -1), Noise(0)), law.mean)


@each
def test_draws_are_independent_across_entries_and_examples(family):
    draws = family.draw(some_eta(family).expand(DRAWS, -1), Noise(1))
    spread = (draws - draws.mean(0)) / draws.std(0)
    if not isinstance(family, Categorical):
        assert within(spread[:, 0] * spread[:, 1], torch.zeros(()))
    assert within(spread[1:] * spread[:-1], torch.zeros(()))


@each
def test_silence_is_the_prior(family):
    shape = (3,)
    law = family.distribution(family.prior(shape)[None])
    mean, variance = {Gaussian: (0, 1), Bernoulli: (0.5, 0.25), Categorical: (1 / 3, 2 / 9)}.get(
        type(family), (0, getattr(family, "scale", 0) ** 2)
    )
    assert torch.allclose(law.mean, torch.full((1, 3), float(mean)))
    assert torch.allclose(law.variance, torch.full((1, 3), float(variance)))


@pytest.mark.parametrize("family", EACH[:5], ids=lambda f: type(f).__name__)
def test_images_and_vectors_alike(family):
    shape = (2, 3, 4)
    eta = some_eta(family, shape).expand(5, *family.parameters(shape))
    draw = family.draw(eta, Noise(0))
    assert draw.shape == (5, *shape) and family.distribution(eta).log_prob(draw).shape == (5,)


def test_a_gaussian_without_bounds_is_the_product_of_the_experts():
    """Against densities multiplied on a grid: N(0, 1) and each message's exp(a z - softplus(b) z^2 / 2)."""
    a, b = normal(3, seed=1), normal(3, seed=2)
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    experts = a[:, None] * grid - 0.5 * torch.nn.functional.softplus(b)[:, None] * grid**2
    weight = torch.softmax(experts.sum(0) - grid**2 / 2, 0)
    mean = (weight * grid).sum()
    std = (weight * (grid - mean) ** 2).sum().sqrt()
    family = Gaussian(floor=1e-5, bound=1e5)
    messages = [family.natural(torch.stack([u, v])[None]) for u, v in zip(a, b, strict=True)]
    mu, sigma = family.moments(family.prior((1,)) + sum(messages))
    assert torch.allclose(mu, mean, atol=1e-6) and torch.allclose(sigma, std, atol=1e-6)


@pytest.mark.parametrize("floor, bound", [(0.5, 3.0), (0.05, 0.7), (1.0, 10.0)])
@pytest.mark.parametrize("size", [1e2, 1e6, 1e30])
def test_bounds_hold_and_gradients_stay_finite(floor, bound, size):
    family = Gaussian(floor, bound)
    message = (size * torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -1.0, 1.0]])).requires_grad_()
    mu, sigma = family.moments(family.prior((2,)) + family.natural(message))
    assert mu.abs().max() <= bound * (1 + 1e-6) and sigma.min() >= floor * (1 - 1e-6) and sigma.max() <= 1 + 1e-6
    (slope,) = torch.autograd.grad((mu + sigma).sum(), message)
    assert slope.isfinite().all()


@pytest.mark.parametrize("floor, ceiling", [(0.3, 0.5), (0.05, 0.9), (0.49, 0.5)])
def test_whoever_hears_somebody_stays_below_the_ceiling(floor, ceiling):
    family = Gaussian(floor, 3.0, ceiling)
    silent = family.prior((2,))[None].double()
    whisper = family.natural(torch.tensor([[0.0, 0.0, -1e3, -1e3]], dtype=torch.float64))
    assert torch.allclose(family.moments(silent)[1], torch.ones(2).double())
    assert torch.allclose(family.moments(silent + whisper)[1], torch.full((2,), ceiling).double())
    loud = family.natural(normal(100, 4, seed=1) * 10)
    assert ((family.moments(silent + loud)[1] <= ceiling + 1e-9) & (family.moments(silent + loud)[1] >= floor)).all()


@pytest.mark.parametrize("ceiling", [0.5, 0.3, 1.1, float("nan")])
def test_a_ceiling_that_leaves_no_room_is_refused(ceiling):
    with pytest.raises(ValueError, match="ceiling"):
        Gaussian(0.5, 3.0, ceiling)


def test_bounds_hold_for_a_prior_that_says_less_than_nothing():
    mu, sigma = Gaussian(0.5, 3.0).moments(torch.tensor([[5.0, -4.0]]))
    assert sigma == 1 and 0 < mu <= 3


@pytest.mark.parametrize("family", EACH[:4], ids=lambda f: type(f).__name__)
def test_draws_are_reparametrised(family):
    eta = some_eta(family).requires_grad_()
    assert torch.autograd.gradcheck(lambda eta: family.draw(eta, Noise(0)), (eta,))


@pytest.mark.parametrize("family", EACH[4:], ids=lambda f: type(f).__name__)
def test_discrete_draws_pass_the_gradient_of_the_mean(family):
    eta = some_eta(family).expand(6, -1).clone().requires_grad_()
    weight = normal(6, 4, seed=3)
    draw = family.draw(eta, Noise(0))
    assert ((draw == 0) | (draw == 1)).all()
    assert isinstance(family, Bernoulli) or (draw.sum(1) == 1).all()
    (slope,) = torch.autograd.grad((weight * draw).sum(), eta)
    (expected,) = torch.autograd.grad((weight * family.mean(eta)).sum(), eta)
    assert torch.allclose(slope, expected) and slope.abs().min() > 0


@pytest.mark.parametrize("family", EACH[4:], ids=lambda f: type(f).__name__)
def test_what_is_certain_is_drawn(family):
    eta = torch.tensor([[200.0, -200.0, -200.0]]).expand(1000, -1)
    assert (family.draw(eta, Noise(0)) == torch.tensor([1.0, 0.0, 0.0])).all()


def test_categorical_agrees_with_torch_on_its_support():
    eta = some_eta(Categorical())
    assert isinstance(Categorical().distribution(eta), OneHotCategorical)


@pytest.mark.parametrize(
    "family, mean",
    [(Points(), [[-4.0, 7.0]]), (Pixels(), [[-0.9, 0.3]]), (Bernoulli(), [[0.1, 0.8]])],
    ids=["points", "pixels", "bernoulli"],
)
def test_a_fitted_prior_has_the_mean_of_the_data(family, mean):
    mean = torch.tensor(mean)
    assert torch.allclose(family.mean(family.fit(mean)), mean, atol=1e-6)
    extreme = family.fit(torch.tensor([[-1.0, 0.0, 1.0]] if not isinstance(family, Bernoulli) else [[0.0, 1.0]]))
    assert extreme.isfinite().all() and extreme.abs().max() < 6


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Gaussian(floor=0), "floor must lie in"),
        (lambda: Gaussian(floor=1.1), "floor must lie in"),
        (lambda: Gaussian(bound=0), "bound must be positive"),
        (lambda: Gaussian(bound=float("inf")), "finite"),
        (lambda: Points(scale=0), "scale must be positive"),
        (lambda: Pixels(scale=-1), "scale must be positive"),
        (lambda: build_family("poisson"), "unknown family 'poisson': expected one of gaussian, points"),
        (lambda: Gaussian().fit(torch.zeros(2)), "prior of Gaussian is fixed"),
        (lambda: Categorical().fit(torch.zeros(2)), "prior of Categorical is fixed"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_build_by_name():
    family = build_family("gaussian", floor=0.2, bound=1.0)
    assert isinstance(family, Gaussian) and (family.floor, family.bound) == (0.2, 1.0)
