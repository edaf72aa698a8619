"""The modes of being: claim 10 of the literature, in sampling and in training, and what they refuse."""

import json
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from benchmarks import abilities, settle
from gibbsnet import train as training
from gibbsnet.__main__ import main
from gibbsnet.chain import Chain, Stance, Wakeful, check_pairing
from gibbsnet.config import ConfigError, choices, differences, load, read
from gibbsnet.evaluation.settling import settled
from gibbsnet.game import Game
from gibbsnet.modules import build, build_chain
from gibbsnet.noise import Noise
from gibbsnet.prepare import datamodule
from gibbsnet.train import load_run
from tests.models import GIBBS2, HELD, TOWER, graph, module, normal

B = 6
MODES = choices("mode")
NEEDS = {"dreaming": set(), "ready_to_hand": {"x", "z2"}, "daydreaming": {"x", "z2"}, "present_at_hand": {"x"}}
PRESENT = {"x": normal(B, 3), "z1": normal(B, 2, seed=1), "z2": normal(B, 2, seed=2)}


def chain_of(mode, model="gibbsnet2"):
    return build_chain(**load([f"model={model}", f"mode={mode}"])["chains"]["unclamped"])


def walked(chain, g, given=PRESENT, n=5, seed=0):
    held = {v: given[v] for v in chain.given}
    return list(islice(chain.trajectory(g, Noise(seed), held, batch=B), n))


# The table


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["gibbsnet2", "hali"])
def test_the_table(mode, model):
    chain = chain_of(mode, model)
    stances = {v: chain.mode.get(v, Stance()) for v in ("x", "z1", "z2")}
    clamped = {"dreaming": "", "ready_to_hand": "z2", "daydreaming": "x", "present_at_hand": "x"}[mode]
    potency = {"daydreaming": (0.0, 1.0, 1.0), "present_at_hand": (1.0, 1.0, 0.5)}.get(mode, (1.0, 1.0, 1.0))
    assert chain.clamped == {clamped} - {""} and chain.given == NEEDS[mode]
    assert tuple(stance.potency for stance in stances.values()) == potency


@pytest.mark.parametrize("mode", MODES)
def test_10_what_is_clamped_is_bit_equal_at_every_step_and_the_rest_moves(mode):
    g, chain = graph(TOWER), chain_of(mode)
    states = walked(chain, g)
    for v in TOWER:
        held = [torch.equal(state[v], PRESENT[v]) for state in states]
        assert all(held) if v in chain.clamped else not any(held[1:])
        # What starts from the present is free from then on.
        assert held[0] == (v in chain.given)
    assert all(not torch.equal(a["z1"], b["z1"]) for a, b in pairwise(states))


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("mode, v", [("daydreaming", "x"), ("present_at_hand", "x"), ("ready_to_hand", "z2")])
def test_10_half_masks_included(mode, v, share):
    g, chain = graph(TOWER), chain_of(mode)
    mask = (torch.arange(PRESENT[v].shape[1]) < share * PRESENT[v].shape[1]).expand(B, -1).clone()
    for state in islice(chain.trajectory(g, Noise(0), {u: PRESENT[u] for u in chain.given}, {v: mask}, B), 5):
        assert torch.equal(state[v][mask], PRESENT[v][mask]) and not (state[v] == PRESENT[v])[~mask].any()


@pytest.mark.parametrize("silent", ["x", "z2"])
def test_10_the_jacobian_from_an_impotent_variable_is_exactly_zero(silent):
    """Of every later state of the others, and permuting its values changes nothing, bit for bit."""
    g = graph(TOWER)
    mode = {silent: Stance(clamped=True, potency=0.0)}
    chain = replace(GIBBS2[1], mode=mode, steps=2, grad_draws=100)

    def others(value, chain=chain):
        state = chain.run(g, Noise(0), {silent: value}, batch=B)
        return torch.cat([state[v].flatten() for v in sorted(TOWER) if v != silent])

    slope = torch.autograd.functional.jacobian(others, PRESENT[silent])
    assert slope.numel() and not slope.any()
    assert torch.equal(others(PRESENT[silent]), others(PRESENT[silent].flip(0)))
    loud = replace(chain, mode={silent: Stance(clamped=True)})
    assert torch.autograd.functional.jacobian(lambda value: others(value, loud), PRESENT[silent]).any()
    assert not torch.equal(others(PRESENT[silent], loud), others(PRESENT[silent].flip(0), loud))


