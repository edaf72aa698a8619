r"""The graph: every variable is drawn from a family whose parameters are the sum of what its present neighbours say.

    v ~ F_v( eta_prior + sum_u heard_u * natural(message_{u->v}(u)) )

A neighbour that is absent from the state, or silent for an example, adds nothing: if nobody speaks, v comes from its prior.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .families import Family, build_family
from .messages import Linear, Transposed, build_message
from .noise import Noise

State = dict[str, Tensor]
# Beside a state's variables, for critics alone: 1 where the chain is a persistent one, else 0, shape (B, 1).
AGE = "age"
Audible = Mapping[
    str, Tensor
]  # variable -> bool (B,): is it heard?  A variable that is not named is heard by everyone.


def heard(message: Callable[[Tensor], Tensor], value: Tensor, audible: Tensor | None) -> Tensor:
    """What `value` says, shape (B, *target), zero where it is not heard.

    The silent are left out of the computation, never multiplied by 0, since 0 * NaN is NaN.
    """
    if audible is None or bool(audible.all()):
        return message(value)
    said = message(value[audible])
    return said.new_zeros(len(value), *said.shape[1:]).index_put((audible,), said)


class Reader(nn.Module):
    """The sum of the messages of the present and heard neighbours, read by a head.

    Arguments:
        messages: neighbour -> network from its value to the common shape.
        head: what reads the sum; identity if None.
    """

    def __init__(self, messages: Mapping[str, nn.Module], head: nn.Module | None = None):
        super().__init__()
        self.messages = nn.ModuleDict(messages)
        self.head = head or nn.Identity()

    def says(self, u: str, value: Tensor) -> Tensor:
        """One neighbour's summand; never asked of the silent, whose summand is zero."""
        return self.messages[u](value)

    def summands(self, state: State, audible: Audible = {}) -> list[Tensor]:
        """What each present neighbour says; a neighbour silent for every example says nothing."""
        return [
            heard(partial(self.says, u), state[u], audible.get(u))
            for u in self.messages
            if u in state and (u not in audible or bool(audible[u].any()))
        ]


class Critic(Reader):
    """D: a score (B,) of a state, high for the clamped chain's.  The head has a hidden layer, or D could not see dependence."""

    def forward(self, state: State, audible: Audible = {}) -> Tensor:
        said = self.summands(state, audible) or [self._silence(state)]
        return self.head(sum(said)).squeeze(1)

    def _silence(self, state: State) -> Tensor:
        """The sum of no summands, (B, hidden): all there is where every variable is hidden."""
        u = next(u for u in self.messages if u in state)
        with torch.no_grad():
            like = self.messages[u](torch.zeros_like(state[u][:1]))
        return like.new_zeros(len(state[u]), *like.shape[1:])


class Conditional(Reader):
    """v given its neighbours.

    Arguments:
        family: F_v.
        shape: of v, without the batch.
        messages: neighbour -> network to the shape of eta, or to the head's input.
        head: an optional network from the sum of messages to eta's shape; its messages are then features, not experts.
        prior: "fixed", or "learned" (biases belong to the prior; it may be fitted to data before training).
    """

    def __init__(self, family: Family, shape: Sequence[int], messages: Mapping[str, nn.Module],
                 head: nn.Module | None = None, prior: str = "fixed"):  # fmt: skip
        super().__init__(messages, head)
        if prior not in ("fixed", "learned"):
            raise ValueError(f"unknown prior {prior!r}: expected fixed or learned")
        self.family, self.shape = family, tuple(shape)
        self.prior = nn.Parameter(family.prior(self.shape), requires_grad=prior == "learned")

    def says(self, u: str, value: Tensor) -> Tensor:
        # With an identity head a message is an expert, and `natural` belongs to it: natural(0) is not silence.
        said = super().says(u, value)
        return self.family.natural(_exact(said)) if isinstance(self.head, nn.Identity) else said

    def eta(self, state: State, batch: int, audible: Audible = {}) -> Tensor:
        """The parameters, shape (batch, *family.parameters(shape)), in float32 or better."""
        prior = self.prior.expand(batch, *self.prior.shape)
        said = self.summands(state, audible)
        if not said:
            return prior
        if isinstance(self.head, nn.Identity):
            return prior + sum(said)
        anyone = self._anyone(state, audible)
        eta = self.family.natural(_exact(self.head(sum(said))))
        return prior + (eta if anyone is None else torch.where(anyone.view(-1, *[1] * len(self.shape)), eta, 0))

    def _anyone(self, state: State, audible: Audible) -> Tensor | None:
        """Which examples hear somebody; None if all do.  A head without input must not speak for the silent."""
        present = [u for u in self.messages if u in state]
        if any(u not in audible for u in present):
            return None
        return torch.stack([audible[u] for u in present]).any(0)

    def forward(self, state: State, batch: int, audible: Audible = {}) -> Distribution:
        """The distribution of v given what is present in the state."""
        return self.family.distribution(self.eta(state, batch, audible))

    def mean(self, state: State, batch: int, audible: Audible = {}) -> Tensor:
        """The mean of v given what is present in the state, shape (batch, *shape)."""
        return self.family.mean(self.eta(state, batch, audible))

    def draw(self, state: State, batch: int, noise: Noise, audible: Audible = {}) -> Tensor:
        """One draw of v, shape (batch, *shape); its gradient is reparametrised."""
        return self.family.draw(self.eta(state, batch, audible), noise)


