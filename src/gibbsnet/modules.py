r"""LightningModules.  `GibbsNet` does the work; `ALI` and `HALI` are GibbsNets whose chains are checked to be theirs.

Both players' gradients come from one graph of computation (`game`) and are applied by one Adam with two parameter groups, so
that Lightning's `global_step` counts batches.  Gradients are averaged over ranks here: nothing is left for DDP to find unused.

    GibbsNet  Lamb et al. 2017, https://arxiv.org/abs/1712.04120
    ALI       Dumoulin et al. 2016, https://arxiv.org/abs/1606.00704
    HALI      Belghazi et al. 2018, https://arxiv.org/abs/1802.01071
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from .chain import Attentive, Chain, Stance, Wakeful, check_hearing, check_pairing, check_values, endings, parse, part
from .families import Gaussian, whole
from .game import Game, Outcome
from .graph import AGE, Audible, Graph, State, build_critics, build_graph
from .noise import Noise, seed_of
from .replay import Replayed

DRAWS_FOR_MEAN = 16  # EVALUATION: a posterior mean that no conditional gives is the mean of 16 clamped draws


class Pairs(NamedTuple):
    """The last states of the clamped and of the unclamped chain; where the chains stand, for the persistent to go on from."""

    real: State
    fake: State
    kept: State


def build_chain(start, blocks=(), steps=0, mode: Mapping = {}, present=(), learned=(), **options) -> Chain:
    """A chain from plain arguments; `mode` maps a variable to {"clamped": bool, "potency": float}."""
    steps = steps if isinstance(steps, int) else tuple(steps)
    stances = {v: Stance(**stance) for v, stance in mode.items()}
    return Chain(
        tuple(start), tuple(blocks), steps, mode=stances, present=tuple(present), learned=tuple(learned), **options
    )


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
    named = {v for block in chain.draws(1) for v, _ in block} | set(chain.mode) | chain.there
    if unknown := sorted(named - set(graph)):
        raise ValueError(f"a chain names {', '.join(unknown)}: expected variables out of {', '.join(graph)}")
    if unknown := sorted(set(chain.learned) - set(graph.moments)):
        raise ValueError(f"a chain starts {', '.join(unknown)} from moments that were not followed when it was trained")
    for v, hears in (draw for block in chain.draws(1) for draw in block):
        if deaf := sorted((hears or set()) - graph.neighbours(v) - {""}):
            raise ValueError(f"a chain draws {v} given {', '.join(deaf)}, which {v} does not hear in the graph")


def check_lessons(graph: Graph, clamped: Chain, supervised: Mapping) -> None:
    """Refuses supervised terms of unknown variables, along edges that are none, or of what the clamped chain does not hold."""
    for v, options in supervised.items():
        if v not in set(graph) or not set(options["hears"]) <= graph.neighbours(v):
            raise ValueError(f"supervised: {v} given {', '.join(options['hears'])} is no conditional of the graph")
        if v not in clamped.clamped:
            held = ", ".join(sorted(clamped.clamped)) or "nothing"
            raise ValueError(f"supervised: {v} is not among the data; expected what the clamped chain clamps: {held}")


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Keys the global generator of this device, from which dropout draws."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for GPUs: a millisecond
    else:
        torch.manual_seed(seed)


def anneal(step: int, steps: int, floor: float) -> float:
    """Learning rate factor: 1 in the first half of training, then half a cosine down to `floor` at its end."""
    done = min(max(2 * step / max(steps, 1) - 1, 0), 1)
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


class GibbsNet(LightningModule):
    """The joint p(x, z), learned by the game between a clamped and an unclamped chain of one graph.

    Arguments (all plain values, so that a checkpoint describes itself and loads with `weights_only`):
        graph: variables, see `build_graph`.
        networks: what the messages' names stand for, see `build_message`.
        critics: see `build_critics`.
        chains: {"clamped": {...}, "unclamped": {...}}, see `build_chain`.
        game: see `Game`.
        supervised: variable -> {"hears": [...], "known": weight, "dreams": weight}, see `lesson`.
        optim: lr, lr_critic, betas, anneal (final learning rate factor), floor_from (see `floors`, or null), clip (greatest
            gradient norm per player, or null), ema (decay per step), skip_nonfinite (batches in a row that may pass without a
            step, see `_skipped`).
        steps: batches in the whole run (the annealing's end).
        seed: of weights and noise.

    Raises:
        ValueError: if the description does not fit together, or some conditional would be invisible to every critic.
    """

    def __init__(
        self,
        graph: dict,
        networks: dict,
        critics: dict,
        chains: dict,
        game: dict,
        optim: dict,
        steps: int,
        seed: int = 0,
        supervised: dict | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.clamped, self.unclamped = build_chain(**chains["clamped"]), build_chain(**chains["unclamped"])
        self.game = Game(**game)
        gaussian = [v for v in self.latents if graph.get(v, {}).get("family") == "gaussian"]
        self.whitened = gaussian if self.game.whiten else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "weights"))
            self.graph = build_graph(graph, networks, dict.fromkeys([*self.unclamped.learned, *self.whitened]))
            self.critics = build_critics(critics, graph, networks)
        self.supervised = {v: o for v, o in (supervised or {}).items() if o["known"] or o["dreams"]}
        self.ema = AveragedModel(self.graph).requires_grad_(False)  # nobody's to learn: DDP keeps no buckets for it
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        self.kept: State = {}  # where a persistent chain stands: this rank's part, or what a checkpoint holds, that of all
        self.kept_by_all = False
        self.replays = False  # whether steps are recorded and replayed, see `replay`
        self.diagnostics: dict[str, Tensor] = {}
        # Of the last batch that took them: a row of the record may come between two.
        self.penalties: dict[str, Tensor] = {}
        self.skipped = {"row": 0, "all": 0}  # batches without a step: those just now, and in all
        self.check()

    def check(self) -> None:
        """Refuses chains that do not fit the graph, critics that read what a chain never holds, and a game that some
        conditional is invisible to."""
        _refuse_for_the_clamped(self.clamped)
        if self.unclamped.persistent and self.unclamped.given:
            held = ", ".join(sorted(self.unclamped.given))
            raise ValueError(
                f"persistent={self.unclamped.persistent}, but each batch gives the chain another {held}: say 0.0"
            )
        for chain in (self.clamped, self.unclamped):
            check_names(self.graph, chain)
            held = {v for block in chain.draws(chain.range[0]) for v, _ in block} | chain.there | {AGE}
            for name, critic in self.critics.items():
                if absent := sorted(set(critic.messages) - held):
                    raise ValueError(
                        f"critic {name!r} reads {', '.join(absent)}, which a chain neither draws nor clamps"
                    )
        if self.game.whiten and not self.whitened:
            raise ValueError(f"game.whiten={self.game.whiten}, but no latent is a Gaussian: say 0.0")
        if self.game.shift and (len(self.graph["x"].shape) != 3 or self.game.shift >= min(self.graph["x"].shape[1:])):
            raise ValueError(
                f"game.shift={self.game.shift}: expected 0, or fewer pixels than images of shape {self.graph['x'].shape} have"
            )
        check_lessons(self.graph, self.clamped, self.supervised)
        for v, stance in self.clamped.mode.items():
            if stance.share < 1 or stance.silent:
                _refuse_undrawn(self.clamped, v, f"share={stance.share} silent={stance.silent}")
        self._check_floors()
        for step in (0, 1):  # with dream_every two games alternate; the whole range of steps holds what has risen of it
            unclamped = replace(self.unclamped, rise=0).during(step)
            check_pairing(self.graph, self.clamped, unclamped)
            check_hearing(self.graph, self.clamped, unclamped, [set(c.messages) for c in self.critics.values()])

    def _check_floors(self) -> None:
        begin, own = self.hparams.optim.get("floor_from"), self.floors(self.hparams.steps)
        if begin and not any(begin > floor for floor in own.values()):
            there = ", ".join(f"{v} {floor}" for v, floor in own.items()) or "there is no Gaussian latent"
            raise ValueError(f"optim.floor_from={begin}: no floor lies below it ({there}); say more, or null")
        for v, floor in self.floors(0).items():
            try:
                self.graph[v].family.with_floor(floor)
            except ValueError as error:
                raise ValueError(f"optim.floor_from={self.hparams.optim['floor_from']} for {v}: {error}") from error

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

    @property
    def images_seen(self) -> int:
        return int(self.images)

    # Training

    def configure_optimizers(self) -> torch.optim.Optimizer:
        o = self.hparams.optim
        players = [{"params": list(self.graph.parameters()), "lr": o["lr"], "base": o["lr"]},
                   {"params": list(self.critics.parameters()), "lr": o["lr_critic"], "base": o["lr_critic"]}]  # fmt: skip
        return torch.optim.Adam(players, betas=tuple(o["betas"]), fused=True)

    def on_fit_start(self) -> None:
        self.__dict__.pop("_replayed", None)  # what was recorded reads the weights where they lay in another fit
        # Gradients are averaged by `_reduce`; DDP's own hooks would wait for a backward pass that never comes.
        if hasattr(self.trainer.strategy.model, "require_backward_grad_sync"):
            self.trainer.strategy.model.require_backward_grad_sync = False

    def training_step(self, batch: State, batch_idx: int = 0) -> None:
        step = int(self.trainer.global_step)  # equals self.step, which would make the host wait for a GPU
        noise = self._noise(self.hparams.seed, step, "train")
        before = [buffer.clone() for buffer in self._statistics]
        real, kept, outcome = self._played(batch, noise, step)
        skipped = self._update(outcome, step)
        with torch.no_grad():
            if skipped:
                for buffer, value in zip(self._statistics, before, strict=True):
                    buffer.copy_(value)
            else:
                self.kept, self.kept_by_all = kept, False
                for v, moments in self.graph.moments.items():
                    moments.follow(*self._reduce(moments.of(real[v].to(moments.first.dtype))))
                self._follow(step - self.skipped["all"])
            self.step += 1
            self.images += noise.ranks * len(batch["x"])
        if not skipped:
            self.penalties |= {name: x for name, x in outcome.diagnostics.items() if name.startswith("penalty")}
        self.diagnostics = {} if skipped else outcome.diagnostics | self.penalties
        if self._skips:
            self.diagnostics["skipped"] = torch.tensor(float(self.skipped["all"]))

    def floors(self, step: int) -> dict[str, float]:
        """The least scale of every Gaussian in a training step: it falls geometrically from `floor_from` to its own in the first
        half of training.  The averaged weights, which are scored, have their own all along."""
        families = {v: conditional.family for v, conditional in self.ema.module.conditionals.items()}
        own = {v: family.floor for v, family in families.items() if isinstance(family, Gaussian)}
        begin, done = self.hparams.optim.get("floor_from") or 0, min(2 * step / max(self.hparams.steps, 1), 1)
        return {v: begin ** (1 - done) * floor**done if begin > floor else floor for v, floor in own.items()}

    def _set_floors(self, step: int) -> None:
        """Gives the present weights the floors of this step; whatever plays sets them first."""
        for v, floor in self.floors(step).items():
            if self.graph[v].family.floor != floor:
                self.graph[v].family = self.graph[v].family.with_floor(floor)

    def play(self, batch: State, noise: Noise, step: int = 0) -> Outcome:
        """One game on one batch: both players' gradients and the diagnostics, no weight changed."""
        return self._game(self._inputs(batch, noise), noise, step)[2]

    def _played(self, batch: State, noise: Noise, step: int) -> tuple[State, State, Outcome]:
        """The clamped chain's last state, where the chains stand, and the game's outcome."""
        inputs, chain = self._inputs(batch, noise), self.unclamped
        if not (self.replays and self._recordable(step)):
            self._reseed(noise)
            return self._game(inputs, noise, step)
        # All that `_game` does with the step:
        kind = self.game.due(chain.turn(step)), chain.dreams(step), chain.during(step).ranges
        real, kept, outcome = self._replayed(kind, inputs, noise, step)
        diagnostics = {name: value.clone() for name, value in outcome.diagnostics.items()}
        return real, {v: x.clone() for v, x in kept.items()}, outcome._replace(diagnostics=diagnostics)

    def _inputs(self, batch: State, noise: Noise) -> dict[str, State]:
        """What a game reads that is another in every step."""
        return {"batch": batch, "kept": self._kept_here(noise, len(batch["x"]))}

    def _game(self, inputs: Mapping[str, State], noise: Noise, step: int) -> tuple[State, State, Outcome]:
        """What `_played` gives: a function of the inputs, the noise, the weights and, where it is recorded, the kind of step."""
        batch = inputs["batch"]
        real, fake, kept = self.pairs(batch, noise, step, inputs["kept"])
        return real, kept, self.taught(self.contest(real, fake, noise, step, self._spoken(batch)), batch, real, fake)

    def _recordable(self, step: int) -> bool:
        """Whether a step's operations are the same whatever its tensors hold, and whenever it is taken: who is heard is no matter
        of the example, and no floor falls."""
        stances = [*self.clamped.mode.values(), *self.unclamped.mode.values()]
        partly = any(s.silent or isinstance(s.potency, Tensor) or s.potency < 1 for s in stances)
        return not partly and self.floors(step) == self.floors(self.hparams.steps)

    @cached_property
    def _replayed(self) -> Replayed:
        return Replayed(self._game, self._reseed)

    def _reseed(self, noise: Noise) -> None:
        _seed_dropout(seed_of(*noise.key, noise.rank), self.device)

    def pairs(self, batch: State, noise: Noise, step: int = 0, kept: State | None = None) -> Pairs:
        """The last states of the clamped and of the unclamped chain.

        kept: where this rank's persistent chains stand, if not where the module has them.
        """
        given, size = self._held(batch), len(batch["x"])
        kept = self._kept_here(noise, size) if kept is None else kept
        self._set_floors(step)
        real = self.clamped.run(self.graph, noise.at("clamped"), given, self._known(batch), batch=size)
        chain, noise = self.unclamped.during(step), noise.at("unclamped")
        # What is unknown of them, such as a label, is as the clamped chain drew it.
        data = {v: real[v].detach() for v in given}
        if chain.persistent and chain.range[1]:
            return self._of_two_ages(chain, noise, real, data, kept)
        held = {v: real[v].detach() for v in sorted(chain.given)}
        return Pairs(real, chain.run(self.graph, noise, held, batch=size, data=data), {})

    def _of_two_ages(self, chain: Chain, noise: Noise, real: State, data: State, kept: State) -> Pairs:
        """The pairs where the chains at the first places never start again; the critics may know which, by `AGE`."""
        size = len(real["x"])
        many = chain.old(noise, size)
        old, young = slice(0, many), slice(many, size)
        mine, others = (noise.among(rows, size) for rows in (old, young))
        onward = chain.onward(self._ready(), mine, part(kept, old), many)
        aged = chain.aged(self.graph, mine, onward)
        fresh = chain.run(self.graph, others, batch=size - many, data=part(data, young))
        fake = {v: torch.cat([aged[v], x]) for v, x in fresh.items()}
        # The young are kept too, and never read: so every rank keeps, and gathers, equally many.
        kept = {v: torch.cat([onward[v], x.detach()]) for v, x in fresh.items()}
        age = (torch.arange(size, device=self.device) < many).to(fake["x"].dtype)[:, None]
        return Pairs(real | {AGE: age}, fake | {AGE: age}, kept)

    def contest(self, real: State, fake: State, noise: Noise, step: int, spoken: Audible = {}) -> Outcome:
        """The game between two chains' last states.  `spoken`: where the critics may read a variable at all, bool (B,)."""
        audible = self._audible(noise, len(real["x"]), step)
        audible = audible | {v: said & audible[v] if v in audible else said for v, said in spoken.items()}
        views = [
            self._shown(state, noise.at("shift", side)) for side, state in (("clamped", real), ("unclamped", fake))
        ]
        turn = self.unclamped.turn(step)
        return self.game.play(self.critics, *views, *self._players, turn, audible, self._terms(real))

    def _shown(self, state: State, noise: Noise) -> State:
        """What the critics read of a chain's last state: x moved, where the game moves it."""
        return self.game.shown(state, noise.uniform((len(state["x"]), 3)) if self.game.shift else None)

    def _terms(self, real: State) -> dict[str, Tensor]:
        """What stands beside the graph's loss, by the names of its weights in the game; `real`: the clamped chain's end."""
        terms = {}
        if self.game.cycle:
            terms["cycle"] = self._missed(self.graph, real).square().mean()
        if self.whitened:
            terms["whiten"] = sum(self.graph.moments[v].divergence(real[v]) for v in self.whitened)
        return terms

    def taught(self, outcome: Outcome, batch: State, real: State, fake: State) -> Outcome:
        """The game's outcome with the supervised terms, where there are any: the graph's gradient of their sum added."""
        if not self.supervised:
            return outcome
        loss = sum(self.lesson(v, batch, real, fake, **options) for v, options in self.supervised.items())
        taught = torch.autograd.grad(loss, self._players[0], allow_unused=True)
        graph = [g if t is None else g + t for g, t in zip(outcome.graph, taught, strict=True)]
        return outcome._replace(graph=graph, diagnostics=outcome.diagnostics | {"loss_supervised": loss.detach()})

    def lesson(
        self, v: str, batch: State, real: State, fake: State, hears: list[str], known: float, dreams: float
    ) -> Tensor:
        r"""What the game does not need, and what helps it where few labels are known: cross-entropies of v given `hears`,

            known / B sum_(b: v known) -log p(v_b | real_b)  +  dreams / B sum_b -log p(v_b | fake_b)

        The second is on pairs that the unclamped chain made.  No gradient reaches what is heard: p(v | .) alone learns.
        """  # fmt: skip
        size, mask = len(batch["x"]), self._known(batch).get(v)
        truth = self._held(batch)[v]  # the game may have redrawn it
        if mask is not None:
            truth = torch.where(mask, truth, real[v].detach())
        loss = 0.0
        for weight, state, value in ((known, real, truth), (dreams, fake, fake[v].detach())):
            if weight:
                wrong = -self.graph[v]({u: state[u].detach() for u in hears}, size).log_prob(value)
                counts = 1.0 if mask is None or state is fake else mask[:, 0]
                loss = loss + weight * (wrong * counts).mean()
        return loss

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
        """Masks of the labels (integers) among the data, which -1 says are unknown."""
        labels = {
            v: x for v, x in data.items() if v in self.clamped.clamped and self.graph[v].family.labelled and whole(x)
        }
        return {v: (x.long() >= 0)[:, None].expand(-1, *self.graph[v].shape) for v, x in labels.items()}

    def _spoken(self, data: State) -> Audible:
        """Where labels that are to be silent when they are unknown are known."""
        return {v: mask[:, 0] for v, mask in self._known(data).items() if self.clamped.mode[v].silent}

    def _kept_here(self, noise: Noise, size: int) -> State:
        """This rank's part of the persistent chain; a chain of another size (a resumed run's batch) begins anew."""
        kept, whole = {v: x.to(self.device) for v, x in self.kept.items()}, self.kept_by_all
        if not kept or len(kept["x"]) != (size * noise.ranks if whole else size):
            return {}
        return part(kept, slice(noise.rank * size, (noise.rank + 1) * size)) if whole else kept

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        whole = self.kept_by_all
        checkpoint["kept"] = {v: x if whole else self.all_gather(x).flatten(0, -x.ndim) for v, x in self.kept.items()}
        checkpoint["skipped"] = dict(self.skipped)
        checkpoint["penalties"] = {name: self.all_gather(x).mean() for name, x in self.penalties.items()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.kept, self.kept_by_all = checkpoint.get("kept", {}), True
        self.skipped = dict(checkpoint.get("skipped", self.skipped))
        self.penalties = checkpoint.get("penalties", {})

    @cached_property
    def _players(self) -> tuple[list[Tensor], list[Tensor]]:
        """What the graph and what the critics may change; looking for it is a tenth of a small network's step."""
        return tuple([p for p in net.parameters() if p.requires_grad] for net in (self.graph, self.critics))

    def _audible(self, noise: Noise, size: int, step: int = 0) -> Audible:
        """A critic reads a variable where both chains heard it: hidden on one side, it is hidden on the other."""
        sides = [
            chain.last_audible(noise.at(name), size)
            for name, chain in (("clamped", self.clamped), ("unclamped", self.unclamped.during(step)))
        ]
        return {v: torch.stack([side[v] for side in sides if v in side]).all(0) for v in sides[0] | sides[1]}

    def _update(self, outcome: Outcome, step: int) -> bool:
        """Averages over ranks, clips, and lets both players step; whether it skipped the step instead."""
        optimizer, o = self.optimizers(), self.hparams.optim
        averaged = [self._reduce(grads) for grads in (outcome.graph, outcome.critic)]
        skipped = self._skips > 0 and self._skipped(averaged, outcome.diagnostics)
        for free, grads, group in zip(self._players, averaged, optimizer.param_groups, strict=True):
            for p, g in zip(free, grads, strict=True):
                p.grad = (
                    None if skipped else g
                )  # without gradients Adam leaves everything as it is; Lightning counts the step
            if o.get("clip"):
                torch.nn.utils.clip_grad_norm_(free, o["clip"])
            group["lr"] = group["base"] * anneal(step, self.hparams.steps, o["anneal"])
        optimizer.step()
        return skipped

    def _skipped(self, averaged: list[list[Tensor]], diagnostics: Mapping[str, Tensor]) -> bool:
        """Whether this batch passes without a step: something is not finite on some rank, and not too often in a row.

        Waits for the device.
        """
        terms = [value for name, value in diagnostics.items() if name.startswith(("loss", "penalty"))]
        bad = ~torch.stack([value.isfinite().all() for value in [*averaged[0], *averaged[1], *terms]]).all()
        if self.trainer.world_size > 1:
            bad = self.trainer.strategy.reduce(bad.float(), reduce_op="max")
        self.skipped["row"] = self.skipped["row"] + 1 if bad else 0
        skip = 0 < self.skipped["row"] <= self._skips
        self.skipped["all"] += skip
        return skip

    @property
    def _skips(self) -> int:
        """How many batches in a row may pass without a step."""
        return self.hparams.optim.get("skip_nonfinite", 0)

    @cached_property
    def _statistics(self) -> list[Tensor]:
        """What a forward pass leaves behind, batch norms' running means, where a batch that leaves nothing may come."""
        return [*self.graph.buffers(), *self.critics.buffers()] if self._skips else []

    def _reduce(self, grads: list[Tensor]) -> list[Tensor]:
        """The mean over ranks, in one message."""
        if self.trainer.world_size == 1 or not grads:
            return grads
        flat = self.trainer.strategy.reduce(torch.cat([g.flatten() for g in grads]), reduce_op="mean")
        return [part.view_as(g) for part, g in zip(flat.split([g.numel() for g in grads]), grads, strict=True)]

    def _follow(self, n: int) -> None:
        """Exponential moving average whose horizon grows with the run until it reaches the decay's; n steps were averaged so far.

        It is AveragedModel's `update_parameters` over lists made once, without a look at its own counter: a GPU may hold it, and
        the host would wait.
        """
        weight = max(9 / (10 + n), 1 - self.hparams.optim["ema"]) if n else 1.0
        averaged, current = self._averages
        torch._foreach_lerp_(averaged, current, weight)
        for kept, buffer in zip(self.ema.module.buffers(), self.graph.buffers(), strict=True):
            kept.copy_(buffer)
        self.ema.n_averaged += 1

    @cached_property
    def _averages(self) -> tuple[list[Tensor], list[Tensor]]:
        """The averaged parameters and the present ones."""
        return tuple(list(net.parameters()) for net in (self.ema.module, self.graph))

    def _noise(self, *key: int | str) -> Noise:
        trainer = self._trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer and trainer.training else (0, 1)
        return Noise(*key, device=self.device, rank=rank, ranks=ranks)

    def start_from(self, mean: Tensor) -> None:
        """Sets the learned prior of x, and of all that is of its kind, to the data's mean, shape of x."""
        kind = type(self.graph["x"].family)
        for v in self.graph:
            if self.graph[v].prior.requires_grad and isinstance(self.graph[v].family, kind):
                for conditional in (self.graph[v], self.ema.module[v]):
                    conditional.prior.data.copy_(conditional.family.fit(mean))

    # Sampling: with the averaged weights, without gradient, keyed by the seed alone

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
    ) -> Iterator[State]:
        """States i = 0, 1, 2, ... of chains that hold what is given (of a variable in `seen` only those entries), without end.

        Arguments:
            given, seen: values (B, *) and masks (B, *), true where an entry is held.
            scale: how far x lies from its mean, see `misfit`; with it the chains listen to the entries of x that they hold
                (`Attentive`), without it they are plain.
            dreams: how many are drawn for the starts, if the chains listen; 0 for plain starts.  What an example holds whole
                beside x, that is given and not in `seen`, some dreams hold too, and its start is one of those: of 2,000 dreams
                beside ten labels it is chosen among 200.
        """
        check_values(self.graph, given, seen)
        empty = {v for v, mask in seen.items() if mask.numel() and not mask.any()}
        if not given.keys() - empty:
            what = f"the mask of {', '.join(sorted(empty))} holds no entry" if empty else "nothing is held"
            raise ValueError(f"{what}: expected values of some of {', '.join(self.graph)} to hold")
        plain, given = holding(_possible(chain or self.unclamped, given), given), self._values(given)
        check_names(self.graph, plain)
        noise, batch = self._keyed(seed, "fill"), len(next(iter(given.values())))
        if scale is None:
            yield from plain.trajectory(self._ready(), noise, given, seen, batch)
            return
        found = self._dreams({v: x for v, x in given.items() if v not in seen and v != "x"}, dreams, seed)
        yield from Attentive(plain, {"x": scale}).trajectory(self._ready(), noise, given, seen, batch, found)

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
        if self.clamped.range[1] == 0 and latent in first:
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


class ALI(GibbsNet):
    """GibbsNet without further sweeps and with one latent level: q(z|x) q(x) against p(x|z) p(z)."""

    def check(self) -> None:
        super().check()
        _refuse_sweeps("ALI", self)
        if len(self.latents) != 1:
            raise ValueError(f"ALI has one latent, not {len(self.latents)} ({', '.join(self.latents)}): see HALI")


class HALI(GibbsNet):
    """Directed and hierarchical: q(x) prod_l q(z_l | z_{l-1}) against p(z_L) prod_l p(z_{l-1} | z_l)."""

    def check(self) -> None:
        super().check()
        _refuse_sweeps("HALI", self)
        if len(self.latents) < 2:
            raise ValueError(f"HALI has two latents or more, not {len(self.latents)}: see ALI")


def _refuse_for_the_clamped(chain: Chain) -> None:
    own = ("present", "dream_every", "learned", "rise", "persistent", "start_from_data")
    if said := [option for option in own if getattr(chain, option)]:
        raise ValueError(
            f"the clamped chain *is* the present: {', '.join(said)} can be said of the unclamped chain alone"
        )


def _refuse_undrawn(clamped: Chain, v: str, why: str) -> None:
    """Where nothing says v the clamped chain has to draw it, or the model's own prior would pass for data."""
    if v in clamped.clamped - clamped.drawn:
        raise ValueError(f"{v} may be unknown ({why}), and the clamped chain never draws it: name it in its start")


def _refuse_sweeps(name: str, module: GibbsNet) -> None:
    if module.clamped.range[1] or module.unclamped.range[1]:
        raise ValueError(
            f"{name} is trained without further sweeps: chains.*.steps must be 0; model.kind=gibbsnet sweeps its graph"
        )


MODELS = {"gibbsnet": GibbsNet, "ali": ALI, "hali": HALI}


def build(config: Mapping, shape: tuple[int, ...]) -> GibbsNet:
    """The module that a resolved configuration describes, for data of this shape.

    Raises:
        ValueError: the configuration contradicts the data or itself.
    """
    graph = {v: dict(variable) for v, variable in config["graph"].items()}
    if graph["x"]["shape"] not in (None, list(shape)):
        raise ValueError(
            f"data.shape={graph['x']['shape']}, but {config['data']['name']} has {list(shape)}: correct it or null"
        )
    for variable in graph.values():
        variable["shape"] = variable["shape"] or list(shape)  # data.shape may be null
    networks = {name: network for name, network in config["network"].items() if name != "name"}
    kind = config["model"]["kind"]
    if kind not in MODELS:
        raise ValueError(f"model.kind={kind}: expected one of {', '.join(MODELS)}")
    rest = {key: config[key] for key in ("critics", "chains", "game", "optim", "steps", "seed")}
    rest["supervised"] = config.get("supervised")
    if unsized := sorted(v for v, variable in graph.items() if variable["shape"] == [None]):
        who = f"model={config['model']['name']} has {', '.join(unsized)}"
        raise ValueError(f"{who}: say how many classes there are, data.classes=K")
    module = MODELS[kind](graph=graph, networks=networks, **rest)
    if config["data"].get("labels"):
        _refuse_undrawn(module.clamped, "y", f"data.labels={config['data']['labels']}")
    return module