def test_daydreaming_does_not_hear_the_eyes_and_present_at_hand_does():
    g = graph(TOWER)
    other = {**PRESENT, "x": PRESENT["x"].flip(0)}
    for mode, deaf in (("daydreaming", True), ("present_at_hand", False)):
        a, b = walked(chain_of(mode), g)[-1], walked(chain_of(mode), g, other)[-1]
        assert all(torch.equal(a[z], b[z]) == deaf for z in ("z1", "z2"))


# Training


def trained_in(mode, *settings):
    return module("gibbsnet2", "digits", f"mode={mode}", *abilities.YOUNG, *settings)


def digits(n=B):
    return {"x": normal(n, 1, 8, 8).tanh()}


def slopes(m, step=1):
    """The gradient of every parameter of the graph and of the critics, by name."""
    outcome, found = m.play(digits(), Noise(0), step), {}
    for prefix, net, grads in (("", m.graph, outcome.graph), ("critics.", m.critics, outcome.critic)):
        names = [name for name, p in net.named_parameters() if p.requires_grad]
        found |= {prefix + name: g for name, g in zip(names, grads, strict=True)}
    return found


def test_daydreaming_teaches_p_of_x_nothing_and_a_dreaming_step_does():
    m = trained_in("daydreaming", "chains.unclamped.dream_every=4")
    for step in (1, 2, 3, 5):
        found = slopes(m, step)
        for name, slope in found.items():
            drawn = not name.startswith("conditionals.x.") and not name.startswith("critics.joint.messages.x.")
            assert bool(slope.any()) == drawn, name
    for step in (0, 4, 8):
        assert all(slope.any() for slope in slopes(m, step).values())


@pytest.mark.parametrize("lazy", [1, 2, 4, 6])
@pytest.mark.parametrize("every", [0, 1, 2, 3, 4])
def test_a_lazy_penalty_is_taken_as_often_in_either_game(every, lazy):
    """Counted by batches alone, the batches that dream would have all penalties wherever the two intervals have a divisor."""
    chain, game, batches = Chain(["z", "x"], dream_every=every), Game(lazy=lazy), 12 * 24
    for dreams in (True, False):
        mine = [game.due(chain.turn(step)) for step in range(batches) if chain.dreams(step) == dreams]
        assert mine == [k % lazy == 0 for k in range(len(mine))]


def test_the_mode_s_own_game_is_penalised():
    m = trained_in("daydreaming", "chains.unclamped.dream_every=2", "game.lazy=4")
    taken = {step for step in range(16) if "penalty_z1" in m.play(digits(), Noise(0), step).diagnostics}
    assert taken == {0, 1, 8, 9}


def test_a_dreaming_step_is_gibbsnet_s():
    m, plain = trained_in("daydreaming", "chains.unclamped.dream_every=2"), trained_in("dreaming")
    longer = module("gibbsnet2", "digits", "chains.unclamped.steps=[1,3]", *abilities.YOUNG)
    a, b, c = slopes(m, 2), slopes(longer, 2), slopes(m, 1)
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)
    found, expected = slopes(plain), slopes(module("gibbsnet2", "digits", *abilities.YOUNG))
    assert all(torch.equal(found[k], expected[k]) for k in found)


