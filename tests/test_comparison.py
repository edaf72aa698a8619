"""The commands that compare: their contenders are what they are called, and they run end to end."""

import ast
import json
import re
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmarks import abilities, aim, approach, compare, fill, gallery, labels, results, runs, settle, stability, walk
from gibbsnet.chain import Chain
from gibbsnet.config import ConfigError, choices, differences, load
from gibbsnet.data import DataModule
from gibbsnet.evaluate import write_json
from gibbsnet.evaluation.yardsticks import yardstick
from gibbsnet.files import fingerprint
from gibbsnet.modules import build
from gibbsnet.noise import Noise
from gibbsnet.report.charts import OVER_STEPS, colours
from tests.models import LABELLED, module, tabled, unclamped_laws
from tests.test_claims import kernel, world

B = 6


def contender(name, data="digits"):
    config = load(compare.settings(data, name))
    return build(config, tuple(config["data"]["shape"])).double()


def points(n=B):
    return Noise(0, "points").normal((n, 2), torch.float64)


# The contenders


@pytest.mark.parametrize("data", compare.DATA)
def test_contenders_differ_in_what_they_are_called_after_and_in_nothing_else(data):
    configs = {name: load(compare.settings(data, name)) for name in compare.CONTENDERS}
    called = ["gibbsnet_published" if name == "gibbsnet" else name for name in configs]
    assert [c["model"].pop("name") for c in configs.values()] == called, (
        "so the report tells them, and the README's, apart"
    )
    shifted = [configs.pop(name) for name in ("ali_shift", "gibbsnet_shift")]
    cycled = [configs.pop(name) for name in ("ali_cycle_sharp", "gibbsnet_cycle_sharp", "gibbsnet_short_cycle")]
    late, low = configs.pop("gibbsnet_cycle_late"), configs.pop("gibbsnet_short_sharp")
    tuned = [configs.pop(name) for name in ("ali_tuned", "gibbsnet_tuned")]
    nearest = [configs.pop(name) for name in ("ali_nearest", "gibbsnet_nearest")]
    surest = [configs.pop(name) for name in ("ali_surest", "gibbsnet_surest")]
    borrowed, through = [configs.pop(name) for name in compare.BORROWED], configs.pop("gibbsnet_cut_x")
    assert set(differences(through, configs["gibbsnet"])) == {"chains.unclamped.cut"}
    assert late["chains"]["unclamped"].pop("rise") == 16000 and late["game"] == cycled[1]["game"]
    assert late["graph"] == cycled[1]["graph"]
    plain, base, cycle, gibbs, old, both, short, mixed, cut, untied, sharp = configs.values()
    own, floor = compare.FLOORS[data.removesuffix("_long")]
    assert set(differences(low, short)) == ({"graph.z.floor", "size.floor_swept"} if own != floor else set())
    assert low["graph"]["z"]["floor"] == own
    later = [*zip(shifted, (base, short), strict=True), *zip(cycled, (plain, sharp, short), strict=True)]
    for (one, other), key in zip(later, ("shift", "shift", "cycle", "cycle", "cycle"), strict=True):
        assert one | {"game": {**one["game"], key: 0}, "command": None} == other | {"command": None}, "but for one key"
        assert one["game"][key] == 1
    searched = {"optim.lr", "optim.lr_critic", "penalty.x", "penalty.z", "graph.z.floor"}  # by a sweep
    entailed = {"game.gamma.x", "game.gamma.z", "size.floor", "size.floor_swept", "model.name"}
    for found, where in (
        (tuned, ("ring", "digits")),
        (nearest, ("ring", "digits")),
        (surest, ("digits", "mnist", "mnist_long")),
    ):
        for one, other in zip(found, (plain, short), strict=True):
            assert set(differences(one, other)) - entailed == (searched if data in where else set())
    if data == "digits":
        assert not searched & set(differences(*tuned)) and tuned[0]["graph"]["z"]["floor"] == 0.439
    for one, of, name in zip(borrowed, (surest, nearest), compare.BORROWED.values(), strict=True):
        there = searched if compare.tuned(data.removesuffix("_long"), name) else set()
        assert set(differences(one, short)) - entailed == there, "ALI's setting, where one was found"
        assert not there & set(differences(one, of[0]))
    told = [c["critics"]["joint"]["hears"].pop("age", None) for c in configs.values()]
    ships = None if data in ("ring", "grid") else "embed"
    assert told == [*[None] * 4, *["embed"] * 4, None, None, ships]
    for config in configs.values():
        for part in ("network", "critics", "optim", "penalty", "data"):
            assert config[part] == base[part], part
        assert config["graph"]["x"] == base["graph"]["x"] and config["size"]["z"] == base["size"]["z"]
        assert config["graph"]["z"]["bound"] == base["graph"]["z"]["bound"]
    assert [c["graph"]["z"]["floor"] for c in configs.values()] == [own, *[floor] * 9, own]
    assert [c["game"].pop("cycle") for c in configs.values()] == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert all(c["game"] == base["game"] for c in configs.values())
    assert plain["chains"] == base["chains"] == cycle["chains"]
    assert old | {"command": None} == both | {"command": None}, "but for the cycle loss"
    assert (short["chains"] == old["chains"]) == (data == "grid")  # so it is left out there, below
    assert short["chains"]["unclamped"]["steps"] == [0, 1] and short["chains"]["clamped"] == old["chains"]["clamped"]
    assert short["chains"]["unclamped"] | {"steps": None} == old["chains"]["unclamped"] | {"steps": None}
    assert mixed["chains"]["unclamped"] == old["chains"]["unclamped"] | {"steps": [0, [1, 4]]}
    assert [c["chains"]["unclamped"].pop("grad_draws") for c in (gibbs, old, cut)] == [3, 3, 1]
    assert gibbs["chains"] == cut["chains"] and gibbs["graph"] == cut["graph"] == old["graph"]
    assert [c["chains"]["unclamped"].pop("persistent") for c in (gibbs, old)] == [0.0, 0.5]
    assert gibbs["chains"] == old["chains"]
    assert sharp["chains"] == load([f"experiment={runs.experiment(data)}", "model=gibbsnet"])["chains"]
    shorter = 20 if data == "cifar10" else 1  # than the published recipe
    whole = compare.STEPS[data]["ali_floor" if data == "cifar10_long" else "gibbsnet"]
    assert whole * shorter == base["steps"]
    sweeps = sum(v[0] == "z" for v in untied["chains"]["unclamped"]["start"]) - 1
    N = gibbs["chains"]["unclamped"]["steps"]
    assert sweeps == (N if isinstance(N, int) else max(N)), "as deep as the longest of GibbsNet's chains"
    long = {"gibbsnet_persistent", "gibbsnet_cycle", "gibbsnet_mixed", "gibbsnet_cut", "untied", "gibbsnet_sharp"}
    left = {"grid": {"gibbsnet_short", "gibbsnet_mixed"}, "mnist_long": long, "cifar10": {"gibbsnet_sharp"},
            "cifar10_long": {*long, "ali", "ali_cycle", "gibbsnet"}}  # fmt: skip
    moved = set() if data == "digits" else {"ali_shift", "gibbsnet_shift"}
    found = compare.TUNED.get(data.removesuffix("_long"), {}).keys()
    chosen = {f"{model}_{by}" for model in ("ali", "gibbsnet") for by in ("tuned", "nearest", "surest")}
    untuned = chosen - found | {name for name, of in compare.BORROWED.items() if of not in found}
    cycled = set() if data == "grid" else {"ali_cycle_sharp", "gibbsnet_cycle_sharp", "gibbsnet_cycle_late"}
    points = set() if data == "ring" else {"gibbsnet_short_sharp"}
    paired = set() if data == "mnist" else {"gibbsnet_short_cycle"}
    through = set() if data in ("ring", "digits", "mnist") else {"gibbsnet_cut_x"}
    absent = left.get(data, set()) | moved | untuned | cycled | points | paired | through
    assert set(compare.CONTENDERS) - compare.STEPS[data].keys() == absent


