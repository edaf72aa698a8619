r"""The game: two states and critics -> losses, penalties, gradients and detached diagnostics.

A critic scores pairs, s_c those of the clamped chain and s_u those of the unclamped one.

    non-saturating   critic  softplus(-s_c) + softplus(s_u)      graph  softplus(s_c) + softplus(-s_u)
    relativistic     critic  softplus(-(s_c - s_u))              graph  softplus(s_c - s_u)

Two terms may stand beside the graph's loss: a cycle loss, z ~ q(z|x) of the clamped chain (ALICE, Li et al. 2017,
https://arxiv.org/abs/1709.01215), and one that pulls every Gaussian latent's moments over that chain, m and C, to its prior's:

    cycle * E |x - E[x|z]|^2 / dim  +  whiten * sum_z KL( N(m, C) || N(0, 1) ) / dim z

R1 + R2 (Roth et al. 2017, https://arxiv.org/abs/1705.09367; Huang et al. 2024, https://arxiv.org/abs/2501.05441):

    sum_v gamma_v / 2 * ( E_clamped |dD/dv|^2 + E_unclamped |dD/dv|^2 )

**What the critics read of x** may be moved, by its own draw in every pair and alike on both sides: half of the images by up to
`shift` pixels either way, the rest not at all.  Few images are learnt by heart later so.  On laws of images that is K = a 1 + b S
with a > 1/2 > b and S a Markov kernel: whatever S does cannot cancel what stays, |K m| >= (a - b) |m|, so two laws are equal if
and only if they are equal moved, and the game has the solution that it had (the argument is Bora et al.'s 2018,
https://openreview.net/forum?id=Hy7fDog0b; the practice Zhao et al.'s 2020, https://arxiv.org/abs/2006.10738).

**One pass for both players.**  Per sample the two players' losses differ only by a scalar on the score: with d = dL_critic/ds
and g = dL_graph/ds, the graph's gradient with respect to what the critic reads is (g / d) times the critic's.  One backward pass
through a critic therefore serves both players, exactly, provided that the critic treats examples apart (no batch statistics).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import softplus

from .graph import Audible, Critic, State

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def nonsaturating(clamped: Tensor, unclamped: Tensor) -> tuple[Tensor, Tensor]:
    """(critic's, graph's) loss per pair, shape (B,).  Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661"""
    return softplus(-clamped) + softplus(unclamped), softplus(clamped) + softplus(-unclamped)


def relativistic(clamped: Tensor, unclamped: Tensor) -> tuple[Tensor, Tensor]:
    """(critic's, graph's) loss per pair, shape (B,).  Jolicoeur-Martineau 2018, https://arxiv.org/abs/1807.00734"""
    return softplus(unclamped - clamped), softplus(clamped - unclamped)


TERMS = ("cycle", "whiten")  # the weights of what may stand beside the graph's loss
LOSSES = {"nonsaturating": nonsaturating, "relativistic": relativistic}


class Outcome(NamedTuple):
    """Gradients in the order of the parameters that were handed in, and detached scalars by name."""

    graph: list[Tensor]
    critic: list[Tensor]
    diagnostics: dict[str, Tensor]