@pytest.mark.parametrize("mode", ["ready_to_hand", "daydreaming", "present_at_hand"])
def test_the_negative_phase_starts_from_the_positive_one_s_end(mode):
    m = trained_in(mode)
    real, fake, _ = m.pairs(digits(), Noise(0), 1)
    for v in m.graph:
        assert torch.equal(real[v], fake[v]) == (v in m.unclamped.clamped), v
        assert v not in m.unclamped.clamped or not fake[v].requires_grad
    assert not torch.equal(fake["z1"], m.pairs(digits(), Noise(1), 1)[1]["z1"])


def test_10_the_impotent_are_hidden_from_the_critics_on_both_sides():
    m = trained_in("daydreaming")
    heard = m._audible(Noise(0), 50, 1)
    assert heard.keys() == {"x"} and not heard["x"].any()

    def played(lose):
        states = m.pairs(digits(), Noise(0), 1)[:2]
        states = [{**s, "x": torch.full_like(s["x"], torch.nan)} for s in states] if lose else states
        return m.contest(*states, Noise(0), 1)

    a, b = played(False), played(True)
    assert all(torch.equal(x, y) for x, y in zip(a.critic + a.graph, b.critic + b.graph, strict=True))
    assert torch.equal(a.diagnostics["loss_critic"], b.diagnostics["loss_critic"])
    assert trained_in("daydreaming", "chains.unclamped.dream_every=4")._audible(Noise(0), 50, 4) == {}


@pytest.mark.parametrize(
    "settings, words",
    [
        # Without a sweep z1 hears the very x and z2 that the clamped chain's z1 hears.
        (["mode=ready_to_hand", "chains.unclamped.steps=0"], "both chains end on z1 given x, z2"),
        (["mode=ready_to_hand", "chains.unclamped.steps=[0,3]"], "both chains end on z1 given x, z2"),
        (["mode=present_at_hand", "chains.unclamped.steps=0"], "both chains end on z1 given x, z2"),
        (["mode=daydreaming", "chains.clamped.blocks=[z1,z2]"], "both chains end on z2 given z1"),
        (["mode=daydreaming", "chains.unclamped.dream_every=-1"], "dream_every is a number of batches >= 0"),
        (["mode=daydreaming", "chains.unclamped.present=[w]"], "names w"),
    ],
)
def test_games_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        module("gibbsnet2", "digits", *settings)


def test_the_game_of_the_dreaming_steps_is_checked_too():
    """The unclamped chain ends on z2 given z1, as the clamped one does, but only when it dreams: else z2 is clamped."""
    clamped = Chain(["z1", "z2"], mode=HELD)
    half = Chain(
        ["z2", "z1", "x"], ["z1", ["x", "z2"]], (1, 3), mode={"z2": Stance(clamped=True)}, present=["x"], dream_every=3
    )
    check_pairing(graph(TOWER), clamped, half.during(1))
    with pytest.raises(ValueError, match="both chains end on z2 given z1"):
        check_pairing(graph(TOWER), clamped, half.during(3))

    config = load(["model=gibbsnet2", "mode=ready_to_hand", "chains.unclamped.dream_every=3"])
    config["chains"]["clamped"] |= {"start": ["z1", "z2"], "blocks": [], "steps": 0}
    with pytest.raises(ValueError, match="both chains end on z2 given z1"):
        build(config, (1, 8, 8))
    config["chains"]["unclamped"]["dream_every"] = 0
    build(config, (1, 8, 8))


# Names


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"dreaming"}))
@pytest.mark.parametrize("model", ["gibbsnet", "ali"])
def test_a_graph_of_two_levels_has_no_such_mode(mode, model):
    with pytest.raises(ConfigError, match=rf"mode={mode} names z2, but model={model} has x, z: .* gibbsnet2") as caught:
        load([f"model={model}", f"mode={mode}"])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"mode={mode} names z2"):
        load([f"mode={mode}"], into=load([f"model={model}"]))


def test_an_unknown_mode_and_an_unknown_variable_of_a_mode():
    with pytest.raises(ConfigError, match=r"mode=daydreeming: .* did you mean 'daydreaming'"):
        load(["mode=daydreeming"])
    with pytest.raises(ValueError, match="names w: expected variables out of x, z"):
        next(module("gibbsnet", "ring").trajectory(B, 0, chain=Chain(["z", "x"], mode={"w": Stance(potency=0.5)})))