@pytest.mark.parametrize("data", ["ring", "grid", "digits", "mnist", "cifar10"])
def test_ali_s_own_floor_is_what_ships_but_on_mnist(data):
    """There it ships with GibbsNet's, and the findings say so."""
    ships = load([f"experiment={runs.experiment(data)}", f"data={data}", "model=ali"])["graph"]["z"]["floor"]
    assert ships == compare.FLOORS[data][data == "mnist"]


@pytest.mark.parametrize("data", ["ring", "grid", "digits", "mnist", "cifar10"])
def test_stability_s_variants_differ(data):
    configs = {name: load(stability.settings(data, name)) for name in stability.VARIANTS}
    assert all(differences(a, b) for a, b in combinations(configs.values(), 2))
    assert [c["model"]["name"] for c in configs.values()] == list(configs), "so the report tells them apart"
    assert {name for name, config in configs.items() if config["chains"]["unclamped"]["rise"]} == {"rising"}


def test_a_cut_chain_s_gradient_never_reaches_the_encoder():
    """Whatever N is: of the unclamped chain the decoder alone learns."""
    reached = {}
    for name in ("gibbsnet", "gibbsnet_cut"):
        m = contender(name)
        for step in range(12):
            end = m.unclamped.run(m.graph, Noise(step), batch=B)
            parts = [list(m.graph[v].messages.parameters()) for v in "zx"]
            total = end["x"].square().sum() + end["z"].square().sum()
            slopes = [torch.autograd.grad(total, p, allow_unused=True, retain_graph=True) for p in parts]
            reached.setdefault(name, set()).add(any(s is not None for s in slopes[0]))
            assert all(s is not None and s.any() for s in slopes[1])
    assert reached == {"gibbsnet": {False, True}, "gibbsnet_cut": {False}}


def test_a_cut_decoder_passes_no_gradient_on():
    """gibbsnet_cut_x: of the unclamped x nothing reaches the encoder, nor a draw before it; its own draw gives the decoder all of
    its gradient, and the z that the critic sees is as it was."""
    whole, cut = contender("gibbsnet"), contender("gibbsnet_cut_x")
    swept = 0
    for step in range(12):
        ends = [m.unclamped.run(m.graph, Noise(step), batch=B) for m in (whole, cut)]
        assert all(torch.equal(ends[0][v], ends[1][v]) for v in "xz"), "the same draws"
        found = [
            {v: [slopes(m, end[v], by) for by in "zx"] for v in "xz"} for m, end in zip((whole, cut), ends, strict=True)
        ]
        if whole.unclamped.length(Noise(step)) == 0:
            continue
        swept += 1
        assert found[0]["x"][0] is not None and found[1]["x"][0] is None, "x to the encoder"
        assert torch.equal(found[0]["z"][0], found[1]["z"][0]) and found[1]["z"][0].any(), "z to the encoder"
        assert torch.equal(found[0]["z"][1], found[1]["z"][1]), "z to the decoder, by the x before it"
        last = Noise(step).at(whole.unclamped.length(Noise(step)))
        cut.graph["z"].draw({"x": ends[1]["x"]}, B, last)  # whose noise comes first
        alone = cut.graph["x"].draw({"z": ends[1]["z"].detach()}, B, last)
        assert torch.equal(alone, ends[1]["x"])
        assert torch.equal(slopes(cut, alone, "x"), found[1]["x"][1]), "x to the decoder: its last draw's alone"
        assert not torch.equal(found[0]["x"][1], found[1]["x"][1]), "uncut, the draw before it as well"
    assert swept > 3


def slopes(m, value, by):
    """The gradient of a value's sum of squares in all of a conditional's weights, None if none gets there."""
    weights = list(m.graph[by].messages.parameters())
    if not value.requires_grad:
        return None
    found = torch.autograd.grad(value.square().sum(), weights, allow_unused=True, retain_graph=True)
    return None if all(s is None for s in found) else torch.cat([s.flatten() for s in found])


@pytest.mark.parametrize("model, sweeps", [("untied", 1), ("untied3", 3)])
def test_an_untied_generator_is_as_deep_as_the_chain_unrolled_and_shares_nothing(model, sweeps):
    m, chain = module(model), Chain(["z", "x"], ["z", "x"], sweeps)
    (unrolled, mine) = (
        [v[0] for block in c.draws(n) for v, _ in block] for c, n in ((chain, sweeps), (m.unclamped, 0))
    )
    assert mine == unrolled and m.unclamped.grad_draws == len(mine)
    maps = [message for v in m.graph for message in m.graph[v].messages.values()]
    assert len(maps) == len(mine) and len({id(p) for net in maps for p in net.parameters()}) == sum(
        len(list(net.parameters())) for net in maps
    )
    assert set(m.critics["joint"].messages) == {"x", "z"} and m.latents == ["z"]
    hidden = m.graph["z"].messages["x"].net[1].weight
    with torch.no_grad():
        before, sampled = m.infer({"x": points()}, 0)["z"], next(m.trajectory(B, 0))["x"]
        m.ema.module["z"].messages["x"].net[1].weight.add_(1.0)
    assert not torch.equal(m.infer({"x": points()}, 0)["z"], before) and hidden.requires_grad
    assert torch.equal(next(m.trajectory(B, 0))["x"], sampled), "samples owe nothing to the encoder of the data"


def test_an_unshared_encoder_is_the_chain_s_alone():
    m = module("unshared")
    own, other = (m.graph["z"].messages[u] for u in ("xa", "x"))
    state = m.unclamped.init(m.graph, Noise(0), batch=B)
    assert (state["xa"] - state["x"]).abs().max() < 6e-4
    end = Chain(m.unclamped.start, m.unclamped.blocks, 2, grad_draws=5).run(m.graph, Noise(0), batch=B)
    total = end["x"].square().sum() + end["z"].square().sum()
    mine, theirs = (
        torch.autograd.grad(total, list(net.parameters()), allow_unused=True, retain_graph=True) for net in (own, other)
    )
    assert all(g is not None and g.any() for g in mine) and all(g is None for g in theirs)
    with torch.no_grad():
        before = m.infer({"x": points()}, 0)["z"]
        m.ema.module["z"].messages["xa"].net[1].weight.add_(1.0)
    assert torch.equal(m.infer({"x": points()}, 0)["z"], before)


@pytest.mark.parametrize(
    "model", sorted(set(choices("model")) - LABELLED)
)  # whose y would have to be given beside the points
def test_every_model_may_have_a_cycle_loss(model):
    """0.5 * mean (x - E[x | its latents])^2 on the clamped chain's draws, and nothing else."""
    m, plain = (module(model, "ring", f"game.cycle={c}") for c in (0.5, 0.0))
    a, b = (net.play({"x": points()}, Noise(0)) for net in (m, plain))
    real, _, _ = plain.pairs({"x": points()}, Noise(0))
    decoded = plain.graph["x"].prior + sum(message(real[u]) for u, message in plain.graph["x"].messages.items())
    loss = 0.5 * ((points() - decoded) ** 2).sum() / (2 * B)
    free = [p for p in plain.graph.parameters() if p.requires_grad]
    alone = torch.autograd.grad(loss, free, allow_unused=True)
    for with_cycle, without, g in zip(a.graph, b.graph, alone, strict=True):
        assert torch.allclose(with_cycle, without + (0 if g is None else g), atol=1e-12)
    assert torch.allclose(a.diagnostics["loss_cycle"], loss) and "loss_cycle" not in b.diagnostics


