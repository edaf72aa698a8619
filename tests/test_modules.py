import copy
import math
from itertools import islice

import pytest
import pytorch_lightning as pl
import torch

from gibbsnet.config import choices, load
from gibbsnet.modules import DRAWS_FOR_MEAN, MODELS, GibbsNet, anneal, build
from gibbsnet.noise import Noise, seed_of
from tests.models import LABELLED, module, normal

SHAPES = {"digits": (1, 8, 8), "ring": (2,)}
NAMES = choices("model")
models = pytest.mark.parametrize("model", NAMES)
hidden = pytest.mark.parametrize("model", sorted(set(NAMES) - LABELLED))  # what is not x is a latent
always = pytest.mark.parametrize(
    "model", sorted(set(NAMES) - {"attributes"})
)  # a shares its examples out: not every game
B = 6


def batch(data="ring", n=B, seed=0):
    """Images or points, with labels and attributes, which most models leave alone."""
    labels = {"y": torch.arange(n) % 2, "a": torch.arange(3 * n).view(n, 3) % 2 == 0}
    return {"x": normal(n, *SHAPES[data], seed=seed).tanh(), **labels}


def points(data="ring", n=B, seed=0):
    return {"x": batch(data, n, seed)["x"]}


def configured(model="gibbsnet", data="ring", **changes):
    """A module whose configuration's parts are replaced: graph, chains, critics, network, ..."""
    config = load([f"model={model}", f"data={data}"])
    for key, change in changes.items():
        change(config[key])
    return build(config, SHAPES[data]).double()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# What conf/model describes


@always
@pytest.mark.parametrize("data", SHAPES)
def test_one_game_gives_gradients_to_everything_that_is_learned(model, data):
    m = module(model, data)
    learned = [[(name, p) for name, p in net.named_parameters() if p.requires_grad] for net in (m.graph, m.critics)]
    fixed = [name for name, p in m.graph.named_parameters() if not p.requires_grad]
    graph = load([f"model={model}"])["graph"]
    assert fixed == [f"conditionals.{v}.prior" for v in m.graph if graph[v].get("prior") != "learned"]
    before = copy.deepcopy(m.state_dict())
    outcome = m.play(batch(data), Noise(0))
    for named, grads in zip(learned, (outcome.graph, outcome.critic), strict=True):
        assert [name for (name, _), g in zip(named, grads, strict=True) if not g.any() or not g.isfinite().all()] == []
        assert all(p.shape == g.shape for (_, p), g in zip(named, grads, strict=True))
    assert same(before.values(), m.state_dict().values()) and all(p.grad is None for p in m.parameters())


@hidden
def test_a_model_says_what_it_is(model):
    m, expected = module(model), {"hali3": ["z1", "z2", "z3"], "diamond": ["z1", "w1", "z2"]}
    expected |= {key: ["z1", "z2"] for key in ("hali", "gibbsnet2")}
    most = {"gibbsnet_published": 3, "unshared": 3}.get(model, int(model.startswith("gibbsnet")))
    model = model.partition("_")[0]  # with other critics or chains it is the same model
    kind = model.rstrip("0123456789")
    assert isinstance(m, MODELS[{"untied": "ali", "unshared": "gibbsnet", "diamond": "hali"}.get(kind, kind)])
    assert m.latents == expected.get(model, ["z"])
    assert most == m.N and m.images_seen == 0


def test_labels_in_a_batch_are_left_alone():
    m = module()
    assert same(m.play(batch(), Noise(0)).graph, m.play(points(), Noise(0)).graph)


# Randomness has no state


@models
def test_equal_seeds_make_equal_weights_and_games(model):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = module(model), module(model), module(model, "ring", "seed=1")
    assert torch.equal(torch.get_rng_state(), before)
    assert same(a.state_dict().values(), b.state_dict().values())
    assert not same(a.graph.parameters(), c.graph.parameters())
    plays = [m.play(batch(), Noise(k)) for m, k in ((a, 0), (b, 0), (b, 1))]
    assert same(plays[0].graph + plays[0].critic, plays[1].graph + plays[1].critic)
    assert not same(plays[0].critic, plays[2].critic)


@always
def test_two_ranks_play_the_game_of_one_process(model):
    m, everyone = module(model), batch(n=8)
    halves = [{v: value[4 * r : 4 * r + 4] for v, value in everyone.items()} for r in range(2)]
    whole = m.play(everyone, Noise(0))
    parts = [m.play(half, Noise(0, rank=r, ranks=2)) for r, half in enumerate(halves)]
    for player in ("graph", "critic"):
        means = [sum(grads) / 2 for grads in zip(*(getattr(part, player) for part in parts), strict=True)]
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(means, getattr(whole, player), strict=True))
    alone = m.play(halves[0], Noise(0))
    assert not torch.allclose(alone.graph[-1], parts[0].graph[-1])


