"""Labels and attributes as variables: what is measured, what is known, what the game sees, and the numbers."""

import json
import math
from dataclasses import replace
from itertools import chain, islice, product

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from benchmarks import abilities, fill, runs
from benchmarks import labels as bench
from gibbsnet import plots
from gibbsnet.__main__ import main
from gibbsnet.chain import Chain, Stance, check_pairing
from gibbsnet.classifier import load_judge
from gibbsnet.config import ConfigError, load
from gibbsnet.data import ATTRIBUTES, HOLES, DataError, DataModule, units
from gibbsnet.data.attributes import ink, loop, slant, thickness
from gibbsnet.data.module import Batches
from gibbsnet.evaluation import evaluate_labels
from gibbsnet.evaluation.labels import copied, edit
from gibbsnet.graph import build_graph
from gibbsnet.modules import DRAWS_FOR_MEAN, build
from gibbsnet.noise import Noise, seed_of
from gibbsnet.prepare import datamodule
from tests.models import tv

FEW = ["data.labels=100", "data.labelled=20"]


def pictures(*rows):
    """Images (n, 1, H, W) in [-1, 1] from drawings: lists of words, # ink and . none."""
    return torch.tensor([[[[1.0 if c == "#" else -1.0 for c in line] for line in words.split()]] for words in rows])


def made(model="labelled", *settings):
    """A module of digits and its data."""
    config = load([f"model={model}", "steps=4", *settings])
    return build(config, (1, 8, 8)), datamodule(config)


def batch_of(data, split="train"):
    return data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("cpu"))


# Attributes


def test_a_loop_is_dark_that_is_shut_in():
    x = pictures(
        "..... .###. .#.#. .###. .....", "..... .###. .#... .###. .....", "#.... .#... ..#.. ...#. ....#",
        ".#... #.#.. .#... ..... .....", "..... ..... ..... ..... .....",
    )  # fmt: skip
    assert loop(ink(x)).tolist() == [1, 0, 0, 1, 0]  # a ring, open; a stroke; joined by corners alone; nothing
    grey = x[:1].clone()
    grey[..., 1, 2] = 0.0  # the ring's weakest place
    assert loop(ink(grey)) == pytest.approx((0.5 - 0.1) / 0.9)


def test_slant_and_thickness_by_hand():
    x = pictures("...# ..#. .#.. #...", "#... .#.. ..#. ...#", ".#.. .#.. .#.. .#..")
    assert slant(ink(x)).tolist() == pytest.approx([1, -1, 0])
    bars = torch.full((3, 1, 40, 20), -1.0)
    for k, width in enumerate((2, 4, 8)):
        bars[k, :, :, 5 : 5 + width] = 1
    # wL of ink and 2 (L + w) of edge: the ends are edges too.
    assert thickness(ink(bars)).tolist() == pytest.approx([w * 40 / (40 + w) / 40 for w in (2, 4, 8)], rel=0.02)
    assert slant(ink(torch.full((1, 1, 4, 4), -1.0))) == thickness(ink(torch.full((1, 1, 4, 4), -1.0))) == 0


def test_attributes_of_digits():
    data = made("attributes")[1].data
    share = {k: data.train.a[data.train.y == k].double().mean(0) for k in range(10)}
    assert all(share[k][0] > 0.7 for k in (0, 6, 8, 9)) and all(share[k][0] < 0.25 for k in (1, 2, 3, 5, 7))
    assert (data.train.a.double().mean(0)[1:] - 0.5).abs().max() < 1e-3  # slanted and thick: more than the median
    assert torch.equal(data.test.a, data.measure(units(data.test.x, data.levels)))
    assert data.train.a.shape == (len(data.train), len(ATTRIBUTES)) and data.train.a.dtype == torch.bool


# What is known


@pytest.mark.parametrize("seed", [0, 1])
def test_few_labels_are_chosen_in_the_proportions_of_the_classes(seed):
    data = made("labelled", *FEW, f"seed={seed}")[1]
    y = data.data.train.y
    assert len(data.known) == 100 and (torch.bincount(y[data.known]) - 10).abs().max() <= 1
    hidden = data.split("train").y
    assert torch.equal(hidden[data.known], y[data.known]) and (hidden >= 0).sum() == 100
    assert torch.equal(data.split("test").y, data.data.test.y)
    for draw in islice(data.train_dataloader(), 3):
        assert set(draw.indices[::5].tolist()) <= set(data.known.tolist()) and len(draw.indices) == 100
    other = made("labelled", *FEW, f"seed={1 - seed}")[1].known
    assert not torch.equal(data.known, other)


def test_ranks_share_batches_with_labelled_examples():
    config = load(["model=labelled", "steps=4", *FEW])
    data = datamodule(config)
    whole = [d.indices for d in data.train_dataloader()]
    loader = data.train_dataloader()
    parts = []
    for rank in range(2):
        loader.rank, loader.ranks = rank, 2
        parts.append([d.indices for d in loader])
    assert all(torch.equal(w, torch.cat([a, b])) for w, a, b in zip(whole, *parts, strict=True))