# The commands


@pytest.fixture
def short(monkeypatch):
    """Trainings of some steps, scored by few samples; on points, where that is fast."""
    monkeypatch.setitem(compare.STEPS, "ring", dict.fromkeys(compare.CONTENDERS, 4))
    monkeypatch.setattr(stability, "GRID", (0, 1, 3))
    monkeypatch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
    return ["every.log=2", "every.validate=4", "every.checkpoint=4", "evaluation.samples=40", "evaluation.steps=[0,1]",
            "trainer.accelerator=cpu", "trainer.progress=false"]  # fmt: skip


def test_a_comparison_is_recorded_drawn_and_not_made_again(short, monkeypatch, tmp_path, capsys):
    wanted = ["ring", "seeds=1,2", "models=ali_floor,gibbsnet", *short]
    compare.main(wanted)
    record = json.loads((tmp_path / "docs/comparison.json").read_text())[runs.title("ring", short)]
    share = {m: [s["samples/share"] for s in seeds] for m, seeds in record["models"].items()}
    assert record["seeds"] == [1, 2] and all(len(s) == 2 for s in share.values())
    pictured = {"chain/1/sliced_wasserstein", "reference/test/share"}  # and not in the table
    assert all(seed.keys() >= pictured for seeds in record["models"].values() for seed in seeds)
    page = (tmp_path / "docs/comparison.md").read_text()
    differences = sorted(b - a for a, b in zip(*share.values(), strict=True))
    low, high = (f"{d:+.4g}" for d in differences)
    row = next(line for line in page.partition("Less ali_floor")[2].splitlines() if "samples/share" in line)
    assert (f"[{low} .. {high}]" in row) == (low != high) and "ali_floor" not in row
    assert compare.figure("memory", "ring", {"settings": []}).name == "memory_ring.png"
    drawn = tmp_path / compare.figure("comparison", "ring", record)
    assert drawn.stat().st_size < 200 * 1024 and f"](figures/{drawn.name})" in page
    monkeypatch.setattr(runs, "evaluate", lambda config: pytest.fail("evaluated again"))
    compare.main(wanted)
    assert (tmp_path / "docs/comparison.md").read_text() == page


def test_the_ring_s_stable_experiment_is_the_contender_that_stays():
    """What the page says of gibbsnet_short holds of it."""
    told = [*compare.settings("ring", "gibbsnet_short"), f"steps={compare.RING['gibbsnet_short']}"]
    assert differences(load(["experiment=ring_stable"]), load(told)) == []


@pytest.mark.parametrize(
    "model, own, unread",
    [("gibbsnet", [], "size.floor"), ("ali", [*compare.ALI, "steps=15200"], "size.floor_swept")],
)
def test_the_experiment_with_one_setting_for_both_is_the_contender(model, own, unread):
    contender = [*compare.settings("digits", f"{model}_tuned"), f"steps={compare.DIGITS[f'{model}_tuned']}"]
    made = load(["experiment=digits_tuned", f"model={model}", *own])
    assert sorted(differences(made, load(contender))) == [unread]


def test_mnist_s_experiment_with_the_surest_setting_is_the_contender_and_names_ali_s():
    told = [*compare.settings("mnist", "gibbsnet_surest"), f"steps={compare.MNIST['gibbsnet_surest']}"]
    assert differences(load(["experiment=mnist_tuned"]), load(told)) == []
    text = (ROOT / "conf" / "experiment" / "mnist_tuned.yaml").read_text().split("\ndefaults")[0].replace("\n#", "")
    said = re.findall(r"[\w.]+=[\w.]*\w", text)
    told = [*compare.settings("mnist", "ali_surest"), f"steps={compare.MNIST['ali_surest']}"]
    assert len(said) == 8 and differences(load(["experiment=mnist_tuned", *said]), load(told)) == ["size.floor_swept"]


def test_mnist_s_stable_experiment_is_the_contender_under_the_floor_that_ships_and_names_ali_s():
    floors = ["size.floor=0.5", "size.floor_swept=0.5"]
    told = [*compare.settings("mnist_long", "gibbsnet_alike", floors), f"steps={compare.LONG['gibbsnet_alike']}"]
    assert differences(load(["experiment=mnist_stable"]), load(told)) == []
    text = (ROOT / "conf" / "experiment" / "mnist_stable.yaml").read_text()
    same, floor = (said.split() for said in re.search(r"equal time: (.*); .* for it: (.*)\.\n", text).groups())
    told = [*compare.settings("mnist_long", "ali_surest"), f"steps={compare.LONG['ali_surest']}"]
    assert differences(load(["experiment=mnist_stable", *same]), load([*told, *floors])) == []
    assert differences(load(["experiment=mnist_stable", *same, *floor]), load(told)) == []


def test_no_two_models_of_a_page_share_a_colour():
    """All contenders and variants stand on one, where results are made."""
    models = [*compare.CONTENDERS, *stability.VARIANTS, *abilities.LEVELS, *abilities.PHASES]
    assert len(set(colours(models).values())) == len(models) > 30


def test_the_grid_s_experiment_with_a_cycle_loss_is_the_contender():
    told = [*compare.settings("grid", "gibbsnet_cycle_late"), f"steps={compare.GRID['gibbsnet_cycle_late']}"]
    assert differences(load(["experiment=grid"]), load(told)) == []


@pytest.mark.parametrize("model", ["ali", "gibbsnet"])
def test_the_experiment_with_moved_views_is_the_contender(model):
    contender = load(
        [*compare.settings("digits", f"{model}_shift"), f"steps={compare.STEPS['digits'][f'{model}_shift']}"]
    )
    own = ["size.floor=0.7", "chains.unclamped.steps=0", "steps=14400"] if model == "ali" else []
    made = load(["experiment=digits_moved", f"model={model}", *own])
    assert differences(made, contender) == []
    moved = differences(load(["experiment=digits", "steps=11900"]), load(["experiment=digits_moved"]))
    assert sorted(moved) == ["game.shift"]


def test_contenders_are_laid_side_by_side_and_nothing_is_recorded(short, monkeypatch, tmp_path, capsys):
    drawn = {0: [30, 60, 90], 1: [200, 100, 0]}  # by N

    def pictured(module, *rest, quick=False):
        picture = Figure(figsize=(2, 1), dpi=100, facecolor=[c / 255 for c in drawn[module.N]])
        FigureCanvasAgg(picture)
        yield "samples", picture

    monkeypatch.setattr("gibbsnet.plots.figures", pictured)
    compare.main(["ring", "seeds=1", "models=ali,gibbsnet", "pictures=two", *short])
    written = f"docs/figures/two_{runs.file(runs.title('ring', short))}_samples.png"
    path = tmp_path / written
    assert capsys.readouterr().out.splitlines()[-1] == written, "of no other kind"
    page = np.asarray(Image.open(path).convert("RGB"))
    assert page.shape == (gallery.HEAD + 175, 2 * 350 + gallery.GAP, 3)
    assert [page[-1, x].tolist() for x in (0, 349, 360, 709)] == [drawn[0]] * 2 + [drawn[1]] * 2
    assert not (tmp_path / "docs/comparison.json").exists()