# Training


class Watch(pl.Callback):
    def __init__(self):
        self.weights, self.rates = [], []

    def on_train_batch_end(self, trainer, m, *_):
        self.weights.append([p.detach().clone() for p in m.graph.parameters()])
        self.rates.append([group["lr"] for group in m.optimizers().param_groups])


def trained(m, steps=6, data="ring"):
    batches = [batch(data, seed=k) for k in range(steps)]
    watch = Watch()
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, callbacks=[watch], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(m, torch.utils.data.DataLoader(batches, batch_size=None))
    return trainer, watch


def test_the_floor_falls_to_its_own_until_half_of_training():
    m = module("gibbsnet", "ring", "steps=8", "optim.floor_from=0.9", "size.floor_swept=0.3")
    assert [m.floors(k)["z"] for k in range(5)] == pytest.approx([0.9 * 3 ** (-k / 4) for k in range(5)])
    assert m.floors(4) == m.floors(7) == m.floors(8) == {"z": 0.3}
    plain = module("gibbsnet", "ring", "steps=8", "size.floor_swept=0.3")
    assert plain.floors(0) == plain.floors(3) == {"z": 0.3}


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_falling_floor_is_the_present_weights_alone():
    m = module("gibbsnet", "ring", "steps=8", "optim.floor_from=0.9", "size.floor_swept=0.3")
    seen, pairs = [], m.pairs

    def watched(*arguments):
        made = pairs(*arguments)
        seen.append((m.graph["z"].family.floor, m.ema.module["z"].family.floor))
        return made

    m.pairs = watched
    trained(m, 8)
    assert seen == [(m.floors(k)["z"], 0.3) for k in range(8)] and seen[-1] == (0.3, 0.3)
    fresh = module("gibbsnet", "ring", "steps=8", "optim.floor_from=0.9", "size.floor_swept=0.3")
    fresh.load_state_dict(m.state_dict())
    fresh.kept = m.kept
    fresh.play(batch(), Noise(0), 0)
    again = [one.play(batch(), Noise(0), 2).diagnostics["loss_critic"] for one in (m, fresh)]
    assert again[0] == again[1] != m.play(batch(), Noise(0), 8).diagnostics["loss_critic"], (
        "by the step, not by the past"
    )
    m.play(batch(), Noise(0), 8)
    sigma = m.graph["z"].family.moments(torch.tensor([[0.0, 1e6]]))[1]
    assert float(sigma) == pytest.approx(0.3)


def test_a_floor_that_cannot_fall_is_refused():
    with pytest.raises(ValueError, match=r"optim.floor_from=0.9 for z1: a Gaussian's ceiling must lie in"):
        module("gibbsnet2", "digits", "optim.floor_from=0.9")
    with pytest.raises(ValueError, match=r"optim.floor_from=0.3: no floor lies below it \(z 0.3\); say more, or null"):
        module("gibbsnet", "ring", "optim.floor_from=0.3", "size.floor_swept=0.3")


@pytest.mark.filterwarnings("ignore::Warning")
def test_the_average_counts_the_steps_that_were_taken(monkeypatch):
    """Batches 0 and 3 pass without a step: the average's weight is that of its own counter, and it begins as a copy."""
    m = module("gibbsnet", "ring", "optim.skip_nonfinite=1")
    counted, follow, play = [], m._follow, m._played
    monkeypatch.setattr(m, "_follow", lambda n: counted.append((n, int(m.ema.n_averaged))) or follow(n))

    def spoiled(batch, noise, step):
        real, kept, outcome = play(batch, noise, step)
        return real, kept, outcome._replace(graph=[g * (torch.nan if step in (0, 3) else 1) for g in outcome.graph])

    monkeypatch.setattr(m, "_played", spoiled)
    trained(m, 6)
    assert counted == [(0, 0), (1, 1), (2, 2), (3, 3)] and m.skipped["all"] == 2