@pytest.mark.parametrize("ranks", [1, 2, 5, 20])
def test_every_rank_has_its_share_of_the_known_labels(ranks):
    n, known = 1000, torch.arange(100)  # everyone else is drawn from all
    shares = [Batches(n, 100, 8, 0, rank=r, ranks=ranks, known=known + n, extra=20) for r in range(ranks)]
    for draws in zip(*shares, strict=True):
        assert [int((d.indices >= n).sum()) for d in draws] == [20 // ranks] * ranks
    firsts = torch.cat([d.indices[d.indices >= n] for d in Batches(n, 100, 5, 0, known=known + n, extra=20)])
    assert torch.equal(firsts.sort().values, known + n)  # an epoch goes through all of them


@pytest.mark.parametrize(
    "settings, words",
    [
        (["data.labels=1221"], "data.labels=1221: expected a number in 1..1220"),
        (["data.labelled=5"], "data.labelled=5, but every label is known: say data.labels=K"),
        (["data.labels=20", "data.labelled=30"], "data.labelled=30: expected 0..20"),
        (["data.labels=0"], "data.labels=0: expected an integer of at least 1"),
        (["data.classes=9"], "data.classes=9, but digits has 10"),
    ],
)
def test_numbers_of_labels_that_cannot_be(settings, words):
    with pytest.raises((DataError, ConfigError), match=words):
        datamodule(load(["model=labelled", *settings]))


def test_data_without_what_a_model_observes_are_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "plain.npz", images=np.zeros((40, 8, 8), np.uint8))
    own = ["data=npz", f"data.path={tmp_path / 'plain.npz'}", "data.batch_size=10"]
    with pytest.raises(ConfigError, match="model=labelled learns labels, and npz has no labels"):
        datamodule(load(["model=labelled", *own, "data.classes=3"]))
    with pytest.raises(ValueError, match="model=labelled has y: say how many classes there are"):
        build(load(["model=labelled", *own]), (1, 8, 8))
    with pytest.raises(DataError, match="attributes are measured of grey images of digits, and ring has none"):
        datamodule(load(["model=attributes", "data=ring"]))


# Chains that hold labels


@pytest.mark.parametrize("model", ["labelled", "labelled2", "attributes"])
def test_known_labels_are_bit_equal_and_unknown_ones_drawn(model):
    module, data = made(model, *FEW)
    batch = batch_of(data)
    known = batch["y"] >= 0
    real, fake, _ = module.pairs(batch, Noise(0))
    assert torch.equal(real["y"][known], torch.eye(10)[batch["y"][known]])
    assert torch.equal(real["y"].sum(1), torch.ones(100)) and len(real["y"][~known].argmax(1).unique()) > 3
    assert not torch.equal(real["y"][~known], module.pairs(batch, Noise(1))[0]["y"][~known])
    if model == "attributes":
        assert torch.equal(real["a"], batch["a"].float())
    assert set(fake) - {"age"} == set(module.graph)


def test_a_label_over_two_levels_reaches_x_through_z1_alone():
    """Another class under the same z1 draws the same x, bit for bit; under the same noise from the top it draws another."""
    module, _ = made("labelled2")
    y = torch.arange(10).repeat(3)
    drawn = [next(iter(module.fill({"y": (y + k) % 10}, {}, 0))) for k in (0, 1)]
    assert not torch.equal(drawn[0]["z1"], drawn[1]["z1"]) and not torch.equal(drawn[0]["x"], drawn[1]["x"])
    again = [module.decode({"z1": drawn[0]["z1"], "y": drawn[k]["y"], "z2": drawn[k]["z2"]}, 1) for k in (0, 1)]
    assert torch.equal(*again)
    # So an edit of y that held z1 would change nothing: it holds z2 alone.
    assert module.below("y") == ["z1"]
    assert made("labelled2", "chains.unclamped.start=[y,z2,z1,x]")[0].below("y") == ["z1"], "z2 does not hear it"
    edited = [module.edit(drawn[0], "y", drawn[k]["y"], 1) for k in (0, 1)]
    assert not torch.equal(*edited)
    top = {v: drawn[0][v] for v in ("y", "z2")}
    assert torch.equal(edited[0], module.decode(top, 1))


@pytest.mark.parametrize(
    "model, v, start",
    [("labelled", "y", "[[z,y],x]"), ("labelled", "y", "[y,z,x]"), ("attributes", "y", "[[z,y],a,x]"),
     ("attributes", "a", "[[z,y],a,x]")],
)  # fmt: skip
def test_over_one_latent_an_edit_holds_it_and_every_other_label(model, v, start):
    module, data = made(model, f"chains.unclamped.start={start}")
    state = module.infer({k: x for k, x in batch_of(data, "train").items() if k in module.graph}, 0)
    value = state[v].flip(0)
    assert module.below(v) == []
    assert torch.equal(module.edit(state, v, value, 1), module.decode(state | {v: value}, 1))


@pytest.mark.parametrize("model, held", [("labelled", "z"), ("labelled2", "z2")])
def test_in_the_picture_of_edits_x_prime_is_the_edit_to_the_image_s_own_label(model, held, monkeypatch):
    module, data = made(model)
    drawn = {}
    monkeypatch.setattr(plots, "fills", lambda columns, title: drawn.update({title: columns}))
    given = {k: x for k, x in batch_of(data).items() if k in module.graph}
    state = module.infer(given, 0)
    list(plots._labelled(module, state, given, state, 0))
    columns = drawn[f"{held} clamped, y changed"]
    for b, own in enumerate(given["y"][:8].tolist()):
        assert torch.equal(columns[str(own)][b], columns["x′"][b])
        assert not torch.equal(columns[str((own + 1) % 10)][b], columns["x′"][b])