class Moments(nn.Module):
    r"""A Gaussian that follows the draws of a variable, N(m, S - m m^T); chains may start from it, a game may pull it to N(0, 1).

    With every batch, whose means over all ranks are E z and E z z^T,

        m <- m + r (E z - m),    S <- S + r (E z z^T - S),    from m = 0, S = 1: the prior N(0, 1)

    Arguments:
        shape: of the variable, without the batch; d is its size.
        rate: r; the horizon is 1 / r batches.

    Memory is d^2, and d^3 the time of `draw` and `divergence`, with every batch: nothing for d in the thousands.
    """

    def __init__(self, shape: Sequence[int], rate: float = 0.01):
        super().__init__()
        self.shape, self.rate = tuple(shape), rate
        self.register_buffer("first", torch.zeros(prod(shape)))  # m (d,)
        self.register_buffer("second", torch.eye(prod(shape)))  # S (d, d)

    @staticmethod
    def of(value: Tensor) -> list[Tensor]:
        """E z (d,) and E z z^T (d, d) of a batch (B, *shape), in float32 or better."""
        with torch.autocast(value.device.type, enabled=False):  # with bfloat16's 8 bits S - m m^T may be no covariance
            z = _exact(value).flatten(1)
            return [z.mean(0), z.T @ z / len(z)]

    def follow(self, first: Tensor, second: Tensor) -> None:
        """Takes a batch's part in."""
        self.first.lerp_(first, self.rate)
        self.second.lerp_(second, self.rate)

    def divergence(self, value: Tensor) -> Tensor:
        r"""KL( N(m, C) || N(0, 1) ) / d = (tr S - d - log det C) / 2d,  C = S - m m^T, of what has been followed so far.

        Its gradient is the KL's with respect to the moments, taken at (m, S), times that of this batch's own E z and E z z^T (in
        full, not r times): a mean over examples, hence that of the whole batch is the mean over ranks.
        """
        d = len(self.first)
        with torch.autocast(value.device.type, enabled=False):
            root = self._root()
            precision, logdet = torch.cholesky_inverse(root), 2 * root.diagonal().log().sum()
            now = (self.second.diagonal().sum() - d - logdet) / (2 * d)
            z = value.to(root.dtype).flatten(1)
            with torch.no_grad():  # the slope itself: a backward pass under autocast would round a product
                slope = (z - z @ precision + precision @ self.first) / d
            change = (slope * z).sum(1).mean()
            return now + change - change.detach()

    def draw(self, batch: int, noise: Noise) -> Tensor:
        """Draws (batch, *shape)."""
        with torch.autocast(self.first.device.type, enabled=False):
            root = self._root()
            return (self.first + noise.normal((batch, len(root)), root.dtype) @ root.T).unflatten(1, self.shape)

    def _root(self) -> Tensor:
        """L with L L^T = C; NaN where C is no covariance: a check would wait for the device, and this shows in the losses."""
        root, failed = torch.linalg.cholesky_ex(self.second - self.first.outer(self.first))
        return torch.where(failed == 0, root, torch.nan)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Graph(nn.Module):
    """Conditionals by name, and the moments of those variables that are followed."""

    def __init__(self, conditionals: Mapping[str, Conditional], followed: Iterable[str] = ()):
        super().__init__()
        self.conditionals = nn.ModuleDict(conditionals)
        self.moments = nn.ModuleDict({v: Moments(conditionals[v].shape) for v in followed})

    def __getitem__(self, name: str) -> Conditional:
        return self.conditionals[name]

    def __iter__(self):
        return iter(self.conditionals)

    def neighbours(self, name: str) -> set[str]:
        """Those whom `name` can hear."""
        return set(self[name].messages)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def draw(self, block: Iterable[str], state: State, batch: int, noise: Noise, audible: Audible = {}) -> State:
        """New values of a block's variables, all given the same state, none given another of the block."""
        block = list(block)
        present = {u: value for u, value in state.items() if u not in block}
        return {v: self[v].draw(present, batch, noise, audible) for v in block}


