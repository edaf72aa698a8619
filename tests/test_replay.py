"""What is recorded and replayed is what would have been computed, to the last bit."""

import pytest
import pytorch_lightning as pl
import torch

from gibbsnet.__main__ import main
from gibbsnet.noise import Noise
from gibbsnet.replay import Replayed, Tape
from tests.models import module
from tests.test_callbacks import same
from tests.test_modules import trained
from tests.test_resume import load

DEVICES = [
    "cpu",
    pytest.param("gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
KINDS = {
    "ali": ["model=ali"],
    "gibbsnet": ["model=gibbsnet", "game.lazy=2"],
    "rising": ["model=gibbsnet", "chains.unclamped.steps=[1,3]", "chains.unclamped.rise=12", "game.cycle=0.5"],
    "mixed, moved": ["model=gibbsnet", "chains.unclamped.steps=[0,[1,2]]", "game.shift=1"],
    "falling": ["model=gibbsnet", "optim.floor_from=0.9"],
    "starts": ["model=gibbsnet", "chains.unclamped.steps=[1,2]", "chains.unclamped.persistent=0.0",
               "chains.unclamped.start_from_data=0.5", "chains.unclamped.learned=[z]"],
    "dropout": ["model=ali", "network.critic_x.dropout=0.3"],
    "hali": ["model=hali", "size.whiten=1.0", "trainer.precision=bf16-mixed"],
    "labels": ["experiment=labels100"],
    "alternating": ["model=gibbsnet2", "mode=ready_to_hand", "chains.unclamped.dream_every=3", "game.lazy=2"],
}  # fmt: skip


def sums(noise, calls=None):
    """A computation whose draws hang on the integers that it draws before."""
    if calls is not None:
        calls.append(noise.key)
    total = noise.at("first").normal((4, 2)).sum(1)
    steps = noise.at("steps")
    for k in range(steps.integer(0, 2)):
        total = total + noise.among(slice(0, 4), 4).at(k).uniform((4,))
        if noise.at("turn", k).choice(2):
            total = -total
    return total


def test_a_tape_draws_what_the_computation_would():
    tape, courses = Tape(), set()
    for key in range(60):
        course = tape.fill(Noise(key))
        noise = tape.write(Noise(key)) if course is None else tape.read(Noise(key), course)
        assert torch.equal(sums(noise), sums(Noise(key)))
        courses.add(course)
    assert courses == {None, (0,), (1, 0), (1, 1), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1)}


def test_writing_over_a_known_beginning_draws_anew():
    tape = Tape()
    for key in range(6):
        assert torch.equal(sums(tape.write(Noise(key))), sums(Noise(key)))


def test_another_computation_than_the_recorded_is_refused():
    tape = Tape()
    tape.write(Noise(0)).normal((3,))
    assert tape.fill(Noise(1)) == ()
    for draw in (
        lambda n: n.normal((4,)),
        lambda n: n.uniform((3,)),
        lambda n: n.at("z").normal((3,)),
        lambda n: [n.normal((3,)) for _ in "ab"],
    ):
        with pytest.raises(RuntimeError, match=r"drew other noise than when it was recorded.*trainer\.replay=false"):
            draw(tape.read(Noise(1), ()))


def test_a_course_is_recorded_when_it_is_taken_again():
    made, calls = [], []
    replayed = Replayed(
        lambda given, noise: sums(noise, calls) + given["batch"]["x"], lambda noise: made.append(noise.key)
    )
    record = replayed._record
    replayed._record = lambda compute, device: calls.append("recorded") or record(compute, device)
    for key in range(60):
        x = torch.full((4,), float(key))
        assert torch.equal(replayed(("kind",), {"batch": {"x": x}}, Noise(key)), sums(Noise(key)) + x)
    assert calls.count("recorded") == len(replayed.recorded) == 7
    assert {key for (key,) in made} == set(range(60)), "dropout is keyed before every computation"
    replayed(("other",), {"batch": {"x": x}}, Noise(0))
    replayed(("kind",), {"batch": {"x": x[:1]}}, Noise(0))
    assert len(replayed.tapes) == 3, "another kind and another shape are other computations"


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_replayed_ends_where_it_would_have(kind, device, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = [*KINDS[kind], "data=digits", *quick, "steps=24", f"trainer.accelerator={device}"]
    ends, recorded, record = [], [], Replayed._record
    monkeypatch.setattr(Replayed, "_record", lambda *a: recorded.append(1) or record(*a))
    for replay in ("false", "true"):
        run = tmp_path / replay
        assert main(["train", *settings, f"trainer.replay={replay}", f"run={run}"]) == 0
        ends.append((load(run), (run / "history.jsonl").read_bytes()))
        assert bool(recorded) == (replay == "true" and kind != "labels"), (
            "where who is heard hangs on the data, nothing is"
        )
    (plain, history), (replayed, other) = ends
    for part in ("state_dict", "optimizer_states", "kept", "skipped", "penalties"):
        assert same(plain[part], replayed[part]), part
    assert history == other


@pytest.mark.filterwarnings("ignore::Warning")
def test_what_was_recorded_in_one_fit_is_not_replayed_in_another():
    m = module("gibbsnet", "ring")
    m.replays = True
    trained(m, 6)
    first = m._replayed
    trained(m, 6)
    assert first.recorded and m._replayed.recorded and m._replayed is not first


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("ranks", [1, 2])
def test_several_processes_send_their_steps(ranks, quick, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pl.Trainer, "world_size", ranks)
    monkeypatch.setattr(pl.Trainer, "fit", lambda self, module, *a, **k: seen.append(module.replays))
    assert main(["train", "model=ali", *quick, "trainer.replay=true", f"run={tmp_path}"]) == 0
    assert seen == [ranks == 1]


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_run_may_go_on_with_it(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
    train = ["train", "model=gibbsnet", *quick, "steps=24", "every.checkpoint=12", f"run={tmp_path}"]
    assert main(train) == 0
    whole = load(tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    assert load(tmp_path, "previous")["global_step"] == 12
    assert main([*train, "trainer.replay=true"]) == 0
    assert same(whole["state_dict"], load(tmp_path)["state_dict"]) and same(whole["kept"], load(tmp_path)["kept"])


@pytest.mark.parametrize(
    "settings, at_first, at_last",
    [
        (["model=gibbsnet"], True, True),
        (["model=gibbsnet", "optim.floor_from=0.9"], False, True),
        (["model=gibbsnet2", "mode=daydreaming"], False, False),
        (["experiment=labels100", "data.classes=10"], False, False),
    ],
)
def test_what_hangs_on_the_data_or_on_time_is_not_recorded(settings, at_first, at_last):
    m = module(settings[0].partition("=")[2] if "model" in settings[0] else "labelled", "digits", *settings)
    assert (m._recordable(0), m._recordable(m.hparams.steps)) == (at_first, at_last)