def test_where_an_unknown_label_is_silent_the_critic_reads_it_on_neither_side():
    """There another y changes no score and gets no slope; where it is known it does.  Without a gradient of its draws the game
    leaves q(y|x) alone."""
    module, data = made("labelled", *FEW, "chains.clamped.mode.y.silent=true")
    batch = batch_of(data)
    known = batch["y"] >= 0

    def played(where):
        real, fake, _ = module.pairs(batch, Noise(0))
        swapped = [s | {"y": torch.where(where[:, None], s["y"].roll(1, 1), s["y"]).detach()} for s in (real, fake)]
        return module.contest(*swapped, Noise(0), 0, module._spoken(batch)).diagnostics

    plain, hidden, seen = (played(where) for where in (torch.zeros_like(known), ~known, known))
    assert plain["score_clamped_joint"] == hidden["score_clamped_joint"] != seen["score_clamped_joint"]
    assert plain["score_unclamped_joint"] == hidden["score_unclamped_joint"] != seen["score_unclamped_joint"]


@pytest.mark.parametrize("straight", ["true", "false"])
def test_draws_without_a_gradient_leave_what_is_read_to_the_cross_entropy(straight):
    module, data = made("labelled", *FEW, f"graph.y.straight={straight}", "supervised.y.known=0.0")
    grads = module.play(batch_of(data), Noise(0)).graph
    names = [name for name, p in module.graph.named_parameters() if p.requires_grad]
    read = [g.abs().sum() > 0 for name, g in zip(names, grads, strict=True) if "y.messages" in name]
    assert all(read) if straight == "true" else not any(read)


def test_a_share_of_the_known_labels_is_held():
    module, data = made("labelled", "chains.clamped.mode.y.share=0.3")
    batch = batch_of(data)
    held = [(module.pairs(batch, Noise(k))[0]["y"].argmax(1) == batch["y"]).double().mean() for k in range(40)]
    expected = 0.3 + 0.7 * 0.1  # an untrained q(y|x) hits by chance
    assert (torch.stack(held).mean() - expected).abs() < 5 * (0.25 / 4000) ** 0.5
    assert torch.equal(module.eval().infer(batch, 0)["y"].argmax(1), batch["y"])  # outside of training all are


@pytest.mark.parametrize("steps", [0, 3])
def test_a_clamped_label_is_bit_equal_at_every_step(steps):
    module, _ = made()
    y = torch.arange(20) % 10
    for state in islice(module.eval().fill({"y": y}, {}, 0), steps + 1):
        assert torch.equal(state["y"], torch.eye(10)[y])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, x: m.fill({"y": torch.tensor([3, 10])}, {}, 0), r"a label of y is 10: expected 0\.\.9"),
        (lambda m, x: m.trajectory(2, 0, {"y": torch.tensor([3, -1])}), r"a label of y is -1: expected 0\.\.9"),
        (lambda m, x: iter([m.infer({"x": x, "y": torch.tensor([3, 12])}, 0)]), r"a label of y is 12: expected -1\.\.9"),
        (lambda m, x: m.fill({"x": x, "y": torch.tensor([3])}, {}, 0), r"the values of y: shape \(1, 10\), expected \(2, 10\)"),
        (
            lambda m, x: m.fill({"y": torch.tensor([3, 4])}, {"y": torch.ones(2, dtype=torch.bool)}, 0),
            r"the mask of y: shape \(2,\), expected \(2, 10\)",
        ),
        (lambda m, x: m.fill({"y": torch.tensor([3, 12], dtype=torch.int32)}, {}, 0), r"a label of y is 12: expected 0\.\.9"),
        (lambda m, x: m.fill({"y": torch.tensor([3, 10], dtype=torch.uint8)}, {}, 0), r"a label of y is 10: expected 0\.\.9"),
        (lambda m, x: m.fill({"y": 2 * torch.eye(10)[:2]}, {}, 0), "y is given as 2, among others: expected one-hot"),
        (lambda m, x: m.fill({"y": torch.ones(2, 10)}, {}, 0), "y is given as 10 to 10 classes at once: expected one-hot"),
        (lambda m, x: m.fill({"y": torch.full((2, 1), 3)}, {}, 0), r"labels of y have shape \(2, 1\): expected one integer"),
        (lambda m, x: m.fill({"y": torch.tensor([3, -1])}, {"y": torch.ones(2, 10, dtype=torch.bool)}, 0), "a label of y is -1"),
        (lambda m, x: m.fill({"x": x}, {"x": torch.zeros(2, 1, 8, 8, dtype=torch.bool)}, 0), "the mask of x holds no entry"),
        (lambda m, x: m.fill({}, {}, 0), "nothing is held: expected values of some of"),
        (lambda m, x: m.fill({"x": x[..., :4]}, {}, 0), r"the values of x: shape \(2, 1, 8, 4\), expected \(2, 1, 8, 8\)"),
        (lambda m, x: m.fill({"x": x}, {"x": x[0] == 0}, 0), r"the mask of x: shape \(1, 8, 8\), expected \(2, 1, 8, 8\)"),
        (lambda m, x: iter([m.infer({"y": torch.tensor([3, 4])}, 0)]), "only y is given"),
    ],
)  # fmt: skip
def test_labels_and_masks_that_cannot_be(call, words):
    module, x = made()[0].eval(), torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=words):
        next(call(module, x))