def test_a_mode_replaces_the_one_that_was_trained_in():
    trained = load(["model=gibbsnet2", "mode=daydreaming", "chains.unclamped.dream_every=4"])
    chain = load(["mode=dreaming"], into=trained)["chains"]["unclamped"]
    assert (chain["mode"], chain["present"], chain["dream_every"]) == ({}, [], 0)
    assert load([], into=trained)["chains"] == trained["chains"] and load([], into=trained)["mode"] == "daydreaming"
    assert load(["mode=ready_to_hand"], into=trained)["chains"]["unclamped"]["mode"].keys() == {"z2"}


# Emergency


def test_in_an_emergency_the_eyes_are_heard_again_where_the_error_passes_the_threshold():
    g, chain = graph(TOWER), chain_of("daydreaming")
    held = {v: PRESENT[v] for v in chain.given}
    state = chain.init(g, Noise(0), held, batch=B)
    errors = (g["x"].mean({"z1": state["z1"]}, B) - PRESENT["x"]).square().mean(1) / 4
    threshold = float(errors.detach().median())
    wakeful = Wakeful(chain, threshold)
    alarmed = wakeful.alarmed(g, state, held)
    assert torch.equal(alarmed, errors > threshold) and 0 < alarmed.sum() < B
    new, deaf = wakeful.step(g, state, Noise(1), held), chain.step(g, state, Noise(1), held)
    hearing = replace(chain, mode={"x": Stance(clamped=True)}).step(g, state, Noise(1), held)
    for z in ("z1", "z2"):
        assert torch.allclose(new[z], torch.where(alarmed[:, None], hearing[z], deaf[z]), atol=1e-12)
    never = list(islice(Wakeful(chain, 1e9).trajectory(g, Noise(0), held, batch=B), 4))
    assert all(torch.equal(a[v], b[v]) for a, b in zip(never, walked(chain, g), strict=False) for v in a)


def test_an_emergency_counts_only_what_is_held():
    g, chain = graph(TOWER), chain_of("daydreaming")
    seen = {"x": torch.tensor([True, False, False]).expand(B, 3).clone()}
    held = {"x": torch.where(seen["x"], PRESENT["x"], torch.nan), "z2": PRESENT["z2"]}
    state = chain.init(g, Noise(0), held, seen, B)
    error = (g["x"].mean({"z1": state["z1"]}, B) - PRESENT["x"]).square()[:, 0] / 4
    middle = float(error.detach().median())
    assert torch.equal(Wakeful(chain, middle).alarmed(g, state, held, seen), error > middle)


def test_an_emergency_s_refusals():
    with pytest.raises(ValueError, match="the chain does not clamp x"):
        Wakeful(GIBBS2[1], 0.1)
    with pytest.raises(ValueError, match="an error >= 0"):
        Wakeful(chain_of("daydreaming"), -1.0)


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory, judges):
    """Makes short runs of a command line."""

    def make(*settings):
        folder = tmp_path_factory.mktemp("runs") / "run"
        every = ["every.log=1", "every.validate=4", "every.checkpoint=4"]
        quiet = ["tracking.mode=disabled", f"judges={judges}", "trainer.accelerator=cpu", "trainer.progress=false"]
        assert main(["train", *settings, "steps=4", *every, f"run={folder}", *quiet]) == 0
        return folder

    return make


@pytest.fixture(scope="module")
def run(trained):
    """A short run trained in a mode."""
    return trained("model=gibbsnet2", "mode=daydreaming", "chains.unclamped.dream_every=2")


@pytest.fixture(scope="module", params=["hali", "diamond", "gibbsnet2_passes"])
def directed(request, trained):
    """A short run of another graph of three levels, whose sweeps go up and down again."""
    return trained(f"model={request.param}")