@dataclass(frozen=True)
class Game:
    """Rules of the game.

    Arguments:
        loss: "nonsaturating" or "relativistic".
        gamma: variable -> weight of its R1 + R2 penalty, >= 0; variables that are not named go unpenalised.
        lazy: the penalty is taken every `lazy` steps, `lazy` times as strong (Karras et al. 2020, arXiv 1912.04958).
        rescale: whether one backward pass through the critic serves both players.
        cycle: weight of the cycle loss, >= 0.
        whiten: weight of the divergence of the latents' moments, >= 0 (see `graph.Moments`).
        shift: pixels by which the critics' view of x is moved at most, >= 0.
    """

    loss: str = "nonsaturating"
    gamma: Mapping[str, float] = field(default_factory=dict)
    lazy: int = 1
    rescale: bool = True
    cycle: float = 0.0
    whiten: float = 0.0
    shift: int = 0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: expected one of {', '.join(LOSSES)}")
        if self.lazy < 1:
            raise ValueError(f"lazy is an interval in steps, >= 1: got {self.lazy}")
        if bad := {v: g for v, g in self.gamma.items() if not 0 <= g < float("inf")}:
            raise ValueError(f"a penalty's gamma must be >= 0 and finite: got {bad}")
        for name in TERMS:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a weight >= 0: got {getattr(self, name)}")
        if type(self.shift) is not int or self.shift < 0:
            raise ValueError(f"shift is a number of pixels, an integer >= 0: got {self.shift}")

    def due(self, step: int) -> bool:
        """Whether penalties are taken in this step."""
        return step % self.lazy == 0

    def shown(self, state: State, draws: Tensor | None) -> State:
        """What critics may read of a chain's last state.  draws: for `moved`, None where nothing is moved."""
        return state if draws is None else state | {"x": moved(state["x"], draws, self.shift)}

    def play(self, critics: Mapping[str, Critic], clamped: State, unclamped: State, graph_parameters: Sequence[Tensor],
             critic_parameters: Sequence[Tensor], step: int = 0, audible: Audible = {},
             terms: Mapping[str, Tensor] = {}) -> Outcome:  # fmt: skip
        """Both players' gradients from one graph of computation.

        Arguments:
            clamped, unclamped: last states of the two chains, `shown`, with their gradient history.
            graph_parameters, critic_parameters: what each player may change.
            step: decides whether the lazy penalty is due.
            audible: variable -> bool (B,); the critics read a variable only there, on both sides alike, penalties included.
            terms: name out of `TERMS` -> what its weight multiplies, with its gradient history.
        """
        critic_total, slopes, diagnostics = None, {}, {}
        for name, critic in critics.items():
            move = self._round(critic, clamped, unclamped, critic_parameters, step, audible)
            critic_total = _add(critic_total, move.critic)
            for end, slope in move.slopes.items():
                slopes[end] = slopes[end] + slope if end in slopes else slope
            _count(diagnostics, name, move.diagnostics)
        extra = {name: getattr(self, name) * term for name, term in terms.items()}
        diagnostics |= {f"loss_{name}": term.detach() for name, term in extra.items()}
        states = {"clamped": clamped, "unclamped": unclamped}
        graph_grads = _backward(slopes, states, graph_parameters, list(extra.values()))
        return Outcome(graph_grads, critic_total, diagnostics)

    def _round(self, critic, clamped, unclamped, parameters, step, audible) -> "_Move":
        """One critic's part in the game."""
        leaves = {
            (side, v): state[v].detach().requires_grad_()
            for side, state in (("clamped", clamped), ("unclamped", unclamped))
            for v in critic.messages
            if v in state
        }
        couples = any(isinstance(module, BATCH_NORMS) for module in critic.modules())
        score = _score(critic, leaves, audible, apart=couples)
        d, g, losses = self._slopes(score)
        due = any(self.gamma.get(v, 0) for v in critic.messages) and self.due(step)
        exact = self.rescale and not couples
        critic_grads, at_leaves, terms = self._gradients(score, leaves, parameters, d, g, due, exact)
        slopes = {end: at for end, at in zip(leaves, at_leaves, strict=True) if at is not None}
        return _Move(_zeros(critic_grads, parameters), slopes, losses | terms)

    def _gradients(self, score, leaves, parameters, d, g, due, exact) -> tuple[Sequence, Sequence, dict[str, Tensor]]:
        """The critic's gradient, the slopes of the graph's loss on the leaves, and the penalty's terms."""
        ends = list(leaves.values())
        inner = grad(score.sum(), ends, create_graph=True, allow_unused=True) if due else []
        penalty, terms = self._penalty(leaves, inner, score.dtype) if due else (0, {})
        if exact and not due:
            # Where d has underflowed its sign times 1e-20 stands for it: nothing in the critic's gradient, all in the graph's.
            weight = torch.where(d < 0, -1, 1) * d.abs().clamp_min(1e-20)
            grads = grad(score, [*parameters, *ends], weight, allow_unused=True)
            return grads[: len(parameters)], _scaled(g / weight, leaves, grads[len(parameters) :]), terms
        at_leaves = _scaled(g, leaves, inner) if exact else grad(score, ends, g, retain_graph=True, allow_unused=True)
        heard = due and penalty.requires_grad  # not where every variable is hidden
        # One pass for score and penalty: twice differentiated rectifiers send zeros all the way through the critic again.
        roots, weights = ([score, penalty], [d, torch.ones_like(penalty)]) if heard else ([score], [d])
        return grad(roots, parameters, weights, allow_unused=True), at_leaves, terms

    def _slopes(self, score: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """d = dL_critic/ds and g = dL_graph/ds, each (2B,), and what there is to report."""
        leaf = score.detach().requires_grad_()
        critic, graph = (loss.mean() for loss in LOSSES[self.loss](*leaf.chunk(2)))
        (d,), (g,) = grad(critic, leaf, retain_graph=True), grad(graph, leaf)
        clamped, unclamped = leaf.detach().chunk(2)
        return d, g, {
            "loss_critic": critic.detach(), "loss_graph": graph.detach(),
            "score_clamped": clamped.mean(), "score_unclamped": unclamped.mean(),
        }  # fmt: skip

    def _penalty(
        self, leaves: Mapping, slopes: Sequence[Tensor | None], dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """R1 + R2 with its gradient history, times `lazy`, and the mean squared input gradients per variable.

        A variable that is hidden everywhere counts as zero: the names do not depend on the data, which ranks do not share.
        """
        squares = {v: torch.zeros((), dtype=dtype, device=x.device) for (_, v), x in leaves.items()}
        for (_, v), slope in zip(leaves, slopes, strict=True):
            if slope is not None:
                squares[v] = squares[v] + slope.to(dtype).flatten(1).square().sum(1).mean()
        penalty = sum(0.5 * self.gamma.get(v, 0) * square for v, square in squares.items())
        return self.lazy * penalty, {f"penalty_{v}": square.detach() for v, square in squares.items()}


def moved(x: Tensor, draws: Tensor, most: int) -> Tensor:
    """Images (B, C, H, W) in [-1, 1], each moved with probability 1/2, by -most..most pixels down and as many to the right, all
    equally likely; what comes in is black (-1).  draws: uniform in [0, 1), (B, 3)."""
    height, width = x.shape[2:]
    moves = (draws[:, :1] < 0.5) * (draws[:, 1:] * (2 * most + 1) - most).floor()
    rows, columns = (
        (torch.arange(side, device=x.device) + most - by[:, None]).long()
        for side, by in ((height, moves[:, 0]), (width, moves[:, 1]))
    )
    framed = torch.nn.functional.pad(x, [most] * 4, value=-1.0)
    rows = rows[:, None, :, None].expand(-1, x.shape[1], -1, framed.shape[3])
    columns = columns[:, None, None, :].expand(-1, x.shape[1], height, -1)
    return framed.gather(2, rows).gather(3, columns)


class _Move(NamedTuple):
    """One critic's contribution: its own gradient, and the slope of the graph's loss on each (side, variable) it reads."""

    critic: list[Tensor]
    slopes: dict[tuple[str, str], Tensor]
    diagnostics: dict[str, Tensor]


def _score(critic: Critic, leaves: Mapping[tuple[str, str], Tensor], audible: Audible, apart: bool) -> Tensor:
    """Scores (2B,) in float32 or better, the clamped chain's first."""
    clamped, unclamped = (
        {v: x for (side, v), x in leaves.items() if side == which} for which in ("clamped", "unclamped")
    )
    if apart:
        score = torch.cat([critic(clamped, audible), critic(unclamped, audible)])
    else:
        both = {v: torch.cat([clamped[v], unclamped[v]]) for v in clamped}
        score = critic(both, {v: torch.cat([a, a]) for v, a in audible.items()})
    return score.to(torch.promote_types(score.dtype, torch.float32))


def _backward(
    slopes: Mapping[tuple[str, str], Tensor], states: Mapping[str, State], parameters: Sequence[Tensor],
    extra: Sequence[Tensor] = ()
) -> list[Tensor]:  # fmt: skip
    """The graph's gradient, given the slope of its loss on the chains' last states, and further terms of that loss."""
    ends = {(side, v): states[side][v] for side, v in slopes if states[side][v].requires_grad}
    roots, slope = list(ends.values()), [slopes[end].to(x.dtype) for end, x in ends.items()]
    roots, slope = [*roots, *extra], [*slope, *map(torch.ones_like, extra)]
    if not roots:
        return [torch.zeros_like(p) for p in parameters]
    return _zeros(grad(roots, parameters, slope, allow_unused=True), parameters)


def _count(diagnostics: dict[str, Tensor], critic: str, found: Mapping[str, Tensor]) -> None:
    """Losses and penalties add up over the critics, scores are told apart by their critic's name."""
    for name, value in found.items():
        if name.startswith("score"):
            diagnostics[f"{name}_{critic}"] = value
        else:
            diagnostics[name] = diagnostics.get(name, 0) + value


def _scaled(factor: Tensor, leaves: Mapping, slopes: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Every leaf's slope, per example times its side's half of `factor`, shape (2B,)."""
    half = dict(zip(("clamped", "unclamped"), factor.chunk(2), strict=True))
    return [
        None if at is None else half[side].view(-1, *[1] * (at.ndim - 1)) * at.detach()
        for (side, _), at in zip(leaves, slopes, strict=True)
    ]


def _zeros(grads: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor]:
    """An unused parameter has gradient zero, so that every rank steps alike."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)]


def _add(left: list[Tensor] | None, right: list[Tensor]) -> list[Tensor]:
    return right if left is None else [a + b for a, b in zip(left, right, strict=True)]