def test_what_is_held_may_be_a_label_alone_or_no_example():
    module, x = made()[0].eval(), torch.zeros(2, 1, 8, 8)
    nothing = {"x": torch.zeros_like(x, dtype=torch.bool)}
    state = next(module.fill({"x": x, "y": torch.tensor([3, 4])}, nothing, 0))
    assert state["y"].argmax(1).tolist() == [3, 4] and (state["x"] != 0).any(), "x is redrawn"
    assert len(next(module.fill({"x": x[:0]}, {"x": nothing["x"][:0]}, 0))["x"]) == 0


def test_bits_that_are_none_are_refused():
    module = made("attributes")[0].eval()
    bits = torch.ones(2, *module.graph["a"].shape)
    assert torch.equal(next(module.fill({"a": bits}, {}, 0))["a"], bits)
    held = torch.zeros_like(bits, dtype=torch.bool).index_fill(1, torch.tensor([1]), True)
    assert (next(module.fill({"a": bits.where(held, torch.nan)}, {"a": held}, 0))["a"][held] == 1).all(), (
        "nobody reads the rest"
    )
    with pytest.raises(ValueError, match="a is given as 5, among others: expected bits"):
        next(module.fill({"a": bits + 4 * torch.eye(len(bits[0]))[:2]}, {}, 0))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16])
def test_a_label_is_an_integer_of_any_size(dtype):
    module, data = made()
    batch = batch_of(data)
    y = batch["y"].clamp_min(0)
    wide, narrow = (module.eval().infer(batch | {"y": label}, 0) for label in (y, y.to(dtype)))
    assert all(torch.equal(wide[v], narrow[v]) for v in wide) and torch.equal(narrow["y"].argmax(1), y)


@pytest.mark.parametrize("dreams", [0.0, 0.5])
def test_hidden_labels_change_nothing(dreams):
    """Altering them leaves the training bitwise the same; altering a known one does not."""

    def trained(alter):
        module, data = made("labelled", *FEW, f"supervised.y.dreams={dreams}")
        y = data.data.train.y.clone()
        where = torch.ones(len(y), dtype=torch.bool).index_fill(0, data.known, False)
        if alter == "hidden":
            y[where] = (y[where] + 1 + Noise(5).uniform((int(where.sum()),)).mul(9).long()) % 10
        elif alter == "known":
            y[data.known[:50]] = (y[data.known[:50]] + 1) % 10
        data.data = replace(data.data, train=replace(data.data.train, y=y))
        quiet = dict(logger=False, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False)
        Trainer(max_steps=4, accelerator="cpu", limit_val_batches=0, **quiet).fit(module, data)
        return [p.detach().clone() for p in module.parameters()]

    plain, hidden, known = (trained(alter) for alter in ("nothing", "hidden", "known"))
    assert all(torch.equal(a, b) for a, b in zip(plain, hidden, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, known, strict=True))


def test_the_supervised_terms_are_the_cross_entropies():
    module, data = made(
        "attributes", *FEW, "supervised.y.known=2.0", "supervised.y.dreams=0.5", "supervised.a.known=0.25"
    )
    batch = batch_of(data)
    real, fake, _ = module.pairs(batch, Noise(0))
    graph = module.graph
    logits, dreamt = (
        graph["y"].eta({"x": s["x"].detach()}, 100) for s in (real, fake)
    )  # no gradient reaches the dreams
    bits = graph["a"].eta({"x": real["x"]}, 100)
    known = batch["y"] >= 0
    cross = torch.nn.functional.cross_entropy
    expected = 2 * cross(logits[known], batch["y"][known], reduction="sum") / 100
    expected = expected + 0.5 * cross(dreamt, fake["y"].argmax(1))
    binary = torch.nn.functional.binary_cross_entropy_with_logits(bits, batch["a"].float(), reduction="none").sum(1)
    expected = expected + 0.25 * binary.mean()
    contest = module.contest(real, fake, Noise(0), 0)
    taught = module.taught(contest, batch, real, fake)
    assert taught.diagnostics["loss_supervised"] == pytest.approx(expected.item(), rel=1e-5)
    grads = torch.autograd.grad(expected, module._players[0], allow_unused=True)
    for before, after, g in zip(contest.graph, taught.graph, grads, strict=True):
        assert torch.allclose(after - before, torch.zeros_like(before) if g is None else g, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(contest.critic, taught.critic, strict=True))


def test_dreams_alone_teach_reading_and_ask_no_label():
    """experiment=labels_dreams: what is added to the game's gradient is the same whatever the labels of the batch are."""
    module, data = made("labelled", "supervised.y.known=0.0", "supervised.y.dreams=1.0")
    assert load(["experiment=labels_dreams"])["supervised"]["y"] == module.supervised["y"]
    batch = batch_of(data)
    real, fake, _ = module.pairs(batch, Noise(0))
    contest = module.contest(real, fake, Noise(0), 0)
    told = [module.taught(contest, batch | {"y": y}, real, fake).graph for y in (batch["y"], batch["y"].roll(1))]
    assert all(torch.equal(a, b) for a, b in zip(*told, strict=True))
    reading = torch.autograd.grad(
        module.graph["y"].eta({"x": real["x"].detach()}, 100).sum(), module._players[0], allow_unused=True
    )
    for before, after, reads in zip(contest.graph, told[0], reading, strict=True):
        assert (reads is not None) == bool((after != before).any()), "q(y|x) is taught, and nothing that draws"


