r"""Families of distributions: natural parameters -> torch Distribution.

A family turns the sum of a prior and of its neighbours' messages, eta = eta_prior + sum_u natural(message_u), into a
distribution, and draws from it with the noise it is handed:

    Gaussian     eta = (mu / sigma^2, 1 / sigma^2)      messages multiply as experts
    Pixels       eta = atanh(mean), fixed small noise
    Points       eta = mean, fixed small noise
    Bernoulli    eta = logit                            straight-through gradient
    Categorical  eta = logits                           straight-through gradient

Silence, eta = eta_prior, is the prior. What is not finite is not refused here: it shows in the losses, where a batch may be
skipped. Parameters lie along dimension 1: shape (B, k * C, ...) for values (B, C, ...).
"""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical
from torch.nn.functional import one_hot, softplus

from .noise import Noise


class Family:
    """What every family answers; the defaults are those of a family whose one parameter is its natural one."""

    labelled = False  # whether data of it are labels, integers

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of eta, without the batch, for a value of this shape."""
        return shape

    def prior(self, shape: tuple[int, ...]) -> Tensor:
        """eta of a variable to which nobody speaks, shape `parameters(shape)`."""
        return torch.zeros(self.parameters(shape))

    def natural(self, message: Tensor) -> Tensor:
        """A message as a summand of eta."""
        return message

    def value(self, data: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Data as values of a variable of this shape, (B, *shape)."""
        return data.to(dtype)

    def check(self, name: str, data: Tensor, shape: tuple[int, ...], least: int = 0) -> None:
        """Raises ValueError, naming the variable, if the data are none that it can have; `least` = -1 allows unknown labels."""

    def fit(self, mean: Tensor) -> Tensor:
        """The prior eta whose mean is `mean`, where the family's prior may be fitted to data."""
        raise ValueError(f"the prior of {type(self).__name__} is fixed: it cannot be fitted to data")

    def distribution(self, eta: Tensor) -> Distribution:
        """The torch Distribution of values (B, *shape); the batch is its only batch dimension."""
        raise NotImplementedError

    def draw(self, eta: Tensor, noise: Noise) -> Tensor:
        """One reparametrised (or straight-through) draw."""
        raise NotImplementedError

    def mean(self, eta: Tensor) -> Tensor:
        """The distribution's mean, shape (B, *shape)."""
        return self.distribution(eta).mean


def _independent(distribution: Distribution) -> Distribution:
    return Independent(distribution, len(distribution.batch_shape) - 1)


class Gaussian(Family):
    r"""A Gaussian latent with prior N(0, 1), bounded in mean and in scale.

        lambda = 1 + R tanh(s / R),  s = sum_u (softplus(b_u) + l),  R = 1 / floor^2 - 1    => floor <= sigma <= 1
        mu     = c tanh(sum_u a_u / (c lambda))                                             => |mu| <= c
        l      = R artanh((1 / ceiling^2 - 1) / R)                                          => sigma <= ceiling, if it hears any u

    For c, R -> infinity and ceiling = 1 this is the exact product of the experts (a learned prior, whose precision need not be
    1, adds its own to s, and what it lacks may lift sigma above the ceiling). The bounds keep the chain from blowing up (the
    scale of z is free in GibbsNet and grows to escape the penalty) and from freezing (sigma -> 0 stops mixing).  A ceiling below
    1 keeps a neighbour from saying nothing: without it, z1 given z2 may be z1's prior, and z2 then carries nothing.

    Arguments:
        floor: least standard deviation, in (0, 1].
        bound: greatest absolute mean, > 0 and finite.
        ceiling: greatest standard deviation of a variable that hears somebody, in (floor, 1].
    """

    def __init__(self, floor: float = 0.5, bound: float = 3.0, ceiling: float = 1.0):
        if not 0 < floor <= 1:
            raise ValueError(f"a Gaussian's floor must lie in (0, 1], its prior's scale: got {floor}")
        if not 0 < bound < float("inf"):
            raise ValueError(f"a Gaussian's bound must be positive and finite: got {bound}")
        if not (floor < ceiling < 1 or ceiling == 1):
            raise ValueError(
                f"a Gaussian's ceiling must lie in (floor, 1], and the floor is {floor}: got {ceiling}; where size.floor rises, "
                "size.ceiling has to rise with it, or be 1"
            )
        self.floor, self.bound, self.ceiling = floor, bound, ceiling
        self.least = self._room * math.atanh((1 / ceiling**2 - 1) / self._room) if ceiling < 1 else 0.0

    def with_floor(self, floor: float) -> "Gaussian":
        """The same bounds above another floor."""
        return Gaussian(floor, self.bound, self.ceiling)

    @property
    def _room(self) -> float:
        """R, what may be added to the prior's precision."""
        return 1 / self.floor**2 - 1

    def parameters(self, shape):
        return (2 * shape[0], *shape[1:])

    def prior(self, shape):
        return torch.cat([torch.zeros(shape), torch.ones(shape)])

    def natural(self, message):
        a, b = message.chunk(2, dim=1)
        return torch.cat([a, softplus(b) + self.least], dim=1)

    def moments(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, sigma), each (B, *shape)."""
        a, precision = eta.chunk(2, dim=1)
        room = self._room
        said = (precision - 1).clamp_min(0)  # a learned prior might say less than nothing
        precision = 1 + room * torch.tanh(said / room) if room else torch.ones_like(precision)
        return self.bound * torch.tanh(a / (self.bound * precision)), precision.rsqrt()

    def distribution(self, eta):
        return _independent(Normal(*self.moments(eta), validate_args=False))

    def draw(self, eta, noise):
        mu, sigma = self.moments(eta)
        return mu + sigma * noise.normal(mu.shape, mu.dtype)


class Points(Family):
    """Real vectors: Normal(eta, scale), scale > 0 fixed."""

    def __init__(self, scale: float = 0.01):
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be positive and finite: got {scale}")
        self.scale = scale

    def fit(self, mean):
        return mean.clone()

    def location(self, eta: Tensor) -> Tensor:
        """The mean of x given eta."""
        return eta

    def distribution(self, eta):
        location = self.location(eta)
        return _independent(Normal(location, torch.full_like(location, self.scale), validate_args=False))

    def draw(self, eta, noise):
        location = self.location(eta)
        return location + self.scale * noise.normal(location.shape, location.dtype)


class Pixels(Points):
    r"""Images in [-1, 1]: Normal(tanh(eta), scale).

    The scale stands for the dequantisation noise of real pixels, (2 / levels) / sqrt(12), which no generator of fewer
    dimensions than there are pixels can imitate.
    """

    def fit(self, mean):
        return torch.atanh(mean.clamp(-0.99, 0.99))

    def location(self, eta):
        return torch.tanh(eta)


def whole(x: Tensor) -> bool:
    """Whether values are integers, of whatever size."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _check_bits(name: str, x: Tensor, what: str) -> None:
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(f"{name} is given as {x[(x != 0) & (x != 1)][0].item():g}, among others: expected {what}")