@pytest.mark.parametrize("kind", ["tsne_x", "latent_z2"])
def test_a_row_of_pictures_is_narrowed_until_it_is_small_enough(kind, tmp_path):
    for k, name in enumerate("abc"):
        noise = torch.randint(256, (350, 350, 3), generator=torch.Generator().manual_seed(k)).to(torch.uint8)
        (tmp_path / name / "figures").mkdir(parents=True)
        Image.fromarray(noise.numpy()).save(tmp_path / name / "figures" / f"{kind}.png")
    (written,) = gallery.gallery({name: tmp_path / name for name in "abc"}, tmp_path / "beside")
    assert written.name == f"beside_{kind}.png" and written.stat().st_size <= 200 * 1024
    assert Image.open(written).width in [3 * width + 2 * gallery.GAP for width in gallery.WIDTHS[1:]]


def test_some_models_alone_join_the_record_of_the_same_seeds_and_spare_another(short, tmp_path, capsys):
    def ring(*arguments):
        compare.main(["ring", *arguments, *short])
        return json.loads((tmp_path / "docs/comparison.json").read_text()), capsys.readouterr().out

    name = runs.title("ring", short)
    first, said = ring("seeds=1", "models=ali_floor")
    assert "benchmarks.compare ring seeds=1 models=ali_floor evaluation.samples=40 'evaluation.steps=[0,1]'`" in said
    both, said = ring("seeds=1", "models=gibbsnet")
    assert both.keys() == {name} and "models=ali_floor,gibbsnet" in said
    assert both[name]["models"].keys() == {"ali_floor", "gibbsnet"}
    assert both[name]["models"]["ali_floor"] == first[name]["models"]["ali_floor"]
    page = (tmp_path / "docs/comparison.md").read_text()
    picture = (tmp_path / compare.figure("comparison", "ring", both[name])).read_bytes()
    kept, said = ring("seeds=2", "models=gibbsnet")
    assert kept == both and said.count(f"not written: docs/comparison.json has {name}") == 1 and "seeds=2" in said
    assert (tmp_path / "docs/comparison.md").read_text() == page
    assert (tmp_path / compare.figure("comparison", "ring", both[name])).read_bytes() == picture


def test_other_settings_make_a_table_of_their_own(tmp_path, monkeypatch, capsys):
    """Beside the first one, whatever their seeds and models are, with figures of its own."""
    monkeypatch.setattr(compare, "measure", lambda data, models, seeds, more: {
        "seeds": list(seeds), "settings": list(more),
        "models": {m: [{"chain/0/share": s, "chain/1/share": s / 2} for s in seeds] for m in models},
    })  # fmt: skip
    compare.main(["ring", "seeds=1,2", "models=ali"])
    compare.main(["ring", "seeds=3", "models=gibbsnet", "trainer.precision=bf16-mixed"])
    record = json.loads((tmp_path / "docs/comparison.json").read_text())
    assert {name: (found["seeds"], [*found["models"]]) for name, found in record.items()} == {
        "ring": ([1, 2], ["ali"]),
        "ring trainer.precision=bf16-mixed": ([3], ["gibbsnet"]),
    }
    compare.main(["grid", "seeds=3", "models=ali", "data.root=elsewhere", "trainer.threads=1"])
    page = (tmp_path / "docs/comparison.md").read_text()
    assert re.findall("## (.*)", page) == ["ring", "ring trainer.precision=bf16-mixed", "grid"]
    figures = re.findall(r"\]\(figures/(.*)\)", page)
    assert "comparison_ring.png" in figures and len(set(figures)) == 3
    assert {p.name for p in (tmp_path / "docs/figures").iterdir()} == set(figures)


def test_other_settings_are_run_in_folders_of_their_own(short, monkeypatch, tmp_path):
    """Else numbers of one would be read under the title of the other."""
    made = []
    monkeypatch.setattr(compare, "finished", lambda settings: made.append(settings) or settings)
    for more in ([], ["evaluation.seed=1"], ["a=-1", "data.root=elsewhere", "evaluation.seed=1"], ["a=1"]):
        compare.run("ring", "ali", 1, more)
    folders = [next(s for s in settings if s.startswith("run=")) for settings in made]
    names = ["ring", "ring_evaluation.seed=1", "ring_a=-1_evaluation.seed=1", "ring_a=1"]
    assert folders == [f"run=runs/compare/{name}/ali/1" for name in names]
    assert (
        runs.title("ring", ["b=1", "a=2"]) == runs.title("ring", ["a=2", "trainer.devices=2", "b=1"]) == "ring a=2 b=1"
    )
    assert "data.root=elsewhere" in made[2], "where it runs is said to the run all the same"
    monkeypatch.setattr(stability, "trained", lambda settings: made.append(settings) or {"run": str(tmp_path)})
    monkeypatch.setattr(stability, "score", lambda config: {})
    stability.run("ring", "n1", 1, ["evaluation.seed=1"])
    told = [made[-1], abilities.settings("levels", "passes", 1, ["evaluation.seed=1"])]
    folders = ["stability/ring_evaluation.seed=1/n1/1", "abilities/levels_evaluation.seed=1/passes/1"]
    assert all(f"run=runs/{folder}" in settings for folder, settings in zip(folders, told, strict=True))


def test_a_table_has_the_references_that_any_model_has():
    models = {
        "a": [{"samples/class_score": 9.0, "reference/test/class_score": 9.5}] * 2,
        "b": [{"samples/class_score": 8.0, "reference/pca/z/mse": 0.01}, {"samples/class_score": 8.5}],
        "c": [{"samples/class_score": 7.0, "reference/untrained_encoder/z2/probe_accuracy": 0.1}],
    }
    lines = runs.table({m: runs.summary(seeds) for m, seeds in models.items()}, compare.rows("digits"))
    assert lines[2:] == [
        "| samples/class_score | 9 | 8.25 [8 .. 8.5] | 7 |",
        "| reference/test/class_score | 9.5 | - | - |",
        "| reference/untrained_encoder/z2/probe_accuracy | - | - | 0.1 |",
    ], "what one seed lacks is nobody's median"


def test_further_seeds_of_all_the_models_join_the_record(tmp_path, capsys):
    def kept(seeds, of, *models, score=9.5):
        numbers = [{"from": of, "seed": s, "reference/test/class_score": score} for s in seeds]
        found = {"seeds": seeds, "settings": [], "models": {m: numbers for m in models}}
        record = runs.keep(tmp_path / "record.json", "ring", found, ["a", "b"])
        return record and {
            m: [(n["seed"], n["from"]) for n in of] for m, of in record["ring"]["models"].items()
        }, record and record["ring"]["seeds"]

    assert kept([2, 3], "first", "a", "more")[1] == [2, 3]
    written = (tmp_path / "record.json").read_text()
    for models in (["a"], ["a", "b"], ["b"], ["a", "more", "b"]):
        assert kept([1], "next", *models) == (None, None), "somebody would lack a seed"
        said = capsys.readouterr().out
        assert f"ring seeds=2,3 models=a,more judged 9.5, here: seeds=1 models={','.join(models)} judged 9.5." in said
    assert kept([1], "next", "a", "more", score=9.4) == (None, None) and "judged 9.4" in capsys.readouterr().out
    assert (tmp_path / "record.json").read_text() == written
    numbers = [(1, "next"), (2, "first"), (3, "next")]
    assert kept([1, 3], "next", "more", "a") == ({"a": numbers, "more": numbers}, [1, 2, 3])
    again = [(seed, "last") for seed in (1, 2, 3, 4)]
    assert kept([1, 2, 3, 4], "last", "a", "b", "more", score=9.4)[0] == {m: again for m in ("a", "b", "more")}