def test_without_weights_the_game_is_all_there_is():
    module, _ = made("labelled", "supervised.y.known=0.0")
    assert module.supervised == {}
    with pytest.raises(ValueError, match="supervised: y given z is no conditional of the graph"):
        made("labelled", "supervised.y.hears=[z]")


@pytest.mark.parametrize(
    "start, latent, hears",
    [
        ("[['z|x',y,a]]", "z", "x"),
        ("[[z,y,a]]", "a", "x"),
        ("[['a|x'],[z,y]]", "a", "x"),
        ("[a,[z,y]]", "a", "xy"),
    ],
)
def test_a_posterior_mean_hears_whom_the_clamped_chain_s_first_block_hears(start, latent, hears):
    free = ["chains.clamped.mode.a.clamped=false", "supervised.a.known=0.0"]
    module, data = made("attributes", f"chains.clamped.start={start}", *free)
    module.eval()
    given = {v: x for v, x in batch_of(data).items() if v != "a"}
    state = module._values(given)
    expected = module.ema.module[latent].mean({v: state[v] for v in hears}, 100)
    assert torch.equal(module.posterior_mean(given, latent, 0), expected)


def test_the_mean_of_a_label_is_of_its_probabilities_not_of_votes():
    """Where y is read off z1, which is drawn, its mean is that of q(y|z1) over the draws of z1."""
    module, data = made("labelled2")
    module.eval()
    x = {"x": batch_of(data)["x"]}
    drawn = [module.infer(x, seed_of(5, k))["z1"] for k in range(DRAWS_FOR_MEAN)]
    expected = torch.stack([module.ema.module["y"].mean({"z1": z1}, 100) for z1 in drawn]).mean(0)
    found = module.posterior_mean(x, "y", 5)
    assert torch.allclose(found, expected) and torch.allclose(found.sum(1), torch.ones(100))
    assert (found * DRAWS_FOR_MEAN - (found * DRAWS_FOR_MEAN).round()).abs().max() > 0.1, "no votes"


@pytest.mark.parametrize("model, latent", [("labelled2", "z2"), ("labelled2", "y"), ("labelled", "y")])
def test_an_unknown_label_is_drawn_for_a_posterior_mean_too(model, latent):
    """What is given as unknown is as if it were not given."""
    module, data = made(model)
    module.eval()
    x = {"x": batch_of(data)["x"]}
    blank = x | {"y": torch.full((100,), -1)}
    assert torch.equal(module.posterior_mean(blank, latent, 5), module.posterior_mean(x, latent, 5))
    drawn = module.infer(blank, 5)["y"]
    assert torch.equal(drawn.sum(1), torch.ones(100)), "no vector of zeros"
    assert torch.equal(module.infer(x | {"y": torch.zeros(100, 10)}, 5)["y"], drawn), "zeros say so as well"


def test_where_a_label_is_known_in_part_its_mean_is_what_is_known_and_probabilities_elsewhere():
    module, data = made("labelled2")
    module.eval()
    batch = batch_of(data)
    y = torch.where(torch.arange(100) % 2 == 0, batch["y"], -1)
    found = module.posterior_mean({"x": batch["x"], "y": y}, "y", 5)
    assert torch.equal(found[::2], torch.eye(10)[batch["y"][::2]])
    votes = found[1::2] * DRAWS_FOR_MEAN
    assert (votes - votes.round()).abs().max() > 0.1 and torch.allclose(found.sum(1), torch.ones(100))


def test_a_latent_that_hears_a_label_has_no_exact_mean_where_that_is_unknown():
    config = load(["model=labelled", "steps=4", "chains.clamped.start=[z,y]"])
    config["graph"]["z"]["hears"] = {"x": "encode", "y": "embed"}
    module, data = build(config, (1, 8, 8)).eval(), datamodule(config)
    batch = batch_of(data)
    given = {"x": batch["x"], "y": batch["y"].clone()}
    state = module._values(given)
    exact = module.ema.module["z"].mean({v: state[v] for v in "xy"}, 100)
    assert torch.equal(module.posterior_mean(given, "z", 0), exact)
    given["y"][::2] = -1
    found = module.posterior_mean(given, "z", 0)
    drawn = torch.stack([module.infer(given, seed_of(0, k))["z"] for k in range(DRAWS_FOR_MEAN)]).mean(0)
    assert torch.equal(found, drawn) and not torch.allclose(found, exact)


@pytest.mark.parametrize(
    "settings, words",
    [
        (["data.labels=100"], r"y may be unknown \(data.labels=100\), and the clamped chain never draws it"),
        (["chains.clamped.mode.y.share=0.5"], "y may be unknown"),
        (["chains.clamped.mode.y.silent=true"], "y may be unknown"),
    ],
)
def test_a_label_that_may_be_unknown_has_to_be_drawn(settings, words):
    """Else a draw of the model's own p(y) would stand there and pass for data."""
    never = ["chains.clamped.start=[z]", "supervised.y.known=0.0"]
    made("labelled", *never)
    with pytest.raises(ValueError, match=words):
        made("labelled", *never, *settings)


def test_a_label_is_decoded_with_a_latent_from_the_prior(record):
    """The start pass draws z and y together: from y alone x hears both."""
    module, _ = made("labelled")
    rows = record(module.ema.module)
    module.decode({"y": torch.eye(10)}, 0)
    assert [(v, hears) for v, hears, *_ in rows] == [("z", ""), ("x", "yz")]