def build_graph(
    variables: Mapping[str, Mapping], networks: Mapping[str, Mapping], followed: Iterable[str] = ()
) -> Graph:
    """A graph from plain arguments.

    Arguments:
        variables: name -> {"family": str, "shape": [...], "hears": {neighbour: network}, and further options of the family,
            "prior" and "head"}.  A head is {"network": name, "shape": [...]}, the second being the shape of the summed
            features.  A network named with a trailing ".T" is the transpose of the linear one of that name.
        networks: name -> description for `build_message`.
        followed: the variables whose moments are followed.

    Raises:
        ValueError: an unknown neighbour, network or option, named; moments of what is no Gaussian; a variable called `AGE`.
    """
    if AGE in variables:
        raise ValueError(f"a variable is called {AGE!r}, which critics hear beside the variables: choose another name")
    if bad := sorted(v for v in followed if variables.get(v, {}).get("family") != "gaussian"):
        raise ValueError(f"a chain starts {', '.join(bad)} from moments, which are a Gaussian variable's alone")
    shapes = {name: tuple(variable["shape"]) for name, variable in variables.items()}
    tied: dict[str, Linear] = {}
    made = {v: _conditional(v, dict(options), shapes, networks, tied) for v, options in variables.items()}
    return Graph(made, followed)


def _conditional(name: str, options: dict, shapes: Mapping, networks: Mapping, tied: dict) -> Conditional:
    hears, head = options.pop("hears", {}), options.pop("head", None)
    prior, shape = options.pop("prior", "fixed"), shapes[name]
    options.pop("shape")
    try:
        family = build_family(options.pop("family"), **options)
        eta = family.parameters(shape)
        common = tuple(head["shape"]) if head else eta
        messages = {u: _message(u, network, shapes, common, networks, tied) for u, network in hears.items()}
        read = build_message(_network(head["network"], networks), common, eta) if head else None
        return Conditional(family, shape, messages, read, prior)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"variable {name!r}: {error.args[0]}") from error


def _message(source: str, network: str, shapes: Mapping, target: tuple, networks: Mapping, tied: dict) -> nn.Module:
    if source not in shapes:
        raise ValueError(f"hears {source!r}, which is no variable: expected one of {', '.join(shapes)}")
    if not network:
        raise ValueError(f"hears {source!r} by no network: expected one of {', '.join(networks)}")
    name, backward = network.removesuffix(".T"), network.endswith(".T")
    description = _network(name, networks)
    if description.get("kind") != "linear":
        if backward:
            raise ValueError(f"{network!r}: only a linear network has a transpose, and {name!r} is none")
        return build_message(description, shapes[source], target)
    # The first user of a linear message makes it, whichever way it reads it.
    ends = (target, shapes[source]) if backward else (shapes[source], target)
    linear = tied.setdefault(name, build_message(description, *ends))
    if (linear.source, linear.target) != ends:
        raise ValueError(f"network {name!r} is shared and has other shapes: {linear.source} -> {linear.target}")
    return Transposed(linear) if backward else linear


def _network(name: str, networks: Mapping) -> Mapping:
    if name not in networks:
        raise ValueError(f"unknown network {name!r}: expected one of {', '.join(networks)}")
    return networks[name]


def build_critics(
    critics: Mapping[str, Mapping], variables: Mapping[str, Mapping], networks: Mapping[str, Mapping]
) -> nn.ModuleDict:
    """Critics from plain arguments: name -> {"hears": {variable: network}, "head": network, "hidden": size of the sum}.

    Beside the variables a critic may hear `AGE`; by no network, null, it does not.

    Raises:
        ValueError: an unknown variable or network, named; a critic of no variable.
    """
    shapes = {name: tuple(variable["shape"]) for name, variable in variables.items()} | {AGE: (1,)}
    return nn.ModuleDict({name: _critic(name, shapes, networks, **options) for name, options in critics.items()})


def _critic(name: str, shapes: Mapping, networks: Mapping, hears: Mapping, head: str, hidden: int) -> Critic:
    def says(u: str) -> nn.Module:
        return _message(u, hears[u], shapes, (hidden,), networks, {})

    try:
        messages = {u: says(u) for u in hears if u != AGE}
        if not messages:
            raise ValueError("hears no variable: it could tell nothing")
        # The activation between the sum and the head is what lets the critic see dependence.
        read = build_message({"ends": True, **_network(head, networks)}, (hidden,), (1,))
        if hears.get(AGE):  # last: with it and without, the first weights of all else are the same
            messages[AGE] = says(AGE)
        return Critic(messages, read)
    except (ValueError, KeyError) as error:
        raise ValueError(f"critic {name!r}: {error.args[0]}") from error