def test_spreads_are_replaced_by_all_their_seeds_and_models_alone(tmp_path, capsys):
    def kept(seeds, *models, settings=()):
        found = {"seeds": seeds, "settings": [*settings], "models": {m: {"of": seeds} for m in models}}
        record = runs.keep(tmp_path / "record.json", "ring", found, ["a", "b"])
        return record and record["ring"]["models"]

    assert kept([1], "a", "b", "more")
    assert kept([1, 2], "a", "b") is None and "not written" in capsys.readouterr().out, "more would be lost"
    assert kept([2], "a", "b", "more") is None, "seed 1 would be lost"
    assert kept([1, 2], "b", "a", "more") == {m: {"of": [1, 2]} for m in ("b", "a", "more")}
    assert kept([1, 2], "a", "more", settings=["s=1"]) is None
    assert kept([1, 2], "a", "b", "more", settings=["s=1"])


def test_seeds_come_after_what_an_older_record_kept_as_spreads(tmp_path, capsys):
    path = tmp_path / "record.json"
    old = {"seeds": [1], "settings": [], "models": {m: {"share": {"median": 1, "min": 1, "max": 1}} for m in "ab"}}
    path.write_text(json.dumps({"ring": old}))

    def kept(seeds, *models):
        found = {"seeds": seeds, "settings": [], "models": {m: [{"share": s} for s in seeds] for m in models}}
        record = runs.keep(path, "ring", found, ["a", "b"])
        return record and record["ring"]["models"]

    assert kept([2], "a", "b") is None and "not written" in capsys.readouterr().out, "spreads have no seeds to join"
    mixed = kept([1], "c")
    assert mixed == old["models"] | {"c": [{"share": 1}]}, "models join"
    assert kept([2], "a", "b", "c") is None and kept([1, 2], "a", "b") is None
    shown = stability.section("ring", json.loads(path.read_text())["ring"])
    assert not any("share" in line for line in shown) and any("| metric | a | b | c |" in line for line in shown)
    all_of_them = kept([1, 2], "a", "b", "c")
    assert all_of_them == {m: [{"share": 1}, {"share": 2}] for m in "abc"}, "and all seeds of all models replace them"


def test_seeds_are_chosen_once_each_and_in_order():
    assert runs.several({"models": "a,b", "seeds": "3,1,3"}, ["a", "b"]) == (["a", "b"], [1, 3])


def test_models_under_another_judge_do_not_join(tmp_path, capsys):
    def kept(model, score):
        seeds = [{"reference/test/class_score": score, "samples/class_score": 9.0}] if score else [{}]
        found = {"seeds": [1], "settings": [], "models": {model: seeds}}
        return runs.keep(tmp_path / "record.json", "digits", found, ["a", "b"])

    assert kept("old", None) and kept("a", 9.5), "of what is older the judge is not known"
    assert kept("b", 9.4) is None and "judged 9.5, here: seeds=1 models=b judged 9.4" in capsys.readouterr().out
    assert kept("b", 9.5)["digits"]["models"].keys() == {"old", "a", "b"}


def test_a_picture_is_drawn_from_the_record_alone(tmp_path, monkeypatch, capsys):
    drawn, curves = [], runs.curves
    monkeypatch.setattr(
        runs, "curves", lambda data, columns, base: drawn.append(columns) or curves(data, columns, base)
    )
    numbers = {"chain/0/share": 0.5, "chain/1/share": 0.6, "chain/switch_rate": 0.5, "reference/test/share": 0.9}
    more = numbers | {"chain/1/modes": 8, "reference/gaussian/share": 0.1}
    runs.redraw("ring", {"ali": [numbers], "more": [more]}, tmp_path / "curves.png")
    whole = {
        "chain": {"0": {"share": 0.5}, "1": {"share": 0.6}, "switch_rate": 0.5},
        "reference": {"test": {"share": 0.9}},
    }
    assert drawn.pop() == {"ali": [whole], "more": [whole]}, "what one of them lacks is not drawn"
    assert (tmp_path / "curves.png").stat().st_size and not capsys.readouterr().out
    runs.redraw("ring", {"ali": [numbers], "more": [{"chain/0/share": 1.0}]}, tmp_path / "none.png")
    assert "none.png is not drawn" in capsys.readouterr().out and not (tmp_path / "none.png").exists()
    summed = runs.summary([{"chain/switch_rate": v} for v in (3, 1, 1.5)])
    assert runs.summary(runs.spread_seeds(summed)) == summed
    assert stability.named({"n0": runs.spread_seeds(summed)}).keys() == {"n0 (switch rate 1.50)"}


@pytest.mark.parametrize("name", ["a", "a name of some length (switch rate 0.50)", "long " * 60])
def test_a_legend_ends_within_its_picture_if_a_name_can(name):
    metrics = {"chain": {str(i): {"share": 0.5} for i in (0, 1)}}
    figure = runs.curves("ring", {f"{name} {k}": [metrics] for k in range(6)})
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert len(figure.legends) == 1 and len(figure.legends[0].get_texts()) == 6
    assert name.startswith("long") or figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize("scores", [1, 3, 5])
@pytest.mark.parametrize("name", ["a", "a name of some length (switch rate 0.50)", "long " * 60])
def test_a_crowd_s_names_leave_its_panels_room(name, scores):
    metrics = {"chain": {str(i): dict.fromkeys(OVER_STEPS[:scores], 0.5) for i in (0, 1)}}
    figure = runs.curves("ring", {f"{k} {name} {k}": [metrics] for k in (3, 1, 4, 0, 5, 9, 2)})
    figure.draw_without_rendering()
    legends = [panel.get_legend() for panel in figure.axes if panel.get_legend()]
    assert not figure.legends and len(legends) == 2
    assert [text.get_text()[0] for legend in legends for text in legend.get_texts()] == list("3140592"), (
        "the record's order"
    )
    assert all(legend.get_window_extent().x1 <= figure.bbox.x1 + 1 for legend in legends)
    assert min(panel.bbox.width for panel in figure.axes) > 0.5 * figure.bbox.width / scores - 20


def test_stability_is_recorded_and_drawn(short, tmp_path, capsys):
    stability.main(["data=ring", "seeds=1", "models=n0,unshared,learned", "steps=4", *short])
    table = runs.title("ring", ["steps=4", *short])
    record = json.loads((tmp_path / "docs/stability.json").read_text())[table]
    assert record["models"].keys() == {"n0", "unshared", "learned"}
    (numbers,) = record["models"]["n0"]
    assert all(f"chain/{i}/joint_distance" in numbers for i in (0, 1, 3))
    assert "reference/test/share" in numbers, "the picture shows it"
    assert "reference/test/joint_distance" in (tmp_path / "docs/stability.md").read_text()
    figure = tmp_path / f"docs/figures/stability_{runs.file(table)}.png"
    assert figure.stat().st_size < 200 * 1024


def test_a_further_seed_of_stability_joins_and_what_is_shown_spreads(short, tmp_path, capsys):
    for seed in (1, 2):
        stability.main(["data=ring", f"seeds={seed}", "models=n0,n1", "steps=4", *short])
    table = runs.title("ring", ["steps=4", *short])
    found = json.loads((tmp_path / "docs/stability.json").read_text())[table]
    assert found["seeds"] == [1, 2] and "seeds=1,2 " in (page := (tmp_path / "docs/stability.md").read_text())
    one, two = (numbers["chain/3/joint_distance"] for numbers in found["models"]["n1"])
    assert one != two and f"{(one + two) / 2:.4g} [{min(one, two):.4g} .. {max(one, two):.4g}]" in page