def test_what_the_clamped_chain_does_not_clamp_cannot_be_supervised():
    with pytest.raises(
        ValueError, match="supervised: y is not among the data; expected what the clamped chain clamps: x"
    ):
        made("labelled", "chains.clamped.mode.y.clamped=false")


# What the critic sees: x = (u, v), u a noisy copy of y and v of z, so that p(x|y,z), q(y|x), q(z|x) and uniform priors agree

UPON = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.15, 0.15, 0.7]])  # p(u|y), doubly stochastic
SIDE = np.array([[0.75, 0.25], [0.25, 0.75]])  # p(v|z)
PX = np.einsum("yu,zv->yzuv", UPON, SIDE).reshape(3, 2, 6)
UPON_OF, SIDE_OF = UPON / UPON.sum(0), SIDE / SIDE.sum(0)
QY, QZ = UPON_OF.T.repeat(2, 0), np.tile(SIDE_OF.T, (3, 1))  # q(y|x), q(z|x)
DATA = PX.mean((0, 1))
CHAIN = Chain([["z", "y"]], mode={"x": Stance(True), "y": Stance(True)}), Chain([["z", "y"], "x"], [["z", "y"], "x"], 2)


def clamped_law(qy, qz, share):
    """Of (x, y, z): y is known in this share of the examples, else drawn."""
    return np.einsum("x,xy,xz->xyz", DATA, share * QY + (1 - share) * qy, qz)


def unclamped_law(px, qy, qz, steps):
    law = np.einsum("yzx->xyz", px) / 6
    for _ in range(steps):
        law = np.einsum("x,xy,xz,yzw->wyz", law.sum((1, 2)), qy, qz, px)
    return law


WRONG = {
    "y given x": (PX, QY[:, [1, 2, 0]], QZ),
    "z given x": (PX, QY, QZ[:, [1, 0]]),
    "x given y, z": (PX[[1, 2, 0]], QY, QZ),
}


def test_where_all_is_right_the_joints_agree():
    for share, steps in product((0, 0.4, 1), (0, 1, 2)):
        assert tv(clamped_law(QY, QZ, share), unclamped_law(PX, QY, QZ, steps)) < 1e-12


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("share, steps", [(0.5, 0), (0.5, 2), (0.1, 0), (0.0, 1)])
def test_the_critic_sees_it_when_only_one_conditional_is_wrong(wrong, share, steps):
    px, qy, qz = WRONG[wrong]
    assert tv(clamped_law(qy, qz, share), unclamped_law(px, qy, qz, steps)) > 0.05


def test_what_it_cannot_see():
    """Where every label is held, q(y|x) takes part in the middle of the unclamped chain alone, and there only the law of (y, z)
    that it leaves is seen: it may mistake every class for the next one.  Where none is held and both chains end on it, it
    cancels; that is refused."""
    px, qy, qz = WRONG["y given x"]
    for steps in (0, 1, 3):
        assert tv(clamped_law(qy, qz, 1.0), unclamped_law(px, qy, qz, steps)) < 1e-12
    last = np.einsum("xz,xy->xyz", unclamped_law(px, QY, qz, 0).sum(1), qy)
    assert tv(clamped_law(qy, qz, 0.0), last) < 1e-12
    with pytest.raises(ValueError, match="both chains end on y given x: the critic would be blind"):
        check_pairing(tables(), CHAIN[0], Chain([["z", "y"], "x", "y"]))
    for steps in (0, (0, 3), 2):
        check_pairing(tables(), CHAIN[0], replace(CHAIN[1], steps=steps))


def tables():
    """The graph with these conditionals."""
    kinds = {"x": (6, ["z", "y"]), "z": (2, ["x"]), "y": (3, ["x"])}
    plain = {
        v: {"family": "categorical", "shape": [n], "hears": {u: f"{u}_{v}" for u in us}} for v, (n, us) in kinds.items()
    }
    made = build_graph(plain, {f"{u}_{v}": {"kind": "linear"} for v, (_, us) in kinds.items() for u in us}).double()
    logs = {("x", "y"): UPON.repeat(2, 1), ("x", "z"): np.tile(SIDE, (1, 3)), ("y", "x"): QY, ("z", "x"): QZ}
    with torch.no_grad():
        for (v, u), table in logs.items():
            made[v].messages[u].weight.copy_(torch.tensor(np.log(table)).T)
    return made