class Bernoulli(Family):
    """Bits in {0, 1}; the gradient of a draw is that of its probability (straight-through)."""

    def check(self, name, data, shape, least=0):
        _check_bits(name, data, "bits, 0 or 1")

    def fit(self, mean):
        return torch.logit(mean.clamp(0.01, 0.99))

    def distribution(self, eta):
        return _independent(TorchBernoulli(logits=eta, validate_args=False))

    def draw(self, eta, noise):
        p = torch.sigmoid(eta)
        bits = (noise.uniform(p.shape, p.dtype) < p).to(p.dtype)
        return bits + (p - p.detach())


class _OneHot(OneHotCategorical):
    """Unchecked: torch's own checks its logits whatever `validate_args` says."""

    def __init__(self, logits: Tensor):
        self._categorical = TorchCategorical(logits=logits, validate_args=False)
        Distribution.__init__(self, logits.shape[:-1], logits.shape[-1:], validate_args=False)


class Categorical(Family):
    """One-hot vectors (B, K); drawn by the Gumbel-max trick, the gradient is that of the probabilities (straight-through).

    Arguments:
        straight: whether a draw has that gradient; without it the game does not teach the probabilities.
    """

    labelled = True

    def __init__(self, straight: bool = True):
        self.straight = straight

    def value(self, data, shape, dtype):
        """Labels, integers (B,), as one-hot vectors; an unknown one, -1, as zeros.  One-hot vectors as they are."""
        if not whole(data):
            return data.to(dtype)
        return (data.long()[:, None] == torch.arange(shape[0], device=data.device)).to(dtype)

    def check(self, name, data, shape, least=0):
        if not whole(data):
            wanted = "one-hot vectors, or labels as integers"
            _check_bits(name, data, wanted)
            if (ones := data.flatten(1).sum(1)).numel() and not (least + 1 <= ones.min() and ones.max() <= 1):
                raise ValueError(
                    f"{name} is given as {ones.min():g} to {ones.max():g} classes at once: expected {wanted}"
                )
            return
        if data.ndim != 1:
            raise ValueError(f"labels of {name} have shape {tuple(data.shape)}: expected one integer for each example")
        wrong = data[(data.long() < least) | (data.long() >= shape[0])]
        if wrong.numel():
            raise ValueError(f"a label of {name} is {int(wrong.long().max())}: expected {least}..{shape[0] - 1}")

    def distribution(self, eta):
        return _OneHot(eta)

    def draw(self, eta, noise):
        p = torch.softmax(eta, dim=1)
        gumbel = -torch.log(-torch.log(noise.uniform(eta.shape, eta.dtype).clamp_min(torch.finfo(eta.dtype).tiny)))
        choice = one_hot((eta + gumbel).argmax(1), eta.shape[1]).to(p.dtype)
        return choice + (p - p.detach()) if self.straight else choice


FAMILIES = {
    "gaussian": Gaussian,
    "points": Points,
    "pixels": Pixels,
    "bernoulli": Bernoulli,
    "categorical": Categorical,
}


def build_family(kind: str, **options) -> Family:
    """A family by name.  Raises ValueError with the names there are."""
    if kind not in FAMILIES:
        raise ValueError(f"unknown family {kind!r}: expected one of {', '.join(FAMILIES)}")
    return FAMILIES[kind](**options)