EMERGENCIES = [["clamp.emergency=0.05"], ["clamp.emergency=0.05", "chains.unclamped.mode.x.potency=0.5"]]


@pytest.mark.parametrize("settings", [*([f"mode={mode}"] for mode in MODES), *EMERGENCIES], ids=str)
def test_every_mode_draws_its_strip(run, settings):
    assert main(["sample", f"run={run}", *settings, "chains.unclamped.steps=2"]) == 0
    mode = settings[0].removeprefix("mode=") if settings[0].startswith("mode") else "daydreaming"
    name = {"dreaming": "chain"}.get(mode, mode)
    assert (run / "samples" / f"{name}.png").stat().st_size > 1000
    with np.load(run / "samples" / f"{'samples' if mode == 'dreaming' else mode}.npz") as file:
        assert file["z2"].shape[0] == 100


@pytest.mark.parametrize("mode", MODES)
def test_every_graph_of_three_levels_has_the_modes(directed, mode):
    """What a mode clamps is bit-equal to the present after the sweeps; what is free has moved away from it."""
    config = read(directed)
    assert main(["sample", f"run={directed}", f"mode={mode}", "chains.unclamped.steps=2"]) == 0
    with np.load(directed / "samples" / f"{'samples' if mode == 'dreaming' else mode}.npz") as file:
        found = {v: torch.from_numpy(file[v]) for v in file.files}
    assert found.keys() == config["graph"].keys() and all(len(x) == 100 for x in found.values())
    data = datamodule(config)
    real = data.state("validation", torch.arange(100), config["evaluation"]["seed"])
    present = load_run(directed, config, data.shape, data.digest).infer(real, config["evaluation"]["seed"])
    held = {v for v, x in found.items() if torch.equal(x, present[v])}
    assert held == {"present_at_hand": {"x"}, "daydreaming": {"x"}, "ready_to_hand": {"z2"}}.get(mode, set())


@pytest.mark.parametrize("mode", MODES)
def test_points_have_the_modes_too(mode, trained):
    run = trained("model=hali", "data=ring")
    assert main(["sample", f"run={run}", f"mode={mode}", "chains.unclamped.steps=2"]) == 0
    name = "chain" if mode == "dreaming" else mode
    assert (run / "samples" / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "setting, words",
    [
        ("start=[z2,z1]", "chains.unclamped.start draws no x"),
        ("start=[]", "chains.unclamped.start draws no x"),
        ("mode={q: {clamped: true}}", "names q, but model=gibbsnet2 has x, z1, z2"),
    ],
)
def test_a_chain_that_shows_nothing_is_one_line(setting, words, run, capsys):
    assert main(["sample", f"run={run}", "mode=dreaming", f"chains.unclamped.{setting}"]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "settings",
    [
        ["mode=dreaming"],
        ["mode=ready_to_hand"],
        ["mode=present_at_hand"],
        ["clamp.hole=left", "clamp.whole=[z2]"],
        ["clamp.whole=[x,z2]"],
    ],
    ids=str,
)
def test_an_emergency_of_what_is_not_clamped_or_heard_anyway_is_one_line(settings, run, capsys):
    assert main(["sample", f"run={run}", "clamp.emergency=0.05", *settings]) == 1
    said = capsys.readouterr().err
    assert (
        "clamp.emergency=0.05: expected a chain that clamps x and hears it less than fully" in said
        and said.count("\n") == 1
    )
    assert "say clamp.emergency=null" in said


def test_samples_are_dreams_whatever_the_mode_of_the_training():
    m, plain = trained_in("daydreaming"), module("gibbsnet2", "digits")
    for a, b in islice(zip(m.trajectory(B, 0), plain.trajectory(B, 0), strict=False), 3):
        assert all(torch.equal(a[v], b[v]) for v in a)
    x = digits()["x"]
    assert torch.equal(next(m.fill({"x": x}, {}, 0))["x"], x)


# How long inference takes


