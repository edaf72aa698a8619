"""The benchmark of a training step runs end to end; how fast anything is, is not asserted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from benchmarks import abilities, results, scale, soak, step
from benchmarks.alternating import Alternating
from benchmarks.contenders import LOOP, REST, Entry, batch_of, clock, contender, entries, module_of
from gibbsnet.config import differences, load
from gibbsnet.evaluate import write_json
from gibbsnet.modules import GibbsNet, build

CPU = torch.device("cpu")


def test_a_quick_run_has_every_row_and_writes_what_it_prints(tmp_path, capsys):
    found = step.main(["--quick", "--rounds", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert [row.entry for row in found] == entries("digits", everything=False)
    assert all(row.ms > 0 and row.mmac > 0 for row in found)
    lines = step.table(found).splitlines()
    assert len(lines) == len(found) + 2 and len({len(line) for line in lines}) == 1
    assert all(line in printed and line in (tmp_path / "step-cpu.md").read_text() for line in lines)
    written = json.loads((tmp_path / "step-cpu.json").read_text())
    assert len(written["rows"]) == len(found) and written["targets"] and written["torch"] == torch.__version__


@pytest.mark.slow
def test_memory_is_measured_for_steps_in_fresh_processes():
    one, sweep = Entry("digits", "ALI"), Entry("digits", REST)
    peak = step.peaks([one, sweep], CPU)
    assert peak.keys() == {one} and 1 < peak[one] < 1000


def test_the_full_table_has_every_model_precision_penalty_and_chain():
    found = entries("digits", everything=True)
    assert len(set(found)) == len(found)
    for precision in ("fp32", "bf16"):
        for penalties in (False, True):
            names = {e.name for e in found if (e.precision, e.penalties) == (precision, penalties)}
            assert {"ALI", "HALI", *(f"GibbsNet N={n}" for n in (0, 1, 3, 5, 10))} <= names
        assert Entry("digits", LOOP, precision) in found
    assert set(entries("cifar10", everything=False)) < set(entries("cifar10", everything=True))


def test_one_pass_takes_the_arithmetic_that_it_promises():
    """ALI's layers by hand, multiply-adds per image: encoder E, decoder P, critic D on each of two pairs."""
    module = module_of("digits", "ali", CPU)
    encoder, decoder, critic = (
        sum(p.numel() for p in net.parameters() if p.ndim == 2) / 1e6
        for net in (module.graph["z"], module.graph["x"], module.critics)
    )
    # The graph is not differentiated by what begins a chain: real x, and z from the prior.
    begins = (64 + module.graph["z"].shape[0]) * 256 / 1e6
    one_pass, two_passes = (step.macs(Entry("digits", "ALI", rescale=on)) for on in (True, False))
    assert one_pass == pytest.approx(3 * (encoder + decoder) + 6 * critic - begins, rel=1e-3)
    # The second pass goes to the critic's inputs alone, and the first no longer to them.
    assert two_passes - one_pass == pytest.approx(2 * critic - 2 * begins, rel=1e-3)
    assert step.macs(Entry("digits", LOOP)) > 1.2 * one_pass


def test_contenders_that_share_a_module_keep_their_own_rules():
    module, x = module_of("digits", "gibbsnet", CPU), batch_of("digits", CPU)
    plain = Entry("digits", "GibbsNet N=3", model="gibbsnet", steps=3)
    for entry in (plain, replace(plain, penalties=True), plain):
        module.penalties.clear()  # they stay until others are taken
        contender(entry, module, x)()
        assert ("penalty_x" in module.diagnostics) == entry.penalties and module.N == 3


@pytest.mark.parametrize("frugal", [True, False])
def test_the_alternating_loop_moves_both_players_alike(frugal):
    module = module_of("digits", "ali", CPU)
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    torch.manual_seed(0)
    Alternating(module, frugal)(batch_of("digits", CPU))
    moved = {n for n, p in module.named_parameters() if p.requires_grad and not torch.equal(p, before[n])}
    assert moved == {n for n in before if not n.startswith("ema.")}


def test_a_floor_is_a_relation_between_a_metric_and_a_number_or_a_metric():
    found = {"a/b": 1.0, "a/c": 2.0}
    floors = ["a/b >= 1", "a/b > 1", "a/c > a/b", "a/b > a/c", "a/c <= 1.5", "a/missing >= 0", "a/b > a/missing"]
    assert list(results.verdicts(floors, [found]).values()) == [1, 0, 1, 0, 0, 0, 0]