def test_what_older_records_kept_as_spreads_is_shown_as_they_were(monkeypatch):
    seeds = [{"chain/1/share": v, "chain/switch_rate": v} for v in (0.2, 0.9, 0.5)]
    found = {"seeds": [1, 2, 3], "settings": []}
    kept = {"n0": seeds, "n1": runs.summary(seeds)}
    by_seed, spread = (stability.section("ring", {**found, "models": {"n0": of}}) for of in kept.values())
    assert by_seed == spread and "| chain/1/share | 0.5 [0.2 .. 0.9] |" in spread
    drawn = []
    monkeypatch.setattr(stability, "redraw", lambda data, models, path, named, base: drawn.append(models))
    stability.draw("ring", {**found, "models": kept})
    assert drawn[0]["n0"] == seeds and runs.summary(drawn[0]["n1"]) == kept["n1"]
    assert stability.named({"n0": [{}, *seeds], "n1": [{}]}).keys() == {"n0 (switch rate 0.50)", "n1"}


def test_a_number_that_some_seeds_lack_is_kept_of_the_others(monkeypatch):
    numbers = {1: {"chain": {"switch_rate": None, "1": {"share": 0.5}}}, 2: {"chain": {"switch_rate": 0.25}}}
    monkeypatch.setattr(stability, "run", lambda data, v, seed, more: numbers[seed])
    found = stability.measure("ring", ["n0"], [1, 2])["models"]["n0"]
    assert found == [{"chain/1/share": 0.5}, {"chain/switch_rate": 0.25}]


def test_other_settings_are_a_table_of_their_own(short, tmp_path, capsys):
    settings = [runs.title("ring", [f"steps={n}", *short]) for n in (2, 4)]
    for n in (2, 4):
        stability.main(["data=ring", "seeds=1", "models=n0", f"steps={n}", *short])
    record = json.loads((tmp_path / "docs/stability.json").read_text())
    assert list(record) == settings, "neither takes the place of the other"
    assert re.findall("## (.*)", (tmp_path / "docs/stability.md").read_text()) == settings
    linked = re.findall(r"\(figures/(.*)\)", (tmp_path / "docs/stability.md").read_text())
    assert linked == [f"stability_{runs.file(table)}.png" for table in settings]
    assert {path.name for path in (tmp_path / "docs/figures").glob("stability_*.png")} == set(linked)


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        (compare, [], "which data"),
        (compare, ["ring", "models=vae"], "models=vae"),
        (compare, ["ring", "sedes=1"], "unknown key 'sedes'"),
        (compare, ["ring", "seeds=a"], "seeds=a: expected an integer"),
        (compare, ["ring", "clock=a"], "clock=a"),
        (compare, ["ring", "clock=2", "device=tpu"], "device=tpu: expected cpu, or cuda"),
        (compare, ["ring", "clock=2", "pictures=beside"], "clock=2 pictures=beside: one or the other"),
        (abilities, ["phases", "clock=2", "pictures=beside"], "clock=2 pictures=beside: one or the other"),
        (compare, ["ring", "pictures=1"], "pictures=1: expected the word .* for example beside"),
        (compare, ["ring", "pictures=a/b"], "pictures=a/b: expected the word"),
        (compare, ["ring", "evaluation.split=validation"], "evaluation.split=validation: leave it out here"),
        (results, ["digits", "clock=a"], "clock=a"),
        (stability, ["models=n7"], "models=n7"),
        (stability, ["seeds=1,"], "seeds=: expected an integer"),
        (labels, ["run=none", "samples=abc"], "samples=abc: expected an integer"),
        (labels, ["run=none", "sample=abc"], "unknown 'sample': expected run=FOLDER, split=test"),
        (fill, ["run=none", "images=some"], "images=some"),
        *((c, [], "which run") for c in (approach, fill, labels, settle, walk)),
        *((c, ["run=none"], "none/config.yaml does not exist") for c in (approach, fill, labels, settle, walk)),
        *((c, ["run=none", "chains=5"], "unknown 'chains'") for c in (approach, fill, labels, settle)),
    ],
)
def test_what_is_not_there_is_one_line(command, arguments, words):
    with pytest.raises(SystemExit, match=words) as said:
        command.main(arguments)
    assert "\n" not in str(said.value)


def test_a_folder_of_another_configuration_is_one_line(tmp_path):
    settings = ["data=ring", f"run={tmp_path}", "steps=1", "trainer.progress=false"]
    runs.trained(settings)
    with pytest.raises(SystemExit, match=r"another configuration \(steps\)") as said:
        runs.trained([*settings, "steps=2"])
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("cut, at", [("max_time=00:00:00:02", r"[1-9]\d*"), ("fast_dev_run=true", "0")])
def test_a_training_that_was_cut_short_is_not_scored(cut, at, tmp_path):
    settings = ["data=ring", f"run={tmp_path / 'run'}", "steps=100000", "trainer.progress=false", f"trainer.{cut}"]
    with pytest.raises(SystemExit, match=f"run has {at} of its 100000 steps, .* leave trainer.max_time .* out") as said:
        runs.finished(settings)
    assert "\n" not in str(said.value) and not (tmp_path / "run" / "metrics.json").exists()


def test_scores_of_a_training_that_has_gone_on_since_are_made_anew(tmp_path, monkeypatch):
    scored, best = [], tmp_path / "checkpoints" / "best.ckpt"

    def evaluated(config):
        scored.append(fingerprint(best))
        write_json({}, tmp_path / "metrics.json")
        said = {"checkpoint": scored[-1], "metrics": fingerprint(tmp_path / "metrics.json")}
        write_json(said, tmp_path / "scored.json")

    monkeypatch.setattr(runs, "evaluate", evaluated)
    settings = ["data=ring", f"run={tmp_path}", "steps=1", "trainer.progress=false"]
    for _ in range(2):
        runs.finished(settings)
    assert len(scored) == 1, "they are not made again"
    best.write_bytes(best.read_bytes() + b"more")  # as if it had gone on
    for _ in range(2):
        runs.finished(settings)
    assert len(set(scored)) == len(scored) == 2
    (tmp_path / "scored.json").unlink()  # an earlier version's do not say whose they are
    runs.finished(settings)
    assert len(scored) == 2


def test_a_game_that_cannot_be_trained_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="ALI is trained without further sweeps") as said:
        runs.finished(["model=ali", "chains.unclamped.steps=1", f"run={tmp_path}"])
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("latents, classes, words", [(["z1", "z2"], 8, "the latents z1, z2"), (["z"], 0, "no classes")])
def test_an_approach_is_of_one_latent_and_goes_between_classes(monkeypatch, latents, classes, words):
    data = SimpleNamespace(data=SimpleNamespace(name="mine", classes=classes), shape=(2,), digest=None)
    monkeypatch.setattr(approach, "read", lambda run: {})
    monkeypatch.setattr(approach, "datamodule", lambda config: data)
    monkeypatch.setattr(approach, "load_run", lambda *arguments: SimpleNamespace(latents=latents))
    with pytest.raises(SystemExit, match=words):
        approach.main(["run=two"])


@pytest.mark.parametrize("command", [approach, fill, labels, settle])
def test_a_run_is_held_against_the_data_it_was_trained_on(command, monkeypatch):
    def refused(run, config, shape, digest):
        raise ConfigError(f"digest {digest}")

    data = SimpleNamespace(data=None, shape=(2,), digest="d1")
    monkeypatch.setattr(command, "read", lambda run: {"graph": {"y": {}}})
    monkeypatch.setattr(command, "datamodule", lambda config: data)
    monkeypatch.setattr(command, "prepare", lambda config: "judge")
    monkeypatch.setattr(command, "load_run", refused)
    with pytest.raises(SystemExit, match="digest d1"):
        command.main(["run=mine"])


@pytest.mark.parametrize("name", ["comparison", "stability"])
def test_the_pages_are_those_of_the_records(name):
    path = ROOT / "docs" / f"{name}.json"
    if path.exists():
        page = {"comparison": compare, "stability": stability}[name].page(json.loads(path.read_text()))
        assert "\n".join(page) == (ROOT / "docs" / f"{name}.md").read_text()