def test_a_chain_that_forgets_its_start_settles_after_as_many_sweeps_as_it_takes():
    noise = torch.randn(40, 50, 30, 4, generator=torch.Generator().manual_seed(0))
    home = 3 * torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    at_once = settled(home + noise, 15)
    far = torch.where(torch.arange(40).view(-1, 1, 1, 1) < 7, 5.0, 0.0)
    first, distance, band = settled(home + noise + far, 15)
    assert at_once[0] == 0 and first == 7 and distance[0] > 10 * band > 0
    assert band < 0.02 and distance[20] <= band < 10 * distance[20]
    slow = settled(home + noise + 5 * 0.5 ** torch.arange(40.0).view(-1, 1, 1, 1), 15)
    assert 3 < slow[0] < 10
    with pytest.raises(ValueError, match="two or more that differ"):
        settled(torch.ones(40, 3, 1, 2), 15)


@pytest.mark.parametrize("tail", [1, 21])
def test_a_tail_of_no_length_is_refused(tail):
    with pytest.raises(ValueError, match=r"expected 2\.\.20"):
        settled(torch.zeros(40, 2, 2, 2), tail)


def test_the_benchmark_of_inference_runs_on_a_run(run, monkeypatch, capsys):
    for name, value in dict(IMAGES=5, COPIES=3, SWEEPS=12, TAIL=4).items():
        monkeypatch.setattr(settle, name, value)
    settle.main([f"run={run}"])
    assert capsys.readouterr().out.count("\n") >= 4 + len(settle.POTENCIES) + len(settle.THRESHOLDS)
    written = json.loads((run / "settle.json").read_text())
    assert all(0 <= row["sweeps"] < 12 for row in written["present_at_hand"].values())
    *lines, key = settle.draw(written["present_at_hand"]).axes[0].lines
    for row, distance, band in zip(written["present_at_hand"].values(), lines[::2], lines[1::2], strict=True):
        assert distance.get_ydata().tolist() == row["distance"] and set(band.get_ydata()) == {row["band"]}
        assert band.get_linestyle() == key.get_linestyle() != distance.get_linestyle()
    assert (run / "figures" / "settle.png").stat().st_size > 0
    alarms = [written["daydreaming"][str(t)]["alarms"] for t in settle.THRESHOLDS]
    assert alarms[0] == 0 and alarms[1] <= alarms[-1]


@pytest.mark.parametrize("phase", abilities.PHASES)
def test_the_negative_phases_differ_in_the_mode_alone(phase):
    """And in their steps, which are worth equal time."""
    base, config = (load([*abilities.ALL, *abilities.PHASES[p]]) for p in ("dreaming", phase))
    changed = {key.split(".")[2] for key in differences(base | {"steps": config["steps"]}, config)}
    expected = {"steps"} if phase == "dreaming_short" else {"mode", "present", "dream_every"}
    assert changed <= expected and bool(changed) == (phase != "dreaming")
    build(config, (1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["mode=daydreaming"], True),
        (["mode=present_at_hand"], True),
        (["mode=daydreaming", "chains.unclamped.dream_every=2"], False),
        (["mode=daydreaming", "game.cycle=1.0"], False),
        (["mode=ready_to_hand"], False),
    ],
)
def test_a_training_that_never_teaches_p_of_x_says_so(settings, said, tmp_path, judges, capsys):
    own = ["model=gibbsnet2", "steps=1", "trainer.fast_dev_run=true", "tracking.mode=disabled", f"judges={judges}",
           "trainer.accelerator=cpu", "trainer.progress=false"]  # fmt: skip
    assert main(["train", f"run={tmp_path / 'run'}", *own, *settings]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "dream_every=2" in line]
    assert len(lines) == said
    m = build(load([*own, *settings]), (1, 8, 8))
    x = m.unclamped.mode.get("x", Stance())
    m.unclamped = replace(m.unclamped, mode=m.unclamped.mode | {"x": replace(x, share=0.5)})
    assert not training._always_holds_x(m), "of which some are redrawn"