@pytest.mark.filterwarnings("ignore::Warning")
class TestTraining:
    def test_steps_are_batches_and_runs_repeat(self):
        a, b = module("gibbsnet", "ring", "steps=6"), module("gibbsnet", "ring", "steps=6")
        torch.manual_seed(1)
        trainer, watch = trained(a)
        torch.manual_seed(2)
        trained(b)
        assert same(a.state_dict().values(), b.state_dict().values())
        assert trainer.global_step == int(a.step) == 6 and a.images_seen == 6 * B
        assert [rates[0] for rates in watch.rates] == pytest.approx([1e-3 * anneal(k, 6, 0.1) for k in range(6)])
        assert a.diagnostics.keys() >= {"loss_critic", "loss_graph", "penalty_x"}

    def test_a_step_is_adam_s_on_both_players_gradients(self):
        m, reference = module("ali", "ring", "optim.lr_critic=2e-3"), module("ali")
        trained(m, 1)
        outcome = reference.play(batch(), Noise(0, 0, "train"))
        for net, grads, lr in ((reference.graph, outcome.graph, 1e-3), (reference.critics, outcome.critic, 2e-3)):
            free = [p for p in net.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(free, lr=lr, betas=(0.5, 0.99))
            for p, g in zip(free, grads, strict=True):
                p.grad = g
            optimizer.step()
        for net in ("graph", "critics"):
            pairs = zip(getattr(m, net).parameters(), getattr(reference, net).parameters(), strict=True)
            assert all(torch.allclose(p, q, atol=1e-10) for p, q in pairs)

    def test_the_average_follows_the_weights(self):
        def batch_norm(network):
            network["encode"] = {"kind": "conv", "layers": [[3, 1, 4]], "norm": "batch"}

        m = configured("ali", "digits", optim=lambda o: o.update(ema=0.5), network=batch_norm)
        _, watch = trained(m, 12, "digits")
        expected = watch.weights[0]
        for n, weights in enumerate(watch.weights[1:], 1):
            w = max(9 / (10 + n), 0.5)
            expected = [(1 - w) * e + w * p for e, p in zip(expected, weights, strict=True)]
        average = list(m.ema.module.parameters())
        assert all(torch.allclose(a, e, atol=1e-12) for a, e in zip(average, expected, strict=True))
        assert not same(average, m.graph.parameters()) and int(m.ema.n_averaged) == 12
        buffers = list(m.graph.buffers())
        assert (
            buffers
            and same(m.ema.module.buffers(), buffers)
            and any(b.is_floating_point() and b.any() for b in buffers)
        )

    def test_a_checkpoint_describes_itself(self, tmp_path):
        m = module("gibbsnet2")
        trainer, _ = trained(m, 2)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        again = GibbsNet(**saved["hyper_parameters"]).double()
        again.load_state_dict(saved["state_dict"])
        assert again.images_seen == 2 * B
        for state, other in islice(zip(m.trajectory(B, 3), again.trajectory(B, 3), strict=False), 4):
            assert state.keys() == other.keys() and same(state.values(), other.values())


@pytest.mark.filterwarnings("ignore::Warning")
def test_clipping_bounds_each_player_s_step():
    m = configured("ali", optim=lambda o: o.update(clip=1e-3))
    norms = []
    for grads in m.play(batch(), Noise(0))[:2]:
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in grads)))
    assert min(norms) > 1e-2  # else this would test nothing
    trained(m, 1)
    for net in (m.graph, m.critics):
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
        assert norm == pytest.approx(1e-3, rel=1e-2)


def test_annealing():
    assert [anneal(k, 100, 0.1) for k in (0, 50, 75, 100, 200)] == pytest.approx([1, 1, 0.55, 0.1, 0.1])


# Sampling


def touched(net):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)


@models
def test_sampling_reads_the_averaged_weights_and_the_seed_alone(model):
    m, x = module(model), batch()
    m.graph.train()

    def everything(seed):
        state = m.infer(x, seed)
        rest = [m.posterior_mean(x, v, seed) for v in m.latents] + [m.reconstruct(state, v, seed) for v in m.latents]
        walk = [value for s in islice(m.trajectory(B, seed), 3) for value in s.values()]
        return [*state.values(), *rest, m.decode(state, seed), *walk]

    first = everything(0)
    assert not any(value.requires_grad for value in first)
    torch.manual_seed(3)
    touched(m.graph)
    assert same(everything(0), first)
    assert not same(everything(1), first)
    touched(m.ema.module)
    assert not same(everything(0), first)


@hidden
@pytest.mark.parametrize("data", SHAPES)
def test_shapes(model, data):
    m, x = module(model, data), points(data)
    state = m.infer(x, 0)
    assert torch.equal(state["x"], x["x"]) and state.keys() == {"x", *m.latents}
    for v in m.latents:
        assert m.posterior_mean(x, v, 0).shape == state[v].shape == (B, *m.graph[v].shape)
        assert m.reconstruct(state, v, 0).shape == x["x"].shape
    assert m.decode(state, 0).shape == x["x"].shape
    top = {m.latents[-1]: state[m.latents[-1]]}
    assert m.decode(top, 0).shape == x["x"].shape
    third = next(islice(m.trajectory(B, 0), 3, None))
    assert {v: third[v].shape for v in state} == {v: value.shape for v, value in state.items()}