def test_equal_time_is_more_steps_for_who_is_faster():
    assert compare.equal_time({"ali": 5.0, "gibbsnet": 6.0, "untied": 8.0}, "gibbsnet", 8000) == {
        "ali": 9600, "gibbsnet": 8000, "untied": 6000
    }  # fmt: skip


def test_the_long_contenders_are_the_short_ones():
    """With as much more time for each."""
    for m in compare.STEPS["mnist_long"]:
        alike = [load([*compare.settings(data, m), "steps=8", "every.validate=8"]) for data in ("mnist", "mnist_long")]
        assert differences(*alike) == []


def test_the_recipe_s_contenders_take_equal_time_in_recorded_steps():
    table = (ROOT / "docs/scale.md").read_text().partition("replayed, fp32")[2]
    ms = [float(re.search(rf"\| {name}.*?\| [\d.]+ \| ([\d.]+) \|", table)[1]) for name in ("ALI", "GibbsNet")]
    ali, gibbsnet = compare.STEPS["cifar10_long"].values()
    assert gibbsnet == pytest.approx(ali * ms[0] / ms[1], abs=500)


@pytest.mark.parametrize(
    "words, base",
    [
        (["mnist", "models=ali,gibbsnet"], "gibbsnet"),
        (["mnist", "models=gibbsnet_short,ali"], "gibbsnet_short"),
        (["cifar10_long"], "ali_floor"),
    ],
)
def test_a_clock_tells_what_takes_as_long_as_a_model_that_it_timed(words, base, monkeypatch, capsys):
    monkeypatch.setattr(compare, "clock", lambda configs, many, device: dict.fromkeys(configs, 2.0))
    compare.main([*words, "clock=1"])
    steps = compare.STEPS[words[0]][base]
    assert set(ast.literal_eval(capsys.readouterr().out.splitlines()[1]).values()) == {steps}


@pytest.mark.parametrize("data", [data for data in compare.DATA if not data.endswith("_long")])
def test_the_step_counts_are_those_of_times_that_round_to_the_printed_ones(data):
    text = (ROOT / "docs/lab/comparison.md").read_text().partition("CPU milliseconds of a step")[2]
    printed = re.search(rf"\| {data} \|([\d.| ]+)\|\n", text)[1].split("|")
    ms = dict(
        zip(
            (
                "ali",
                "ali_cycle",
                "gibbsnet",
                "gibbsnet_persistent",
                "gibbsnet_cycle",
                "gibbsnet_short",
                "gibbsnet_mixed",
                "gibbsnet_cut",
                "untied",
            ),
            map(float, printed),
            strict=True,
        )
    )
    steps = compare.STEPS[data]
    for m in ms.keys() & steps:
        least, most = (steps["gibbsnet"] * (ms["gibbsnet"] - e) / (ms[m] + e) for e in (0.05, -0.05))
        assert m == "gibbsnet" or round(least / 100) * 100 <= steps[m] <= round(most / 100) * 100, m
        assert steps["ali_floor"] == steps["ali"]


# The approach, on tables


def test_the_second_eigenvalue_and_the_slope_are_found_on_tables():
    _, _, q, _, p, _ = world(7, 4, 3, sharp=2.5)
    second = torch.linalg.eigvals(torch.tensor(kernel(q, p))).abs().sort(descending=True).values[1]
    g, n = tabled(q, p), 5000
    start = {"z": torch.eye(3, dtype=torch.float64)[torch.zeros(n, dtype=torch.long)]}
    states = zip(range(100), Chain(["z", "x"], ["z", "x"]).trajectory(g, Noise(0), start, batch=n), strict=False)
    visited = torch.stack([state["x"].argmax(1) for _, state in states])
    found, pi = approach.settles(approach.transitions([visited], 5, 1), 1)
    assert found == pytest.approx(float(second), abs=0.02) and float(pi.sum()) == pytest.approx(1) and pi[4] == 0
    expected = unclamped_laws(q, p, torch.eye(3).numpy()[0], 1000)[-1].sum(1)
    assert (pi[:4] - torch.tensor(expected)).abs().max() < 0.01
    distance = 0.4 * 0.9 ** torch.arange(60.0).double() + 1e-4
    assert approach.rate(distance, 0.01) == pytest.approx(0.9, abs=0.005) and approach.rate(distance, 0.3) is None


def test_a_walk_in_circles_is_told_from_one_that_stays():
    """Three classes: each to the next in .9 of the sweeps, or in .9 to itself; a fourth where nobody ever was."""
    stays = torch.zeros(4, 4, dtype=torch.float64)
    stays[:3, :3] = 85 * torch.eye(3) + 5
    found, circles = walk.walked(stays), walk.walked(stays[[1, 2, 0, 3]])
    assert found["stays"] == pytest.approx(0.9) and circles["stays"] == pytest.approx(0.05)
    assert [pytest.approx(v, abs=1e-6) for v in found["eigenvalues"]] == [(1, 0), (0.85, 0), (0.85, 0)]
    assert sorted((round(size, 6), round(abs(angle))) for size, angle in circles["eigenvalues"]) == [
        (0.85, 120)
    ] * 2 + [(1, 0)]
    assert circles["transitions"][0] == pytest.approx([0.05, 0.9, 0.05, 0]) and circles["transitions"][3] == [0] * 4


def test_a_model_s_walk_is_written_and_told(tmp_path, monkeypatch, capsys):
    m, data = module("gibbsnet", "ring").float(), DataModule("ring")
    data.setup()
    monkeypatch.setattr(walk, "opened", lambda run: (m, yardstick(data.data, None, data.data.train), data))
    walk.main([f"run={tmp_path}", "chains=50"])
    found, said = json.loads((tmp_path / "walk.json").read_text()), capsys.readouterr().out
    assert (
        len(found["transitions"]) == 8 and 0 <= found["stays"] <= 1 and found["eigenvalues"][0][0] == pytest.approx(1)
    )
    assert f"{found['stays']:.2f} stay" in said and said.count(" -> ") == 8


def test_a_mixture_starts_where_the_codes_are():
    """Two clusters: one Gaussian's draws would lie between them."""
    side = torch.tensor([[-3.0, 1.0], [3.0, 2.0]])[(torch.arange(400) % 4 == 3).long()]
    drawn = approach.mixture(side + 0.1 * torch.randn(400, 2), 2, 2000, 0)
    right = drawn[:, 0] > 0
    assert drawn.shape == (2000, 2) and drawn.dtype == torch.float32 and drawn[:, 0].abs().min() > 2
    expected = (side[:, 0] > 0).double().mean()
    assert (right.double().mean() - expected).abs() < 5 * (expected * (1 - expected) / 2000) ** 0.5
    assert drawn[right].mean(0).tolist() == pytest.approx([3, 2], abs=0.05)


@pytest.mark.parametrize("newest, held", [("", True), ("d", True), ("d/mixture", True), ("d/mix", False), ("e", False)])
def test_a_measure_that_has_grown_is_taken_again(newest, held, tmp_path):
    assert not abilities.measured(tmp_path / "none.json", newest)
    (tmp_path / "approach.json").write_text(json.dumps({"d": {"mixture": {"0": 0.5}}, "half_life": None}))
    assert abilities.measured(tmp_path / "approach.json", newest) is held