def test_every_floor_names_what_a_run_measures(tmp_path):
    """On the record that the tables in docs were made from."""
    record = json.loads((ROOT / "docs" / "results.json").read_text())
    for experiment, models in results.FLOORS.items():
        for model, floors in models.items():
            known = record[experiment]["models"][model]
            for floor in floors:
                names = [word for word in floor.split() if "/" in word]
                assert set(names) <= set(known), (experiment, model, floor)
    committed = (ROOT / "docs" / "results.md").read_text()
    assert "\n".join(results.page({e: record[e] for e in results.TABLES if e in record})) == committed


def test_what_the_tables_show_was_made_as_they_would_make_it_today():
    record = json.loads((ROOT / "docs" / "results.json").read_text())
    today = {e: {m: results.made(e, m) for m in models} for e, (_, models) in results.TABLES.items()}
    assert {e: found["made"] for e, found in record.items()} == today


def test_the_tables_cost_is_that_of_their_steps(monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(results, "clock", lambda configs, rounds: asked.update(configs) or dict.fromkeys(configs, 20.0))
    results.main(["digits", "clock=3"])
    assert capsys.readouterr().out.splitlines() == [
        f"digits/{m}: 20.0 ms a step, {config['steps'] / 50:.0f} CPU seconds" for m, config in asked.items()
    ]
    assert asked["hali"]["size"]["floor"] == 0.12 and asked["ali"]["steps"] == 15200
    results.main(["digits", "clock=3", "models=ali"])
    assert capsys.readouterr().out == "digits/ali: 20.0 ms a step, 304 CPU seconds\n"


def test_a_clock_runs_every_configuration_s_steps(monkeypatch):
    configs = {m: load([f"model={m}", "data=ring"]) for m in ("ali", "gibbsnet")}
    steps = []
    monkeypatch.setattr(GibbsNet, "training_step", lambda self, batch: steps.append(len(batch["x"])))
    found = clock(configs, rounds=3, calls=2)
    assert steps == [128] * 12 and found.keys() == {"ali", "gibbsnet"} and min(found.values()) >= 0


@pytest.mark.parametrize("steps, lazy, rounds", [(2000, 1, 3), (2000, 4, 12), (2000, 8, 5), (2000, 3, 2), (20, 8, 9)])
def test_a_clock_s_steps_are_of_the_whole_run_and_lazy_ones_as_often_as_they_are(steps, lazy, rounds, monkeypatch):
    """N may rise as training goes, and every `lazy`-th step has penalties."""
    at = []
    monkeypatch.setattr(GibbsNet, "training_step", lambda self, batch: at.append(self.trainer.global_step))
    clock({"gibbsnet": load(["data=ring", f"steps={steps}", f"game.lazy={lazy}"])}, rounds, calls=40)
    assert len(at) == 40 * rounds and min(at) >= 0 and max(at) < steps
    late = sum(step >= 0.6 * steps for step in at) / len(at)
    assert late == pytest.approx(0.4, abs=0.03 if steps == 2000 else 0.1)
    assert steps < 40 or sum(step % lazy == 0 for step in at) / len(at) == pytest.approx(1 / lazy, abs=1 / 40)
    assert steps < 40 or not set(at[:40]) & set(at[40:80])


def test_some_models_alone_join_those_that_would_be_made_the_same_way(monkeypatch):
    monkeypatch.setattr(results, "run", lambda experiment, model, seed: (model, seed))
    monkeypatch.setattr(results, "numbers", lambda run: {"samples/class_score": float(run[1])})
    whole = results.measure("digits")
    seeds = {m: of[1] for m, of in results.TABLES["digits"][1].items()}
    assert {m: v["samples/class_score"]["median"] for m, v in whole["models"].items()} == {
        m: s[1] for m, s in seeds.items()
    }
    other = {part: {**of, "ali": of["ali"] if part == "made" else "kept"} for part, of in whole.items()}
    found = results.measure("digits", ["gibbsnet"], other)
    assert (
        list(found["models"]) == ["ali", "hali", "gibbsnet"]
        and found["models"]["ali"] == found["floors"]["ali"] == "kept"
    )
    foreign = {**other, "made": {**other["made"], "ali": "ali, seeds 1"}}
    assert list(results.measure("digits", ["gibbsnet"], foreign)["models"]) == ["hali", "gibbsnet"]
    alone = {
        "digits": results.measure("digits", ["hali"]),
        "digits_floor": results.measure("digits_floor", ["gibbsnet"]),
    }
    assert results.digest(alone) == [] and "hali" in "".join(results.page(alone))
    with pytest.raises(SystemExit, match="unknown experiment 'digit'"):
        results.main(["digit"])
    with pytest.raises(SystemExit, match="models=halo"):
        results.main(["digits", "models=halo"])


def test_what_stands_between_the_marks_is_replaced_and_nothing_else():
    text = "before\n<a>\nold\n<b>\nafter"
    once = results.between(text, ("<a>", "<b>"), ["new"])
    assert once == "before\n<a>\n\nnew\n\n<b>\nafter"
    assert results.between(once, ("<a>", "<b>"), ["new"]) == once


@pytest.mark.slow
def test_a_short_soak_finds_nothing_and_what_is_spoilt(tmp_path, monkeypatch):
    assert soak.main(["--runs", "2", "--out", str(tmp_path / "soak.md")]) == 0
    said = (tmp_path / "soak.md").read_text()
    assert "| all | 2 |" in said and said.rstrip().endswith("| 2 of 2 |")
    disturbed = soak.Soak.disturbed

    def spoilt(self, run, model, tally):
        complaint = disturbed(self, run, model, tally)
        with (run / "history.jsonl").open("a") as record:
            record.write("{}\n")
        return complaint

    monkeypatch.setattr(soak.Soak, "disturbed", spoilt)
    assert soak.main(["--runs", "1", "--kills", "1", "--out", str(tmp_path / "soak.md")]) == 1
    assert "run 0 differs in history.jsonl" in (tmp_path / "soak.md").read_text()


def test_a_sweep_more_costs_an_encoder_and_a_decoder_pass():
    counts = [scale.mmac(scale.work(scale.Case(steps=n, batch=4)), 4) for n in (3, 5, 10)]
    module = module_of("digits", "gibbsnet", CPU)
    one = (
        sum(p.numel() for net in (module.graph["z"], module.graph["x"]) for p in net.parameters() if p.ndim == 2) / 1e6
    )
    assert counts[1] - counts[0] == pytest.approx(2 * one) and counts[2] - counts[1] == pytest.approx(5 * one)


def test_convolutions_fit_every_side_and_cost_by_the_pixel():
    counts = {side: scale.mmac(scale.work(scale.Case("ali", 0, side, 2)), 2) for side in (8, 16, 32)}
    assert 3 < counts[16] / counts[8] < 8 and 3 < counts[32] / counts[16] < 8


def test_a_ring_s_arithmetic():
    assert scale.exchange(57.9e6, 1) == 0
    assert scale.exchange(57.9e6, 64) == pytest.approx(2 * 63 / 64 * 57.9e6 / 25e9 + 126e-5)
    assert scale.slope([1, 2, 3], [5.0, 7.0, 9.0], "ms").startswith("Slope: 2 ms, beginning at 3")


def test_the_scale_page_has_its_tables():
    head, _, rest = (ROOT / "docs" / "scale.md").read_text().partition(scale.MARKS[0])
    measured, mark, tail = rest.partition(scale.MARKS[1])
    assert mark and "## What grows" in head and "## The arithmetic" in tail
    parts = ("**N**", "**Resolution**", "**Batch**", "**Processes**", "**Counted**", "**Computed**")
    assert all(part in measured for part in parts)


# What models do beside drawing samples


def test_the_readme_and_the_results_are_the_record_s():
    record = json.loads((ROOT / "docs" / "results.json").read_text())
    record = {experiment: record[experiment] for experiment in results.TABLES}
    assert (ROOT / "docs" / "results.md").read_text() == "\n".join(results.page(record))
    readme, lines = (ROOT / "README.md").read_text(), results.digest(record)
    assert readme == results.between(readme, results.MARKS, lines), "python -m benchmarks.results writes it again"
    assert any("[8.25 .. 8.39]" in line for line in lines), "to three digits"


def test_the_readme_s_hali_is_an_experiment():
    assert differences(load(["experiment=digits_hali"]), load(results.settings("digits", "hali"))) == []


def test_the_diamond_that_is_compared_is_the_one_that_ships():
    """Under the digits' experiment too, whose three levels have a wide z3: the diamond's z2 is narrow."""
    shapes = {m: load(abilities.settings("levels", m, 1))["graph"]["z2"]["shape"] for m in ("diamond", "diamond_wide")}
    assert shapes == {"diamond": [8], "diamond_wide": [32]}
    assert load(["experiment=digits", "model=diamond"])["graph"]["z2"]["shape"] == [8]


@pytest.mark.parametrize("part", abilities.PARTS)
def test_the_parts_of_the_talk_can_be_trained(part):
    for model in abilities.PARTS[part].models:
        config = load(abilities.settings(part, model, 3))
        build(config, tuple(config["data"]["shape"]))
        where = abilities.PARTS[part].runs or part  # of the same models
        assert config["seed"] == 3 and config["run"] == f"runs/abilities/{where}/{model}/3"
        assert abilities.PARTS[where].models[model] == abilities.PARTS[part].models[model]


def test_a_part_is_recorded_and_shown(tmp_path, monkeypatch, capsys):
    """Of every seed those numbers that have a row, and the references that tell its judge."""
    monkeypatch.chdir(tmp_path)
    found = {
        "samples": {"class_score": 8.0},
        "chain": {"7": {"class_score": 3.0}},
        "reference": {"test": {"class_score": 9.5}},
    }

    def made(settings):
        run = Path(next(s for s in settings if s.startswith("run=")).removeprefix("run="))
        run.mkdir(parents=True)
        (run / "metrics.json").write_text(json.dumps(found))
        (run / "train.json").write_text(json.dumps({"steps": 5}))
        return run

    monkeypatch.setattr(abilities, "finished", made)
    fills = {"left": {"ridge": {"class_kept": 0.75, "unknown": 1.0}}}
    monkeypatch.setitem(
        abilities.PARTS,
        "fills",
        replace(abilities.PARTS["fills"], score=lambda run: write_json(fills, run / "fill.json")),
    )
    abilities.main(["fills", "seeds=1,2"])
    kept = json.loads((tmp_path / "docs/abilities.json").read_text())["fills"]
    numbers = {"left/ridge/class_kept": 0.75, "reference/test/class_score": 9.5, "train/steps": 5}
    assert kept == {"seeds": [1, 2], "settings": [], "models": {m: [numbers] * 2 for m in ("gibbsnet", "ali")}}
    page = (tmp_path / "docs/abilities.md").read_text()
    assert (
        "| left/ridge/class_kept | 0.75 | 0.75 |" in page and "`python -m benchmarks.abilities fills seeds=1,2`" in page
    )
    abilities.main(["phases", "seeds=1", "models=dreaming"])
    both = json.loads((tmp_path / "docs/abilities.json").read_text())
    assert both["fills"] == kept and "samples/class_score" in both["phases"]["models"]["dreaming"][0]
    capsys.readouterr()
    for arguments, words in (
        ([], "which part"),
        (["fills", "models=hali"], "models=hali"),
        (["fills", "seeds=a"], "seeds=a"),
        (["fills", "pictures=2"], "pictures=2: expected the word"),
    ):
        with pytest.raises(SystemExit, match=words):
            abilities.main(arguments)


def test_a_part_s_pictures_are_laid_side_by_side_and_nothing_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grey = {"dreaming": 40, "ready_to_hand": 200}

    def made(settings):
        run = Path(next(s for s in settings if s.startswith("run=")).removeprefix("run="))
        (run / "figures").mkdir(parents=True)
        Image.new("RGB", (700, 700), (grey[run.parent.name],) * 3).save(run / "figures" / "samples.png")
        return run

    monkeypatch.setattr(abilities, "finished", made)
    abilities.main(["phases", "seeds=2,3", "models=dreaming,ready_to_hand", "pictures=beside"])
    (written,) = capsys.readouterr().out.splitlines()
    assert (
        written == "docs/figures/beside_phases_samples.png" and (tmp_path / "runs/abilities/phases/dreaming/2").is_dir()
    )
    page = np.asarray(Image.open(written).convert("L"))
    assert page[-1, 5] == 40 and page[-1, -5] == 200 and not (tmp_path / "docs/abilities.json").exists()


def test_the_phases_have_a_clock_and_no_other_part(monkeypatch, capsys):
    asked = {}
    times = {"dreaming": 20.0, "daydreaming_4": 16.0}
    monkeypatch.setattr(abilities, "clock", lambda configs, rounds: asked.update(configs) or times)
    abilities.main(["phases", "clock=2"])
    assert capsys.readouterr().out.splitlines() == [str(times), "{'dreaming': 6000, 'daydreaming_4': 7500}"]
    assert list(asked) == list(abilities.PHASES) and asked["dreaming"]["steps"] == 6000
    for arguments, words in (
        (["fills", "clock=2"], "clock=2: expected with phases"),
        (["phases", "clock=2", "models=daydreaming_4"], "dreaming among the models"),
        (["phases", "clock=0"], "clock=0: expected at least 1 round"),
        (["phases", "clock=2", "nonsense=3"], "nonsense"),
    ):
        with pytest.raises(SystemExit, match=words):
            abilities.main(arguments)


def test_the_page_of_abilities_is_that_of_the_record():
    record = json.loads((ROOT / "docs" / "abilities.json").read_text())
    assert "\n".join(abilities.page(record)) == (ROOT / "docs" / "abilities.md").read_text()