def test_the_chains_have_those_laws():
    n, g = 30000, tables()
    which = (Noise(7).uniform((n,)).double()[:, None] > torch.tensor(DATA).cumsum(0)[:-1]).sum(1)
    x = torch.eye(6, dtype=torch.float64)[which]
    y = torch.zeros(n, 3, dtype=torch.float64)
    y[:, 0] = 1  # known, and always 0: nothing like the data, so that it shows
    seen = (torch.arange(n) < n // 4)[:, None].expand(n, 3)
    state = CHAIN[0].run(g, Noise(0), {"x": x, "y": y}, {"y": seen}, n)
    told = np.einsum("x,y,xz->xyz", DATA, [1, 0, 0], QZ)
    laws = [(state, 0.25 * told + 0.75 * clamped_law(QY, QZ, 0))]
    walk = islice(CHAIN[1].trajectory(g, Noise(1), batch=n), 3)
    laws += [(state, unclamped_law(PX, QY, QZ, i)) for i, state in enumerate(walk)]
    for state, law in laws:
        drawn = torch.einsum("bx,by,bz->xyz", *(state[v].detach() for v in "xyz")).numpy() / n
        assert (np.abs(drawn - law) < 5 * np.sqrt(law * (1 - law) / n) + 1e-12).all()


# Numbers


class Oracle:
    """Knows the labels of images by heart: fills are real images of the class asked for, joint samples have labels one off."""

    N, labels, device = 1, ["y"], torch.device("cpu")

    def __init__(self, data, judge):
        self.graph = {"y": torch.nn.Identity()}
        self.graph["y"].shape = (10,)
        self.judge, self.x, self.y = judge, units(data.train.x, data.levels), data.train.y
        self.draws = torch.stack([(self.y == k).nonzero()[0, 0] for k in range(10)])  # one image of each class

    def of(self, y):
        return self.x[self.draws[y]]

    def misfit(self, given, seed):
        return 1.0

    def fill(self, given, seen, seed, scale=None):
        y = given.get("y", torch.zeros(len(next(iter(given.values()))), dtype=torch.long))
        y = y if scale is None else self.judge(given["x"]).argmax(1)  # it listens to the image, and to no label
        while True:
            yield {"x": self.of(y), "y": torch.eye(10)[y]}

    def trajectory(self, batch, seed):
        y = torch.arange(batch) % 10
        while True:
            yield {"x": self.of(y), "y": torch.eye(10)[(y + 1) % 10]}

    def posterior_mean(self, given, latent, seed):
        return self.judge(given["x"]).softmax(1)


def test_an_oracle_s_numbers(judges):
    data = DataModule("digits", labels=100)
    data.setup()
    judge = load_judge(judges / "digits.pt")[0]
    found = evaluate_labels(Oracle(data.data, judge), data, judge, samples=100, images=50, steps=(0, 2))
    assert set(found["asked"]) == {"0", "1", "2"} and all(v == 1 for v in found["asked"].values())
    assert all(v == {"agreement": 0, "shuffled": 1} for v in found["joint"].values())
    assert found["classified"]["model"] == found["classified"]["judge"] > 0.95
    assert found["classified"]["majority"] < 0.12 and 0.75 < found["classified"]["logistic"] < 0.95
    assert 0.8 < found["classified"]["nearest"] < 0.97  # of 100 labels; of all it is .98
    assert set(found["halves"]["own"].values()) == set(found["halves"]["next"].values()) == {1.0}
    assert found["halves"]["free"]["1"] < 0.3
    listening = [set(found["halves"][f"attentive_{name}"].values()) for name in ("free", "own", "next")]
    assert listening == [{1.0}, {1.0}, {0.0}]
    assert "edits" not in found


def test_who_draws_labelled_images_by_heart_is_seen(judges):
    data = DataModule("digits", labels=100)
    data.setup()
    oracle = Oracle(data.data, load_judge(judges / "digits.pt")[0])
    for k in range(3):
        oracle.draws[k] = next(i for i in data.known if data.data.train.y[i] == k)
    assert not set(oracle.draws[3:].tolist()) & set(data.known.tolist())
    walk, start = oracle.fill, {"x": torch.zeros(360, 1, 8, 8)}  # what it holds before its N = 1 sweeps
    oracle.fill = lambda *arguments: chain([start], walk(*arguments))
    found = copied(oracle, data, data.data.test, 360, 0)
    assert found["model"] == pytest.approx(0.3)  # three classes of ten, after N sweeps
    assert found["real"] == pytest.approx(100 / 1221, abs=4 * math.sqrt(0.08 * 0.92 / 360))


def test_an_edit_s_numbers(judges):
    data = DataModule("digits", attributes=True)
    data.setup()
    judge = load_judge(judges / "digits.pt")[0]
    state = data.state("test")
    wanted = state["a"].clone()
    wanted[:, 0] = ~wanted[:, 0]
    same = edit(data, judge, state["x"], state["x"], wanted, 0)
    assert same["class_kept"] == 1 and same["mse"] == 0 and same["changed"] < 0.05 and same["others_kept"] > 0.95


@pytest.fixture(scope="module")
def run(tmp_path_factory, judges):
    """A short run with labels and attributes."""
    folder = tmp_path_factory.mktemp("runs") / "attributes"
    settings = ["steps=2", "every.log=1", "every.validate=2", "every.checkpoint=2", "tracking.mode=disabled", f"judges={judges}",
                "trainer.accelerator=cpu", "trainer.progress=false", *FEW]  # fmt: skip
    assert main(["train", "model=attributes", f"run={folder}", *settings]) == 0
    assert (folder / "figures" / "edits_a.png").stat().st_size > 1000
    return folder


@pytest.mark.parametrize(
    "settings, file, held",
    [
        (["clamp.values={y: 3}"], "samples", {"y": 3}),
        (["clamp.values={y: 3, a: [1, 0, 1]}"], "samples", {"y": 3, "a": [1, 0, 1]}),
        (["clamp.hole=right", "clamp.values={y: 4}", "clamp.dreams=30"], "fill", {"y": 4}),
        (["clamp.whole=[z,y]", "clamp.values={a: [null, null, 1]}"], "fill", {"a": [None, None, 1]}),
        (["clamp.whole=[x]"], "fill", {}),
    ],
)
def test_values_are_held_through_the_door(run, settings, file, held):
    assert main(["sample", f"run={run}", *settings]) == 0
    with np.load(run / "samples" / f"{file}.npz") as arrays:
        drawn = {v: arrays[v] for v in arrays.files}
    for v, value in held.items():
        if v == "y":
            assert (drawn[v].argmax(-1) == value).all() and (drawn[v].sum(-1) == 1).all()
        else:
            assert all((drawn[v][..., k] == bit).all() for k, bit in enumerate(value) if bit is not None)
    if settings == ["clamp.whole=[x]"]:
        assert len(np.unique(drawn["y"].argmax(-1))) > 2 and (drawn["x"] == drawn["x"][:1]).all()
    if "z" in settings[0]:
        assert (drawn["a"][..., :2].std(axis=1) > 0).any()


@pytest.mark.parametrize(
    "values, words",
    [
        ("{y: 12}", "clamp.values of y is 12: expected a label in 0..9"),
        ("{y: [1, 2]}", "clamp.values of y is [1, 2]: expected a label in 0..9"),
        ("{y:3}", "expected variables out of z, y, a, and a space after the colon"),
        ("{q: 1}", "clamp.values names q: expected variables out of z, y, a"),
        ("{a: [1, 0]}", "clamp.values of a is [1, 0]: expected a list of 3 entries"),
        ("{a: [1, 0, 2]}", "clamp.values of a is [1, 0, 2]: expected a list of 3 entries, each 0, 1 or null"),
        ("{a: [1, 0, .nan]}", "each 0, 1 or null"),
        ("{a: [1, 0, yes please]}", "each 0, 1 or null"),
        ("{z: [.inf" + ", 0" * 15 + "]}", "expected a list of 16 entries, each a finite number or null"),
        ("{a: [null, 0, 1]}", "null is what a real image has, and none is held"),
    ],
)
def test_values_that_cannot_be_are_one_line(run, values, words, capsys):
    assert main(["sample", f"run={run}", f"clamp.values={values}"]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("settings", [["clamp.of=y"], ["clamp.of=y", "clamp.share=0.3"]])
def test_a_label_has_no_hole(run, settings, capsys):
    """With a part of its one-hot vector held, what is drawn would be no label."""
    assert main(["sample", f"run={run}", "clamp.hole=random", *settings]) == 1
    said = capsys.readouterr().err
    assert "clamp.of=y: a label has no parts" in said and "clamp.whole=[y]" in said and said.count("\n") == 1


def test_values_beside_a_mode_that_takes_real_images_are_one_line(run, capsys):
    assert main(["sample", f"run={run}", "chains.unclamped.mode={x: {clamped: true}}", "clamp.values={y: 3}"]) == 1
    said = capsys.readouterr().err
    assert "clamp.values={'y': 3}, but the chain takes" in said and "mode=dreaming" in said and said.count("\n") == 1


def test_fills_that_know_the_label_are_measured_beside_the_others(run):
    """And every number of them has its row on the page."""
    found = dict(runs.flat(fill.measure(run, images=14)))
    told = {name for name in found if name.startswith("labelled_")}
    assert {name.split("/")[0].removeprefix("labelled_") for name in told} == set(HOLES)
    assert all(abilities.shown("fills_labels", name) for name in found)
    assert json.loads((run / "fill.json").read_text()).keys() >= {abilities.PARTS["fills_labels"].newest}
    assert all(abilities.shown("fills_apart", name) for name in dict(runs.flat(fill.apart(run, images=14))))
    assert json.loads((run / "apart.json").read_text()).keys() >= {abilities.PARTS["fills_apart"].newest}
    assert all(abilities.shown("fills_latents", name) for name in dict(runs.flat(fill.in_latents(run, images=14))))
    assert json.loads((run / "latents.json").read_text()).keys() == {"z"}
    assert found["labelled_left/mean/mse"] < found["left/mean/mse"]


def test_the_benchmark_writes_what_it_prints(run, capsys):
    bench.main([f"run={run}", "samples=100", "images=20"])
    printed = capsys.readouterr().out
    written = json.loads((run / "labels.json").read_text())
    assert written.keys() == {"asked", "joint", "classified", "halves", "copied", "attributes", "edits"}
    assert all(line in printed for line in bench.table(written))
    assert written["attributes"]["real"]["loop"] > 0.9 > written["attributes"]["majority"]["loop"]
    refused = {"which run": [], "unknown 'runs'": ["runs=1"], "split=train": [f"run={run}", "split=train"]}
    for words, arguments in refused.items():
        with pytest.raises(SystemExit, match=words):
            bench.main(arguments)


@pytest.mark.parametrize("persistent", [0.0, 0.5])
def test_a_chain_that_starts_from_data_has_a_label_where_theirs_is_unknown(persistent, monkeypatch):
    config = load(["model=labelled"])
    more = {"steps": [1, 1], "start_from_data": 1.0, "blocks": ["z", "x", "y", "z", "x"], "persistent": persistent}
    config["chains"]["unclamped"] |= more
    m, heard = build(config, (1, 8, 8)), []
    draw = m.graph["x"].draw
    monkeypatch.setattr(
        m.graph["x"], "draw", lambda state, *rest: heard.append(state["y"].sum(1)) or draw(state, *rest)
    )
    m.pairs({"x": torch.zeros(4, 1, 8, 8), "y": torch.tensor([1, -1, -1, 2])}, Noise(0, 1), 1)
    assert heard and all((y == 1).all() for y in heard)