def test_the_approach_of_a_model_has_all_its_starts():
    m, data = module("gibbsnet", "ring").float(), DataModule("ring")
    data.setup()
    found = approach.approach(m, yardstick(data.data, None, data.data.train), data, 200, 30)
    assert found["distance"].keys() == {"one class", "N(0, 1)", "learned", "mixture", "data"}
    assert all(len(d) == 31 and 0 <= min(d) <= max(d) <= 1 for d in found["distance"].values())
    assert 0 <= found["second"] <= 1 + 1e-6 and sum(found["pi"]) == pytest.approx(1)


# The aim


def scored(late, keeps, score=8.0):
    """A run's numbers, as the record has them of images."""
    return {
        "chain/1000/class_frechet_ratio": late, "chain/1000/joint_distance": 2 * late, "samples/class_score": score,
        "chain/1/class_score": 7.0, "chain/3/class_score": 9.0, "reconstruction/z/same_class": keeps,
    }  # fmt: skip


def test_the_aim_counts_the_seeds_in_which_gibbsnet_is_ahead():
    row, measures = aim.Row("a floor", "digits", "ali", "gibbsnet"), {m.words: m for m in aim.MEASURES}
    record = {
        "digits": {
            "seeds": [1, 2, 3],
            "models": {
                "ali": [scored(0.2, 0.5), scored(0.1, 0.5), scored(0.3, 0.9)],
                "gibbsnet": [scored(0.1, 0.6, 8.5), scored(0.4, 0.7), scored(0.1, 0.8, 7)],
            },
        }
    }
    late, surer = measures["late: class_frechet_ratio"], measures["surer, each at its N"]
    assert aim.leads(record, row, late) == pytest.approx([2, 1 / 4, 3])
    assert aim.leads(record, row, surer) == pytest.approx([0.05, 0, -0.1]), "tenths of a class score"
    counts = {words: aim.ahead(record, row, measure) for words, measure in measures.items()}
    assert counts == {
        "late: class_frechet_ratio": "2", "late: joint_distance": "2", "surer, each at its N": "1",
        "surer, after 1 sweep of each": "0", "surer, after 3 of each": "0", "z keeps more": "2",
    }, "level is not ahead"  # fmt: skip
    told = {words: aim.medians(record, row, measure) for words, measure in measures.items()}
    assert told["late: class_frechet_ratio"] == "0.10, 0.20 (2)", "GibbsNet's, ALI's"
    assert told["surer, each at its N"] == "8.00, 8.00 (1)" and told["z keeps more"] == "0.70, 0.50 (2)"
    for seed in (s for of in record["digits"]["models"].values() for s in of):
        del seed["chain/1000/class_frechet_ratio"]
    assert aim.ahead(record, row, late) == aim.medians(record, row, late) == "", "a toy has no such distance"


def test_the_pages_count_what_the_record_holds():
    record = json.loads((ROOT / aim.RECORD).read_text())
    for page, marks, lines in aim.BLOCKS:
        written = (ROOT / page).read_text().partition(marks[0])[2].partition(marks[1])[0].split("\n")
        assert [line for line in written if line] == lines(record), f"{page}: python -m benchmarks.aim writes it again"


def test_the_aim_says_who_is_ahead_by_all_of_the_distances(monkeypatch):
    row, both = (
        aim.Row("a floor", "digits", "ali", "gibbsnet"),
        aim.QUESTIONS["nearer after 1000 sweeps, by both distances"],
    )
    ali = [scored(0.2, 0.5) for _ in range(5)]

    def said(*gibbsnet, words=both):
        record = {"digits": {"seeds": list(range(5)), "models": {"ali": ali[: len(gibbsnet)], "gibbsnet": gibbsnet}}}
        monkeypatch.setattr(aim, "ROWS", {"digits": (row,)})
        counted = {line.split(" | ")[0].strip("| "): line.split(" | ")[1].strip("| ") for line in aim.tally(record)[2:]}
        named = aim.verdict(record, row, words)
        (question,) = (q for q, w in aim.QUESTIONS.items() if w == words)
        assert counted[question] == {"GibbsNet": "1, 0, 0", "ALI": "0, 1, 0", "neither": "0, 0, 1"}[named]
        return named

    near, far, level = scored(0.1, 0.6), scored(0.4, 0.4), scored(0.2, 0.5)
    assert said(near, near, near, near, far) == "GibbsNet" and said(far, far, far, far, near) == "ALI"
    assert said(near, near, near, far, far) == said(near, near, near, level, level) == said(*[level] * 5) == "neither"
    assert said(near, near) == "GibbsNet" and said(near, far) == "neither" and said(far, far) == "ALI"
    assert said(*[near | {"chain/1000/joint_distance": 1.0}] * 5) == "neither", "the distances disagree"
    assert said(*[{k: v for k, v in near.items() if "ratio" not in k}] * 5) == "GibbsNet", "a toy has one distance"
    assert (
        said(*[near] * 5, words=("z keeps more",)) == "GibbsNet" and said(*[far] * 5, words=("z keeps more",)) == "ALI"
    )


def test_every_pair_of_the_aim_has_the_floors_that_its_row_names():
    """One floor under q(z|x) for both, but where the row says what ALI has or that each has its own."""
    for data, rows in aim.ROWS.items():
        for row in rows:
            name, *more = row.table.split()
            configs = [load(compare.settings(name, model, more)) for model in (row.ali, row.gibbsnet)]
            ali, gibbsnet = (config["graph"]["z"]["floor"] for config in configs)
            named = re.match(r"(?:half an hour, )?(?:floor |ALI's own, )?(\.\d+)", row.words)
            named = named or re.search(r", (\.\d+)(?:, ALI \.\d+)?$", row.words)
            ali_named = re.search(r"ALI (\.\d+)$", row.words)
            assert float(named[1]) == round(gibbsnet, 2), (data, row)
            assert float((ali_named or named)[1]) == round(ali, 2), (data, row)
            assert ("cycle loss for both" in row.words) == (
                configs[0]["game"]["cycle"] == configs[1]["game"]["cycle"] > 0
            )
            assert ("cycle loss for ALI" in row.words) == (configs[0]["game"]["cycle"] > configs[1]["game"]["cycle"])
            assert configs[0]["game"]["shift"] == configs[1]["game"]["shift"] == int("moved" in row.words), (data, row)
            if "each" not in row.words:
                assert configs[0]["penalty"] == configs[1]["penalty"], (data, row)
            persistent = configs[1]["chains"]["unclamped"]["persistent"] > 0
            assert persistent != any(w in row.words for w in ("published", "anew")) or data == "grid", (data, row)


def test_the_aim_is_drawn_and_written_between_its_marks_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / aim.RECORD).write_text((ROOT / aim.RECORD).read_text())
    for page in (aim.PAGE, aim.BRIEF):
        blocks = [line for at, marks, _ in aim.BLOCKS if at == page for line in (marks[0], "old", marks[1], "between")]
        (tmp_path / page).write_text("\n".join(["before", *blocks, "after", ""]))
    monkeypatch.chdir(tmp_path)
    aim.main([])
    short, page = aim.BRIEF.read_text(), aim.PAGE.read_text()
    for text in (short, page):
        assert text.startswith("before\n") and text.endswith("\nbetween\nafter\n") and "old" not in text
    assert page.count("\nbetween\n") == 2 and "rows in which GibbsNet" in page
    assert all(f"| {name} | " in short for name in aim.SETTINGS)
    assert all(line in page for line in capsys.readouterr().out.splitlines())
    with Image.open(aim.FIGURE) as picture:
        assert picture.size[0] > 1200
    assert aim.FIGURE.stat().st_size < 200 * 1024
    aim.PAGE.write_text("no marks")
    with pytest.raises(SystemExit, match="expected the lines"):
        aim.main([])
    with pytest.raises(SystemExit, match="takes nothing"):
        aim.main(["data=digits"])
    assert aim.PAGE.read_text() == "no marks"