@hidden
def test_reconstruction_and_decoding_read_only_what_they_should(model):
    m = module(model)
    state = m.infer(points(), 0)
    lost = {v: torch.full_like(value, torch.nan) for v, value in state.items()}
    for v in m.latents:
        assert torch.equal(m.reconstruct({**lost, v: state[v]}, v, 1), m.reconstruct(state, v, 1))
        assert m.reconstruct(lost, v, 1).isnan().all()
    latents = {v: state[v] for v in m.latents}
    assert torch.equal(m.decode({**state, "x": lost["x"]}, 1), m.decode(latents, 1))
    lowest = {v: state[v] for v in m.graph.neighbours("x")}  # x hears them alone
    assert torch.equal(m.decode({**lost, **lowest}, 1), m.decode(latents, 1))
    top = m.latents[-1]
    assert torch.equal(m.decode({top: state[top]}, 1), m.decode({top: state[top], "x": lost["x"]}, 1))
    # Near the mean of x given the lowest latent: its noise is .01.
    assert (m.decode(latents, 1) - m.graph["x"].mean(latents, B)).abs().max() < 0.06


def test_neighbours_on_one_level_are_reconstructed_and_decoded_from_alike(record):
    """From z1 and from w1: the other one is drawn hearing nobody, then x given both."""
    m = module("diamond")
    state = m.infer(points(), 0)
    for latent, other in (("z1", "w1"), ("w1", "z1")):
        for make in (lambda v: m.reconstruct(state, v, 0), lambda v: m.decode({v: state[v]}, 0)):
            rows = record(m.ema.module)
            make(latent)
            assert [(v, hears) for v, hears, *_ in rows] == [(other, ""), ("x", "w1z1")]
    with pytest.raises(ValueError, match="nothing to decode: expected some of z1, w1, z2"):
        m.decode({"x": state["x"]}, 0)


@hidden
def test_a_posterior_mean_is_exact_where_one_conditional_gives_it(model):
    m, x = module(model), points()
    for v in m.latents:
        if m.clamped.range[1] == 0 and v in ("z", "z1", "w1"):
            expected = m.ema.module[v].mean(x, B)
        else:
            expected = torch.stack([m.infer(x, seed_of(7, k))[v] for k in range(DRAWS_FOR_MEAN)]).mean(0)
        assert torch.allclose(m.posterior_mean(x, v, 7), expected)


def test_every_conditional_starts_from_the_data_s_mean():
    m, mean = module("gibbsnet", "digits"), batch("digits", 1)["x"][0] / 2
    m.start_from(mean)
    for graph in (m.graph, m.ema.module):
        assert torch.allclose(graph["x"].mean({}, 1)[0], mean)
    fixed = configured("ali", graph=lambda g: g["x"].update(prior="fixed"))
    fixed.start_from(torch.ones(2))
    assert not fixed.graph["x"].prior.any()


# Modes of being


def half_heard(chains):
    chains["clamped"]["mode"]["x"]["potency"] = 0.5
    chains["unclamped"]["mode"] = {"z": {"potency": 0.5}, "x": {"potency": 0.6}}


