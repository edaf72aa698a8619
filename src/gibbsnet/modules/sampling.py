"""What is done with a model's averaged weights: draws, inference, reconstructions, fills and edits."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from gibbsnet.chain import Attentive, Chain, Stance, Wakeful, check_values, endings, parse
from gibbsnet.families import whole
from gibbsnet.graph import Graph, State
from gibbsnet.noise import Noise, seed_of

DRAWS_FOR_MEAN = 16  # EVALUATION: a posterior mean that no conditional gives is the mean of 16 clamped draws


def build_chain(start, blocks=(), steps=0, mode: Mapping = {}, present=(), learned=(), cut=(), **options) -> Chain:
    """A chain from plain arguments; `mode` maps a variable to {"clamped": bool, "potency": float}."""
    steps = steps if isinstance(steps, int) else tuple(steps)
    stances = {v: Stance(**stance) for v, stance in mode.items()}
    names = {"present": tuple(present), "learned": tuple(learned), "cut": tuple(cut)}
    return Chain(tuple(start), tuple(blocks), steps, mode=stances, **names, **options)


def _possible(chain: Chain, given: State) -> Chain:
    """The chain, or its dreams where something that it needs is not given."""
    return chain if chain.given <= given.keys() else chain.dreaming


def perceiving(chain: Chain, given: State) -> Chain:
    """The clamped chain outside of training: all that is given is held, what is not is free."""
    return replace(
        chain, mode={v: replace(s, clamped=s.clamped and v in given, share=1.0) for v, s in chain.mode.items()}
    )


def holding(chain: Chain, given: State) -> Chain:
    """The chain that also clamps what is given."""
    held = {v: replace(chain.mode.get(v, Stance()), clamped=True) for v in given}
    return replace(chain, mode={**chain.mode, **held})


def check_names(graph: Graph, chain: Chain) -> None:
    """Refuses a chain that names unknown variables or hears along edges that are none."""
    named = {v for block in chain.draws(1) for v, _ in block} | set(chain.mode) | chain.there | {*chain.cut}
    if unknown := sorted(named - set(graph)):
        raise ValueError(f"a chain names {', '.join(unknown)}: expected variables out of {', '.join(graph)}")
    if unknown := sorted(set(chain.learned) - set(graph.moments)):
        raise ValueError(f"a chain starts {', '.join(unknown)} from moments that were not followed when it was trained")
    for v, hears in (draw for block in chain.draws(1) for draw in block):
        if deaf := sorted((hears or set()) - graph.neighbours(v) - {""}):
            raise ValueError(f"a chain draws {v} given {', '.join(deaf)}, which {v} does not hear in the graph")


class Sampler(LightningModule):
    """A graph with averaged weights, `ema`, and two chains over it, `clamped` and `unclamped`.

    All that is drawn here is drawn by the averaged weights, without gradient, and keyed by the seed alone.
    """

    graph: Graph
    ema: AveragedModel
    clamped: Chain
    unclamped: Chain

    # What the model is

    @property
    def N(self) -> int:
        """Sweeps of the unclamped chain at which the model is scored: the most it was trained for."""
        return self.unclamped.range[1]

    @property
    def latents(self) -> list[str]:
        """Names of the latents, from x upward: the order in which the clamped chain first draws them."""
        drawn = [v for block in self.clamped.draws(1) for v, _ in block if v not in self.clamped.clamped]
        return list(dict.fromkeys(drawn))

    @property
    def labels(self) -> list[str]:
        """Names of what is observed beside x: the clamped chain holds it where it is known."""
        return [v for v in self.graph if v in self.clamped.clamped and v != "x"]

    # Draws

    def trajectory(
        self, batch: int, seed: int, given: State = {}, seen: State = {}, chain: Chain | Wakeful | None = None
    ) -> Iterator[State]:
        """States i = 0, 1, 2, ... of `batch` unclamped chains, without end; `given` are values to start from.

        chain: another than the one that was trained, over the same graph.  The trained one dreams, whatever mode it was trained
            in, where it would need a present that is not given.
        """
        check_values(self.graph, given)
        chain, given = chain or _possible(self.unclamped, given), self._values(given)
        check_names(self.graph, chain.chain if isinstance(chain, Wakeful) else chain)
        yield from chain.trajectory(self._ready(), self._keyed(seed, "trajectory"), given, seen, batch)

    def fill(
        self,
        given: State,
        seen: State,
        seed: int,
        scale: float | None = None,
        dreams: int = 2000,
        chain: Chain | None = None,
        refuses: bool = True,
    ) -> Iterator[State]:
        """States i = 0, 1, 2, ... of chains that hold what is given (of a variable in `seen` only those entries), without end.

        Arguments:
            given, seen: values (B, *) and masks (B, *), true where an entry is held.
            scale: how far x lies from its mean, see `misfit`; with it the chains listen to the entries of x that they hold
                (`Attentive`), without it they are plain.
            dreams: how many are drawn for the starts, if the chains listen; 0 for plain starts.  What an example holds whole
                beside x, that is given and not in `seen`, some dreams hold too, and its start is one of those: of 2,000 dreams
                beside ten labels it is chosen among 200.
            chain: another than the one that was trained, see `trajectory`; what it needs has to be given.
            refuses: false lets chains that listen choose their starts alone, and sweep as plain ones do.
        """
        check_values(self.graph, given, seen)
        empty = {v for v, mask in seen.items() if mask.numel() and not mask.any()}
        if not given.keys() - empty:
            what = f"the mask of {', '.join(sorted(empty))} holds no entry" if empty else "nothing is held"
            raise ValueError(f"{what}: expected values of some of {', '.join(self.graph)} to hold")
        plain, given = holding(chain or _possible(self.unclamped, given), given), self._values(given)
        check_names(self.graph, plain)
        noise, batch = self._keyed(seed, "fill"), len(next(iter(given.values())))
        if scale is None:
            yield from plain.trajectory(self._ready(), noise, given, seen, batch)
            return
        found = self._dreams({v: x for v, x in given.items() if v not in seen and v != "x"}, dreams, seed)
        yield from Attentive(plain, {"x": scale}, refuses).trajectory(self._ready(), noise, given, seen, batch, found)

    def _dreams(self, whole: State, count: int, seed: int) -> State:
        """The unclamped chain's states after N sweeps, `count` of them or as many as there are different ways to hold: each
        holds what some example holds whole, values (B, *), each way in turn.  Of nothing that is held: free ones."""
        if count < 1:
            return {}
        if whole:
            _, which = torch.cat([x.flatten(1).double() for x in whole.values()], 1).unique(dim=0, return_inverse=True)
            examples, ways = torch.arange(len(which), device=which.device), int(which.max()) + 1
            first = examples.new_zeros(ways).scatter_reduce(0, which, examples, "amin", include_self=False)
            count = max(count, ways)
            turn = first[torch.arange(count, device=first.device) % ways]
            whole = {v: x[turn] for v, x in whole.items()}
        chain = holding(_possible(self.unclamped, {}), whole)  # it dreams, whatever mode it was trained in
        return next(islice(self.trajectory(count, seed, whole, chain=chain), self.N, None))

    @torch.no_grad()
    def misfit(self, given: State, seed: int) -> float:
        """How far x lies from its mean given the clamped chain's latents, root mean square, in x's units.

        It is what the latents do not know of x: far more than the noise that p(x|z) adds.
        """
        return float(self._missed(self._ready(), self.infer(given, seed)).square().mean().sqrt())

    @staticmethod
    def _missed(graph: Graph, state: State) -> Tensor:
        """x less its mean given the latents of the state, shape of x."""
        return state["x"] - graph["x"].mean({v: value for v, value in state.items() if v != "x"}, len(state["x"]))

    @torch.no_grad()
    def infer(self, given: State, seed: int) -> State:
        """The clamped chain's last state; `given` = {"x": images}, and what else it clamps: what is not given is drawn."""
        held, seen = self._held(given), self._known(given)
        return perceiving(self.clamped, held).run(self._ready(), self._keyed(seed, "infer"), held, seen, len(held["x"]))

    @torch.no_grad()
    def posterior_mean(self, given: State, latent: str, seed: int) -> Tensor:
        """E[latent | given], shape (B, *): exact where one conditional gives it, else the mean over 16 clamped draws.

        Of a label, whose own draws would be 16 votes, that mean is of its probabilities given the others in each draw.
        """
        held, conditional, first = self._held(given), self._ready()[latent], dict(parse(self.clamped.start[0]))
        blind = {v for v, known in self._known(given).items() if not known.all()}
        drawn = [v for block in self.clamped.draws(0) for v, _ in block]
        if self.clamped.range[1] == 0 and latent in first and drawn.count(latent) == 1:
            hears = first[latent]
            heard = {u: x for u, x in held.items() if u not in first and (hears is None or u in hears)}
            if not blind & heard.keys():
                return conditional.mean(heard, len(held["x"]))
        draws = [self.infer(given, seed_of(seed, k)) for k in range(DRAWS_FOR_MEAN)]
        chain = perceiving(self.clamped, held).without(frozenset(blind))
        ends = endings(chain, self.graph, self.clamped.range[1], frozenset(blind))
        if latent in self.labels and latent in ends:
            return self._mean_label(latent, ends[latent], given, draws)
        return torch.stack([draw[latent] for draw in draws]).mean(0)

    def _mean_label(self, v: str, hears: frozenset[str], given: State, draws: list[State]) -> Tensor:
        """Label v where it is known, elsewhere the mean of its probabilities given those whom it hears, over clamped draws."""
        size = len(given["x"])
        mean = torch.stack([self._ready()[v].mean({u: draw[u] for u in hears}, size) for draw in draws]).mean(0)
        return torch.where(self._known(given)[v], draws[0][v], mean) if v in given else mean

    @torch.no_grad()
    def reconstruct(self, state: State, latent: str, seed: int) -> Tensor:
        """x' drawn downward from `latent` alone (and the labels in `state`), shape of x.

        Those that the start pass draws together with the latent are drawn too, hearing none of what was inferred above them.
        """
        held = {v: state[v] for v in [latent, *self.labels] if v in state}
        return self._down(held, self._downward({latent}), self._keyed(seed, "reconstruct"))["x"]

    @torch.no_grad()
    def decode(self, state: State, seed: int) -> Tensor:
        """x given the latents and labels in `state`; what is missing is drawn downward from what is there, and what the start
        pass draws together with it too."""
        held = {v: u for v, u in state.items() if v != "x"}
        if not held:
            raise ValueError(f"nothing to decode: expected some of {', '.join([*self.latents, *self.labels])}")
        return self._down(held, self._downward(set(held)), self._keyed(seed, "decode"))["x"]

    def edit(self, state: State, v: str, value: Tensor, seed: int) -> Tensor:
        """x with label v changed to `value`, given the latents and labels in `state`; those of `below` are drawn anew."""
        anew = self.below(v)
        return self.decode({u: x for u, x in (state | {v: value}).items() if u not in anew}, seed)

    def below(self, v: str) -> list[str]:
        """Latents to which the start pass tells v, itself or by others in between: no edit of v can hold them."""
        told: set[str] = set()
        for block in map(parse, self.unclamped.start):
            told |= {u for u, hears in block if u == v or told & (self.graph.neighbours(u) if hears is None else hears)}
        return [u for u in self.latents if u in told and u != v]

    def _downward(self, names: set[str]) -> list[str]:
        """What the start pass draws from that block on in which the first of these is; its last block where none is."""
        blocks = [[v for v, _ in parse(block)] for block in self.unclamped.start]
        first = next((k for k, block in enumerate(blocks) if not names.isdisjoint(block)), len(blocks) - 1)
        return [v for block in blocks[first:] for v in block]

    def _down(self, state: State, names: list[str], noise: Noise) -> State:
        """The state with those of the names drawn that it lacks, one after another."""
        graph, batch = self._ready(), len(next(iter(state.values())))
        for v in (v for v in names if v not in state):
            state = state | graph.draw([v], state, batch, noise)
        return state

    def _ready(self) -> Graph:
        return self.ema.module.eval()

    def _keyed(self, seed: int, purpose: str) -> Noise:
        return Noise(self.hparams.seed, seed, purpose, device=self.device)

    # What is given, to draws and to the training

    def _held(self, values: State) -> State:
        """Those values that the clamped chain holds, in the weights' precision."""
        held = {v: x for v, x in values.items() if v in self.clamped.clamped}
        if "x" not in held:
            raise ValueError(f"x is what latents are inferred from, and only {', '.join(values) or 'nothing'} is given")
        if not self.training:  # looking at them would make the host wait for a GPU, and `data` has looked
            check_values(self.graph, held, least=-1)
        return self._values(held)

    def _values(self, data: State) -> State:
        """Data as values of the variables: labels become one-hot vectors."""
        dtype = self.graph["x"].prior.dtype
        known = {v: x for v, x in data.items() if v in set(self.graph)}
        return data | {v: self.graph[v].family.value(x, self.graph[v].shape, dtype) for v, x in known.items()}

    def _known(self, data: State) -> State:
        """Masks of the labels among the data: -1 says that one is unknown, of one-hot vectors zeros do."""
        labels = {v: x for v, x in data.items() if v in self.clamped.clamped and self.graph[v].family.labelled}
        known = {v: x.long() >= 0 if whole(x) else x.sum(1) > 0 for v, x in labels.items()}
        return {v: k[:, None].expand(-1, *self.graph[v].shape) for v, k in known.items()}
