"""The training of a graph by the game between its two chains: Lamb et al. 2017, https://arxiv.org/abs/1712.04120

Both players' gradients come from one graph of computation (`game`) and are applied by one Adam with two parameter groups, so
that Lightning's `global_step` counts batches.  Gradients are averaged over ranks here: nothing is left for DDP to find unused.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from gibbsnet.chain import Chain, check_hearing, check_pairing, part
from gibbsnet.families import Gaussian
from gibbsnet.game import Game, Outcome
from gibbsnet.graph import AGE, Audible, Graph, State, build_critics, build_graph
from gibbsnet.modules.sampling import Sampler, build_chain, check_names
from gibbsnet.noise import Noise, seed_of
from gibbsnet.replay import Replayed


class Pairs(NamedTuple):
    """The last states of the clamped and of the unclamped chain; where the chains stand, for the persistent to go on from."""

    real: State
    fake: State
    kept: State


def check_lessons(graph: Graph, clamped: Chain, supervised: Mapping) -> None:
    """Refuses supervised terms of unknown variables, along edges that are none, or of what the clamped chain does not hold."""
    for v, options in supervised.items():
        if lacking := sorted({"hears", "known", "dreams"} - set(options)):
            raise ValueError(f"supervised: of {v} there is no {', '.join(lacking)}; expected hears, known and dreams")
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


class GibbsNet(Sampler):
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
        self.supervised = {v: o for v, o in (supervised or {}).items() if o.get("known", 1) or o.get("dreams", 1)}
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
        for chain in (self.clamped, self.unclamped):
            check_names(self.graph, chain)
        if self.unclamped.persistent and self.unclamped.given:
            held = ", ".join(sorted(self.unclamped.given))
            raise ValueError(
                f"persistent={self.unclamped.persistent}, but each batch gives the chain another {held}: say 0.0"
            )
        for chain in (self.clamped, self.unclamped):
            held = {v for block in chain.draws(chain.range[0]) for v, _ in block} | chain.there | {AGE}
            for name, critic in self.critics.items():
                if absent := sorted(set(critic.messages) - held):
                    raise ValueError(
                        f"critic {name!r} reads {', '.join(absent)}, which a chain neither draws nor clamps"
                    )
        if unknown := sorted(set(self.game.gamma) - set(self.graph)):
            raise ValueError(
                f"game.gamma names {', '.join(unknown)}: expected variables out of {', '.join(self.graph)}"
            )
        if mute := sorted(v for v, stance in self.unclamped.mode.items() if stance.silent):
            raise ValueError(
                f"silent is said of data that may be unknown, in the clamped chain alone: not of {', '.join(mute)} here"
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
                refuse_undrawn(self.clamped, v, f"share={stance.share} silent={stance.silent}")
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

    @property
    def images_seen(self) -> int:
        return int(self.images)

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


def _refuse_for_the_clamped(chain: Chain) -> None:
    own = ("present", "dream_every", "learned", "rise", "persistent", "start_from_data")
    if said := [option for option in own if getattr(chain, option)]:
        raise ValueError(
            f"the clamped chain *is* the present: {', '.join(said)} can be said of the unclamped chain alone"
        )


def refuse_undrawn(clamped: Chain, v: str, why: str) -> None:
    """Where nothing says v the clamped chain has to draw it, or the model's own prior would pass for data."""
    if v in clamped.clamped - clamped.drawn:
        raise ValueError(f"{v} may be unknown ({why}), and the clamped chain never draws it: name it in its start")
