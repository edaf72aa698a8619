r"""A chain is one start pass and some sweeps.

The start pass draws variables one after another, each hearing only those that are there already: starting [z, x] draws z from
its prior and x given z; starting [z1, z2] with x given draws z1 given x and z2 given z1.  A sweep draws blocks; the variables
of a block are drawn together.  Where a draw should hear fewer than all neighbours, it is written as in the books, "z1|x".

    state 0 = start pass,   state i = state i - 1 after one sweep,   i = 0, 1, 2, ...
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import combinations, count, product

import torch
from torch import Tensor

from .graph import Audible, Graph, State
from .noise import Noise

Block = tuple[tuple[str, frozenset[str] | None], ...]  # (variable, whom it hears; None = everyone present)


@dataclass(frozen=True)
class Stance:
    """How one variable stands in a chain.

    Arguments:
        clamped: its given entries are held (all of them, or those `seen`).
        potency: probability of being heard, in [0, 1], drawn per example and sweep; a tensor holds one value per example.
        share: probability of being held where it is clamped, in training, drawn per example and chain; else it is redrawn.
        silent: whether the critics leave it out where the data do not say it (a label that is unknown).
    """

    clamped: bool = False
    potency: float | Tensor = 1.0
    share: float = 1.0
    silent: bool = False

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is a probability: got {self.share}")
        low, high = torch.as_tensor(self.potency).aminmax()
        if not (low >= 0 and high <= 1):  # not a number is no probability either
            raise ValueError(f"potency is a probability: got {self.potency}")


def parse(block: str | Sequence[str]) -> Block:
    """ "z" or ["x", "z2"] or "z1|x": the variables to draw together and whom each hears."""
    names = [block] if isinstance(block, str) else list(block)
    split = [name.replace(" ", "").partition("|") for name in names]
    return tuple((v, frozenset(given.split(",")) if bar else None) for v, bar, given in split)


@dataclass(frozen=True)
class Chain:
    """A chain over a graph.

    Arguments:
        start: variables in the order of the start pass.
        blocks: what one sweep draws, in order.
        steps: number of sweeps N in training, or its range (low, high), drawn per batch, equal on all ranks; or several of
            these, (0, (1, 4)) or (0, 1, 1), of which each batch takes one, all equally likely.  Two numbers are a range.
        grad_draws: how many of the last block draws carry gradient (3 = x, z, x).
        mode: stances; a variable that is not named is free and heard.
        start_from_data: share of the examples that start whose observed variables are replaced, after the start pass, by the
            data; where a sweep redraws those before anyone has heard them (`unshared`), nothing is left of that.
        persistent: share of a batch's places whose chain never starts again, see `onward` and `aged`; none where steps = 0.
        present: variables that start from the present, the clamped chain's last state, and are free from then on.
        learned: variables that start from the graph's moments of them (see `graph.Moments`), and are free from then on.
        rise: batches over which the range of steps grows from its lower end to its upper one; 0 = it is whole from the beginning.
        dream_every: every so many training batches the chain dreams instead: stances and present are left out; 0 = never.
        cut: variables whose draws pass no gradient on to whom they hear: of [x] p(x|z) learns from x, and who drew z does not.
    """

    start: Sequence[str | Sequence[str]]
    blocks: Sequence[str | Sequence[str]] = ()
    steps: int | tuple[int, int] | Sequence[int | tuple[int, int]] = 0
    grad_draws: int = 3
    mode: Mapping[str, Stance] = field(default_factory=dict)
    start_from_data: float = 0.0
    persistent: float = 0.0
    present: Sequence[str] = ()
    learned: Sequence[str] = ()
    rise: int = 0
    dream_every: int = 0
    cut: Sequence[str] = ()

    def __post_init__(self):
        if not self.ranges or not all(0 <= low <= high for low, high in self.ranges):
            raise ValueError(
                f"steps must be a number of sweeps >= 0, a range [low, high], or several of these: got {self.steps}"
            )
        if self.range[1] and not self.blocks:
            raise ValueError(f"steps = {self.steps}, but the chain has no blocks to sweep over")
        for name, share in (("start_from_data", self.start_from_data), ("persistent", self.persistent)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share in [0, 1]: got {share}")
        if self.start_from_data and self.range[0] == 0:
            raise ValueError(
                "start_from_data needs steps >= 1: without a sweep the data themselves would be the chain's state"
            )
        for name, batches in (("dream_every", self.dream_every), ("rise", self.rise)):
            if batches < 0:
                raise ValueError(f"{name} is a number of batches >= 0: got {batches}")
        if self.grad_draws < 1:
            raise ValueError(f"grad_draws must be >= 1, or nothing would be learned: got {self.grad_draws}")

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The (least, greatest) numbers of sweeps of which each training batch takes one pair, all equally likely."""
        if isinstance(self.steps, int):
            return ((self.steps, self.steps),)
        if len(self.steps) == 2 and all(isinstance(s, int) for s in self.steps):
            return (tuple(self.steps),)
        return tuple((s, s) if isinstance(s, int) else tuple(s) for s in self.steps)

    @property
    def range(self) -> tuple[int, int]:
        """(least, greatest) number of sweeps."""
        return min(low for low, _ in self.ranges), max(high for _, high in self.ranges)

    @property
    def clamped(self) -> frozenset[str]:
        return frozenset(v for v, stance in self.mode.items() if stance.clamped)

    @property
    def given(self) -> frozenset[str]:
        """What it must be given: the clamped, and what starts from the present."""
        return self.clamped | frozenset(self.present)

    @property
    def there(self) -> frozenset[str]:
        """What is there before the first draw."""
        return self.given | frozenset(self.learned)

    def during(self, step: int) -> "Chain":
        """The chain of this training batch."""
        chain = self.dreaming if self.dreams(step) else self
        return replace(chain, steps=self.risen(step), rise=0) if self.rise else chain

    def dreams(self, step: int) -> bool:
        """Whether it leaves out stances and present in this training batch."""
        return self.dream_every > 0 and step % self.dream_every == 0

    def risen(self, step: int) -> tuple[tuple[int, int], ...]:
        """The ranges of steps of this training batch: each of a range's lengths is added after an equal part of the rise."""
        return tuple((low, min(high, low + step * (high - low + 1) // self.rise)) for low, high in self.ranges)

    @property
    def dreaming(self) -> "Chain":
        """The same chain with everything free and heard, and nothing from the present."""
        return replace(self, mode={}, present=())

    def turn(self, step: int) -> int:
        """Which batch of its own game this training batch is, from 0: with `dream_every` two games take turns, and what is due
        every so many batches has to be so in both."""
        if not self.dream_every:
            return step
        dreamt = -(-step // self.dream_every)  # batches before this one that dreamt
        return dreamt if self.dreams(step) else step - dreamt

    @property
    def drawn(self) -> frozenset[str]:
        """What its start pass draws."""
        return frozenset(v for block in self.draws(0) for v, _ in block)

    def without(self, unseen: frozenset[str]) -> "Chain":
        """The same chain in an example of which these clamped variables are not seen."""
        return replace(self, mode={v: replace(s, clamped=s.clamped and v not in unseen) for v, s in self.mode.items()})

    def shared(self, noise: Noise, given: State, seen: State, batch: int) -> State:
        """The masks `seen`, less those examples that are not to be held, see `Stance.share`."""
        shares = {v: self.mode[v].share for v in sorted(self.clamped & given.keys()) if self.mode[v].share < 1}
        held = {v: _column(noise.at(v).uniform((batch,)) < share, given[v]) for v, share in shares.items()}
        return seen | {v: seen[v] & h if v in seen else h.expand(given[v].shape) for v, h in held.items()}

    def length(self, noise: Noise) -> int:
        """The number of sweeps of this batch."""
        low, high = self.ranges[0]
        if len(self.ranges) > 1:
            # The key is the name this option had when docs/comparison.json was made: so it can be repeated.
            low, high = self.ranges[noise.at("unswept").choice(len(self.ranges))]
        return low if low == high else noise.at("steps").integer(low, high)

    def draws(self, steps: int) -> list[Block]:
        """The blocks drawn in a chain of that many sweeps, start pass first."""
        first = {*self.present, *self.learned}
        start = [tuple(d for d in parse(b) if d[0] not in first) for b in self.start]
        return start + steps * [parse(b) for b in self.blocks]

    def audible(self, noise: Noise, batch: int) -> Audible:
        """Who is heard in the sweep that has this noise: variable -> bool (batch,), for those not always heard."""
        noise = noise.at("potency")
        muted = {v: s.potency for v, s in sorted(self.mode.items()) if isinstance(s.potency, Tensor) or s.potency < 1}
        potency = {v: torch.as_tensor(p, device=noise.device) for v, p in muted.items()}
        return {v: noise.uniform((batch,)) < (p[noise.rows] if p.ndim else p) for v, p in potency.items()}

    def init(
        self, graph: Graph, noise: Noise, given: State = {}, seen: State = {}, batch: int = 1, grad: int = 0
    ) -> State:
        """State 0.  `given` are values to start from, `seen` (bool, a variable's shape) the entries of clamped ones to hold.

        A given variable is there from the beginning and is not drawn, but for the unseen entries of a clamped one: their
        given values are read by nobody, draws from the prior stand there until the variable's turn comes.
        `grad`: how many of the start pass's last draws carry gradient.
        """
        if missing := sorted(self.clamped - given.keys()):
            raise ValueError(f"a clamped variable must be given a value: {', '.join(missing)}")
        if stray := sorted(seen.keys() - self.clamped):
            raise ValueError(f"seen names entries to hold, but the chain does not clamp {', '.join(stray)}")
        check_shapes(graph, given, seen, batch)
        noise = noise.at(0)
        state, audible = dict(given), self.audible(noise, batch)
        for v in seen:
            with torch.no_grad():
                unseen = graph[v].draw({}, batch, noise.at("unseen", v))
            state[v] = torch.where(seen[v], given[v], unseen)
        for v in sorted(set(self.learned) - given.keys()):
            state[v] = graph.moments[v].draw(batch, noise.at("learned", v))
        blocks = [parse(b) for b in self.start]
        # The clamped stay in their block, which does not hear them here either: `_draw` leaves what is held as it is.
        blocks = [tuple(d for d in b if d[0] not in state or d[0] in self.clamped) for b in blocks]
        for k, block in enumerate(blocks):
            state |= self._draw(graph, block, state, noise, audible, given, seen, batch, k >= len(blocks) - grad)
        return state

    def step(
        self, graph: Graph, state: State, noise: Noise, given: State = {}, seen: State = {}, grad: int = 0
    ) -> State:
        """The state after one sweep; a new dictionary.  `noise` is this sweep's own, `grad` as in `init`."""
        state, batch = dict(state), len(next(iter(state.values())))
        audible = self.audible(noise, batch)
        blocks = [parse(b) for b in self.blocks]
        for k, block in enumerate(blocks):
            state |= self._draw(graph, block, state, noise, audible, given, seen, batch, k >= len(blocks) - grad)
        return state

    def trajectory(
        self, graph: Graph, noise: Noise, given: State = {}, seen: State = {}, batch: int = 1
    ) -> Iterator[State]:
        """States 0, 1, 2, ... without end and without gradient."""
        return walk(
            lambda: self.init(graph, noise, given, seen, batch),
            lambda state, i: self.step(graph, state, noise.at(i), given, seen),
        )

    def run(
        self,
        graph: Graph,
        noise: Noise,
        given: State = {},
        seen: State = {},
        batch: int = 1,
        data: State = {},
    ) -> State:
        """The last state of one training chain; only its last `grad_draws` block draws carry gradient.

        `data`: values from which a share `start_from_data` of the examples starts.
        """
        steps, sweep = self.length(noise), len(self.blocks)
        seen = self.shared(noise.at("share"), given, seen, batch)
        span = [
            self.grad_draws - (steps - i) * sweep for i in range(steps + 1)
        ]  # draws left for pass i, counted from its end
        state = self.init(graph, noise, given, seen, batch, max(0, span[0]))
        state = mixed(state, data, self.start_from_data, noise.at("data"), batch)
        for i in range(1, steps + 1):
            state = self.step(graph, state, noise.at(i), given, seen, max(0, span[i]))
        return state

    def old(self, noise: Noise, batch: int) -> int:
        """How many of this rank's places, its first, hold persistent chains: they are the first of the global batch."""
        return min(max(round(self.persistent * batch * noise.ranks) - noise.rank * batch, 0), batch)

    @torch.no_grad()
    def onward(self, graph: Graph, noise: Noise, kept: State, batch: int) -> State:
        """Where persistent chains go on to from `kept`, or from a start where that is empty, without gradient.

        They take as many sweeps as the other chains of the batch, but at least one.  `graph` holds averaged weights: what grows
        old has to be the chain that will be scored, and by weights that move it is another.
        """
        steps, noise = max(1, self.length(noise)), noise.at("onward")
        state = kept or self.init(graph, noise, batch=batch)
        for i in range(1, steps + 1):
            state = self.step(graph, state, noise.at(i))
        return state

    def aged(self, graph: Graph, noise: Noise, onward: State) -> State:
        """The last state of persistent training chains: one sweep with gradient from where they have gone on to.

        The persistent chains themselves do not take it.  Its noise is that of the others' last pass: where that is the start
        pass, an example's draw may reuse the random numbers of another example's, which no chain's own law shows.
        """
        return self.step(graph, onward, noise.at(self.length(noise)), grad=self.grad_draws)

    def last_audible(self, noise: Noise, batch: int) -> Audible:
        """Who was heard in the last pass of `run` with this noise: what the critics may see."""
        return self.audible(noise.at(self.length(noise)), batch)

    def _draw(self, graph, block, state, noise, audible, given, seen, batch, grad) -> State:
        """New values for one block; held entries stay bit-equal."""
        free = [(v, hears) for v, hears in block if v not in self.clamped or v not in given or v in seen]
        drawn: State = {}
        with nullcontext() if grad else torch.no_grad():
            for v, hears in free:
                present = {u: x for u, x in state.items() if u not in dict(block) and (hears is None or u in hears)}
                if v in self.cut:
                    present = {u: x.detach() for u, x in present.items()}
                drawn[v] = graph[v].draw(present, batch, noise, audible)
        held = self.clamped & seen.keys() & drawn.keys()
        return {v: torch.where(seen[v], given[v], x) if v in held else x for v, x in drawn.items()}


def walk(init: Callable[[], State], step: Callable[[State, int], State]) -> Iterator[State]:
    """States 0, 1, 2, ... without end and without gradient."""
    with torch.no_grad():
        state = init()
    yield state
    for i in count(1):
        with torch.no_grad():
            state = step(state, i)
        yield state


@dataclass(frozen=True)
class Attentive:
    r"""A partially clamped chain that listens to what it holds.

    In a plain chain the held entries of x reach the latents through q(z|x) alone, which reads the redrawn entries as well: a
    wrong fill confirms itself.  Here the chain starts from one of many dreams, chosen by how well it explains the held entries,
    and a sweep that explains them worse is refused, per example, with Metropolis's probability:

        log L = - sum over held entries (E[v | the others] - held)^2 / (2 scale_v^2),      accept with min(1, L' / L)

    Were the sweep reversible with respect to the model's joint, this would be exact for that likelihood.
    Mattei and Frellsen 2018, https://arxiv.org/abs/1802.04826

    Arguments:
        chain: what is wrapped; it has the same init, step and trajectory.
        scale: variable -> the standard deviation of a held entry around its mean; those that are not named have no say.
        refuses: false takes every sweep, so that the choice of the start is all there is.
    """

    chain: Chain
    scale: Mapping[str, float]
    refuses: bool = True

    def __post_init__(self):
        if bad := {v: s for v, s in self.scale.items() if not s > 0}:
            raise ValueError(f"the scale of what is held must be positive: got {bad}")

    def loglikelihood(self, graph: Graph, state: State, given: State, seen: State) -> Tensor:
        """How well the rest of the state explains the held entries, log L, shape (B,)."""
        return -sum(_misfit(graph, state, v, given, seen).flatten(1).sum(1) / (2 * s**2) for v, s in self.scale.items())

    def init(
        self, graph: Graph, noise: Noise, given: State = {}, seen: State = {}, batch: int = 1, dreams: State = {}
    ) -> State:
        """State 0: a dream per example, drawn with probabilities proportional to L, what is held put in its place.

        dreams: states (D, *) to choose from; without them it is the plain chain's.  Where some of them agree with all that an
            example holds whole beside what has a say, its dream is one of those.
        """
        state = self.chain.init(graph, noise, given, seen, batch)
        if not dreams:
            return state
        logits = -sum(_distances(graph, dreams, v, given, seen) / (2 * s**2) for v, s in self.scale.items())
        agree = _agreeing(dreams, {v: given[v] for v in self.chain.clamped - seen.keys() - self.scale.keys()})
        chosen = _choice(torch.where(agree, logits, -torch.inf), noise.at(0, "dream"))
        return {v: self._held(v, x[chosen], given, seen) for v, x in dreams.items()}

    def step(self, graph: Graph, state: State, noise: Noise, given: State = {}, seen: State = {}) -> State:
        """The state after one sweep, or the same where it was refused."""
        new = self.chain.step(graph, state, noise, given, seen)
        if not self.refuses:
            return new
        gain = self.loglikelihood(graph, new, given, seen) - self.loglikelihood(graph, state, given, seen)
        taken = noise.at("accept").uniform(gain.shape, gain.dtype).log() < gain
        return {v: torch.where(_column(taken, x), x, state[v]) for v, x in new.items()}

    def trajectory(
        self, graph: Graph, noise: Noise, given: State = {}, seen: State = {}, batch: int = 1, dreams: State = {}
    ) -> Iterator[State]:
        """States 0, 1, 2, ... without end and without gradient."""
        return walk(
            lambda: self.init(graph, noise, given, seen, batch, dreams),
            lambda state, i: self.step(graph, state, noise.at(i), given, seen),
        )

    def _held(self, v: str, x: Tensor, given: State, seen: State) -> Tensor:
        if v not in self.chain.clamped:
            return x
        return torch.where(seen[v], given[v], x) if v in seen else given[v]


@dataclass(frozen=True)
class Wakeful:
    """A chain in which a clamped variable is heard again in an emergency, whatever its potency: in those examples where the rest
    of the state explains it badly.

    Arguments:
        chain: what is wrapped; it has the same init and trajectory.
        threshold: greatest mean of (E[v | the others] - v)^2 / 4 over the held entries that leaves it as it is.
        variable: v, one that the chain clamps.
    """

    chain: Chain
    threshold: float
    variable: str = "x"

    def __post_init__(self):
        if self.variable not in self.chain.clamped:
            raise ValueError(f"an emergency is about what is clamped, and the chain does not clamp {self.variable}")
        if not self.threshold >= 0:
            raise ValueError(f"the threshold of an emergency is an error >= 0: got {self.threshold}")

    def alarmed(self, graph: Graph, state: State, given: State, seen: State = {}) -> Tensor:
        """In which examples there is an emergency, bool (B,)."""
        error = _misfit(graph, state, self.variable, given, seen).flatten(1).sum(1) / 4
        entries = seen[self.variable].flatten(1).sum(1) if self.variable in seen else given[self.variable][0].numel()
        return error > self.threshold * entries

    def step(self, graph: Graph, state: State, noise: Noise, given: State = {}, seen: State = {}) -> State:
        """The state after one sweep, in which v is heard by the alarmed examples."""
        stance = self.chain.mode[self.variable]
        potency = torch.where(
            self.alarmed(graph, state, given, seen), 1.0, torch.as_tensor(stance.potency, device=noise.device)
        )
        mode = {**self.chain.mode, self.variable: replace(stance, potency=potency)}
        return replace(self.chain, mode=mode).step(graph, state, noise, given, seen)

    def trajectory(
        self, graph: Graph, noise: Noise, given: State = {}, seen: State = {}, batch: int = 1
    ) -> Iterator[State]:
        """States 0, 1, 2, ... without end and without gradient."""
        return walk(
            lambda: self.chain.init(graph, noise, given, seen, batch),
            lambda state, i: self.step(graph, state, noise.at(i), given, seen),
        )


def _misfit(graph: Graph, state: State, v: str, given: State, seen: State) -> Tensor:
    """(E[v | the others] - given)^2 where it is held, else 0; v's shape."""
    mean = graph[v].mean({u: x for u, x in state.items() if u != v}, len(given[v]))
    square = (mean - given[v]).square()
    return torch.where(seen[v], square, 0) if v in seen else square


def _distances(graph: Graph, dreams: State, v: str, given: State, seen: State) -> Tensor:
    """Squared distances (B, D) of every dream's mean of v to the held entries of every example."""
    size = len(dreams[v])
    mean = graph[v].mean({u: x for u, x in dreams.items() if u != v}, size).flatten(1)
    held = seen[v].flatten(1) if v in seen else torch.ones_like(given[v], dtype=torch.bool).flatten(1)
    value = torch.where(held, given[v].flatten(1), 0)
    return value.square().sum(1, keepdim=True) - 2 * value @ mean.T + held.to(mean.dtype) @ mean.square().T


def _agreeing(dreams: State, whole: State) -> Tensor:
    """Which dreams (D, *) have the values that an example holds whole, (B, *): bool (B, D), all true where none has, and (1, 1)
    where nothing is held."""
    agree = torch.ones(1, 1, dtype=torch.bool, device=next(iter(dreams.values())).device)
    for v, held in whole.items():
        for mine, theirs in zip(held.flatten(1).T, dreams[v].flatten(1).T, strict=True):
            agree = agree & (mine[:, None] == theirs)
    return agree | ~agree.any(1, keepdim=True)


def _choice(logits: Tensor, noise: Noise) -> Tensor:
    """One index per row, drawn with probabilities proportional to exp(logits), (B, D) -> (B,)."""
    tiny = torch.finfo(logits.dtype).tiny
    return (logits - (-noise.uniform(logits.shape, logits.dtype).clamp_min(tiny).log()).log()).argmax(1)


def _column(flags: Tensor, like: Tensor) -> Tensor:
    """Flags (B,) that broadcast against values (B, *)."""
    return flags.view(-1, *[1] * (like.ndim - 1))


def check_values(graph: Graph, given: State, seen: State = {}, least: int = 0) -> None:
    """Refuses labels of classes that a variable does not have, where `least` is -1 but for unknown ones, and bits that are none.
    Of a variable in `seen` the entries that are held count.

    Raises:
        ValueError: naming the variable, the label and what was expected.
    """
    for v in [v for v in given if v in set(graph)]:
        held, fewest = given[v], least
        if v in seen and seen[v].shape == held.shape:
            held, fewest = torch.where(seen[v], held, torch.zeros_like(held)), -1  # all zeros: as an unknown label
        elif v in seen and len(seen[v]) == len(held):  # a label's mask is that of its one-hot vector
            held = held[seen[v].flatten(1).any(1)]
        graph[v].family.check(v, held, graph[v].shape, fewest)


def check_shapes(graph: Graph, given: State, seen: State, batch: int) -> None:
    """Refuses values of unknown variables, and values or masks of another shape or type than theirs.

    Raises:
        ValueError: naming the variable, what was given and what was expected.
    """
    if unknown := sorted(given.keys() - set(graph)):
        raise ValueError(f"no variable is called {', '.join(unknown)}: expected some of {', '.join(graph)}")
    for what, state in (("values", given), ("mask", seen)):
        for v, x in state.items():
            if tuple(x.shape) != (expected := (batch, *graph[v].shape)):
                raise ValueError(f"the {what} of {v}: shape {tuple(x.shape)}, expected {expected}")
    if bad := sorted(v for v, mask in seen.items() if mask.dtype != torch.bool):
        raise ValueError(f"the mask of {', '.join(bad)} must be bool: true where an entry is held")


def mixed(state: State, other: State, share: float, noise: Noise, batch: int) -> State:
    """The state, in which a share of the examples is replaced by the other's."""
    if not (share and other):
        return state
    chosen = noise.uniform((batch,)) < share
    return state | {v: torch.where(_column(chosen, x), x, state[v]) for v, x in other.items()}


def part(state: State, rows: slice) -> State:
    """Some of a state's examples."""
    return {v: x[rows] for v, x in state.items()}


def endings(chain: Chain, graph: Graph, steps: int, unseen: frozenset[str] = frozenset()) -> dict[str, frozenset[str]]:
    """For each variable whose last draw was given *final* values alone: whom it heard in that draw.

    A variable that hears somebody who is drawn again later does not end on its conditional and is left out.
    unseen: what stands there as a draw of the prior, and is heard, until its turn comes (see `Chain.init`).
    """
    present, when, last = chain.there | unseen, {}, {}
    for t, block in enumerate(chain.draws(steps)):
        names = [v for v, _ in block]
        for v, hears in block:
            if v in chain.clamped:
                continue
            audible = {u for u in graph.neighbours(v) & present if u not in names and (hears is None or u in hears)}
            last[v] = frozenset(u for u in audible if _heard(chain, u))
        when |= dict.fromkeys(set(names) - chain.clamped, t)
        present |= set(names)
    return {v: hears for v, hears in last.items() if all(when.get(u, -1) < when[v] for u in hears)}


def _heard(chain: Chain, name: str) -> bool:
    potency = chain.mode.get(name, Stance()).potency
    return bool(torch.as_tensor(potency).max() > 0)


def check_pairing(graph: Graph, clamped: Chain, unclamped: Chain) -> None:
    """Refuse a game to which some conditional is invisible.

    If both chains last draw v from the same conditional, given the final values of the same neighbours, then the two joints
    share that factor and no critic, however good, can tell a wrong one from a right one.  Of the variables that the clamped chain
    clamps and its start pass draws too, any may be unseen in an example: there as well the critic must not be blind.  Who is
    heard at times, whatever the example, counts as heard: the examples in which it is show the conditional.

    Raises:
        ValueError: naming the variable and the conditional.
    """
    for unseen, a, b in product(_blanks(clamped), _lengths(clamped), _lengths(unclamped)):
        left, right = endings(clamped.without(unseen), graph, a, unseen), endings(unclamped, graph, b)
        for v in sorted(left.keys() & right.keys()):
            if left[v] == right[v]:
                given = ", ".join(sorted(left[v])) or "nothing"
                where = f" where {', '.join(sorted(unseen))} is not known" if unseen else ""
                raise ValueError(
                    f"both chains end on {v} given {given}: the critic would be blind to that conditional{where}; "
                    f"let one of them draw {v} earlier, or given other neighbours"
                )


def check_hearing(graph: Graph, clamped: Chain, unclamped: Chain, critics: Sequence[set[str]]) -> None:
    """Refuse local critics that leave a conditional unheard.

    Where a chain ends on v given u, some critic has to hear v and u together, or whether they belong to each other goes unseen.
    What one chain alone holds (another variable's double) is no matter of the game.  What the clamped chain clamps may be unseen
    in any example, as in `check_pairing`.

    Arguments:
        critics: whom each of them hears.

    Raises:
        ValueError: naming the conditional.
    """
    both = _held(clamped) & _held(unclamped)
    sights = [(clamped.without(unseen), unseen) for unseen in _blanks(clamped)]
    for chain, unseen in [*sights, (unclamped, frozenset())]:
        for v, hears in (end for steps in _lengths(chain) for end in endings(chain, graph, steps, unseen).items()):
            if v in both and not any({v} | (hears & both) <= heard for heard in critics):
                together = ", ".join(sorted(hears & both)) or "nothing"
                raise ValueError(
                    f"a chain ends on {v} given {together}, and no critic hears all of these: that conditional would go "
                    "unseen; let one critic hear them together"
                )


def _blanks(clamped: Chain) -> list[frozenset[str]]:
    """Every set of variables that an example may leave unknown, none of them first."""
    may = sorted(clamped.clamped & clamped.drawn)
    return [frozenset(some) for many in range(len(may) + 1) for some in combinations(may, many)]


def _lengths(chain: Chain) -> list[int]:
    """Numbers of sweeps that show every way in which the chain can end."""
    return sorted({n for low, high in chain.ranges for n in range(low, min(high, low + 2) + 1)})


def _held(chain: Chain) -> set[str]:
    return {v for block in chain.draws(max(_lengths(chain))) for v, _ in block} | set(chain.there)