def test_the_impotent_are_hidden_from_the_critics_on_both_sides():
    m, n = configured(chains=half_heard), 4000
    audible = m._audible(Noise(0), n)
    for v, p in (("x", 0.5 * 0.6), ("z", 0.5)):
        assert abs(audible[v].double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    heard = m.clamped.last_audible(Noise(0).at("clamped"), n)["x"]
    assert not (audible["x"] & ~heard).any()
    x = batch(n=n)["x"]
    silent = torch.where(heard[:, None], x, torch.nan)
    a, b = m.play({"x": x}, Noise(0)), m.play({"x": silent}, Noise(0))
    assert same(a.graph + a.critic, b.graph + b.critic)
    assert all(g.isfinite().all() and g.any() for g in a.graph + a.critic)


# Refusals


@pytest.mark.parametrize(
    "model, settings, words",
    [
        ("ali", ["chains.unclamped.steps=1"], "ALI is trained without further sweeps"),
        ("hali", ["chains.unclamped.steps=[0,2]"], "HALI is trained without further sweeps"),
        ("gibbsnet", ["model.kind=hali", "chains.unclamped.steps=0"], "HALI has two latents or more, not 1: see ALI"),
        ("hali", ["model.kind=ali"], r"ALI has one latent, not 2 \(z1, z2\): see HALI"),
        ("gibbsnet", ["model.kind=vae"], "model.kind=vae: expected one of gibbsnet, ali, hali"),
        ("gibbsnet", ["data.shape=[3]"], r"data.shape=\[3\], but ring has \[2\]"),
        ("gibbsnet", ["chains.unclamped.blocks=[x,z]"], "both chains end on z given x"),
        ("gibbsnet", ["chains.unclamped.cut=[w]"], "a chain names w: expected variables out of x, z"),
        ("gibbsnet", ["chains.unclamped.start=[z,w]"], "a chain names w: expected variables out of x, z"),
        ("gibbsnet2", ["chains.unclamped.start=[z2,z1,x|z2]"], "a chain draws x given z2, which x does not hear"),
        ("hali", ["chains.clamped.start=[z1]"], "critic 'joint' reads z2, which a chain neither draws nor clamps"),
        ("gibbsnet", ["chains.unclamped.steps=-1"], "steps must be a number of sweeps"),
        ("gibbsnet", ["game.loss=hinge"], "unknown loss 'hinge'"),
        ("gibbsnet", ["chains.unclamped.mode={q: {clamped: true}}"], "a chain names q: expected variables out of x, z"),
        ("gibbsnet", ["penalty.x=.inf"], "a penalty's gamma must be >= 0 and finite: got {'x': inf}"),
        (
            "gibbsnet",
            ["chains.unclamped.mode={z: {silent: true}}"],
            "silent is said of data that may be unknown, in the clamped chain alone: not of z",
        ),
    ],
)
def test_refusals(model, settings, words):
    with pytest.raises(ValueError, match=words):
        build(load([f"model={model}", "data=ring", *settings]), SHAPES["ring"])


def test_a_lesson_that_lacks_a_weight_is_refused():
    config = load(["model=labelled", "data=digits"])
    del config["supervised"]["y"]["known"]
    with pytest.raises(ValueError, match="supervised: of y there is no known; expected hears, known and dreams"):
        build(config, SHAPES["digits"])


def test_a_penalty_on_what_the_graph_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"game\.gamma names zz: expected variables out of x, z"):
        configured(game=lambda game: game["gamma"].update(zz=5.0))


def test_a_mean_is_of_the_clamped_chain_s_last_draw():
    """Where z1 is drawn given x and then again given z2 as well, E[z1|x] is no answer."""
    m = configured("gibbsnet2", chains=lambda chains: chains["clamped"].update(start=["z1|x", "z2", "z1"], steps=0))
    draws = torch.stack([m.infer(points(), seed_of(0, k))["z1"] for k in range(DRAWS_FOR_MEAN)])
    assert torch.equal(m.posterior_mean(points(), "z1", 0), draws.mean(0))


@pytest.mark.parametrize(
    "model, critics, words",
    [
        ("gibbsnet", ["x", "z"], "a chain ends on z given x, and no critic hears all of these"),
        ("gibbsnet", ["x"], "a chain ends on z given x"),
        ("hali", ["x z1"], "a chain ends on z2 given z1"),
        ("hali", ["x z1", "z1 z2"], None),  # its joints are Markov: one for each edge is enough
        ("gibbsnet2", ["x z1", "z1 z2"], "a chain ends on z1 given x, z2"),
        ("labelled", ["x z", "x y"], "a chain ends on x given y, z"),
        ("untied", ["x z"], None),
        ("unshared", ["x z"], None),
    ],
)
def test_local_critics_together_hear_every_conditional(model, critics, words):
    config = load([f"model={model}", "data=digits"])
    joint = config["critics"]["joint"]
    config["critics"] = {c: joint | {"hears": {v: joint["hears"][v] for v in c.split()}} for c in critics}
    if words is None:
        assert set(build(config, SHAPES["digits"]).critics) == set(critics)
        return
    with pytest.raises(ValueError, match=words):
        build(config, SHAPES["digits"])


def test_a_label_that_is_unknown_has_to_be_heard_with_what_it_is_drawn_from():
    """Without a sweep, and where x does not hear y, a chain ends on y given x only if y is unknown."""
    config = load(["model=labelled", "data=digits", "chains.unclamped.steps=0"])
    del config["graph"]["x"]["hears"]["y"]
    joint = config["critics"]["joint"]
    config["critics"] = {c: joint | {"hears": {v: joint["hears"][v] for v in c}} for c in ("xz", "y")}
    with pytest.raises(ValueError, match="a chain ends on y given x, and no critic hears all of these"):
        build(config, SHAPES["digits"])
