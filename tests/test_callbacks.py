import json
import math
import random
import signal
import time
import warnings
from datetime import timedelta

import numpy
import pytest
import torch
from matplotlib.image import imread
from pytorch_lightning.callbacks import Callback

import gibbsnet.callbacks as ours
from gibbsnet.callbacks.history import cut, read
from gibbsnet.files import replace
from tests.toy import Toy, distance, figure, fit, interrupt, poison

OPTIONS = dict(measure=distance, draw=figure, log_every=5, evaluate_every=8, save_every=7, progress=False)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*GPU available.*")
        yield


def load(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    """Whether two checkpoints hold the same, but for what the clock says."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "Speed")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class TestHistory:
    def test_rows(self, tmp_path):
        fit(ours.callbacks(tmp_path, **OPTIONS))
        rows = read(tmp_path / "history.jsonl")
        train = [row for row in rows if "train/loss_critic" in row]
        judged = [row for row in rows if "val/distance" in row]
        assert [row["step"] for row in train] == [5, 10, 15, 20]
        assert [row["step"] for row in judged] == [8, 16, 20]
        assert all(row["images_seen"] == 10 * row["step"] for row in rows)
        assert set(train[0]) == {"step", "images_seen", "train/loss_critic", "train/logit_clamped"}
        assert set(judged[0]) == {"step", "images_seen", "val/distance", "val/other"}

    def test_values_are_the_batch_s(self, tmp_path):
        module, _ = fit(ours.callbacks(tmp_path, **OPTIONS))
        last = [row for row in read(tmp_path / "history.jsonl") if "train/loss_critic" in row][-1]
        assert last["train/logit_clamped"] == float(module.weight.detach().mean())
        assert last["train/loss_critic"] == float(module.diagnostics["loss_critic"])

    def test_cut_keeps_the_past_and_drops_a_torn_line(self, tmp_path):
        path = tmp_path / "history.jsonl"
        path.write_text('{"step": 1}\n3\n{"images_seen": 3}\n{"step": 2, "a": 0.1}\n{"step": 3}\n{"ste')
        cut(path, 2)
        assert path.read_text() == '{"step": 1}\n{"step": 2, "a": 0.1}\n'

    def test_a_new_training_starts_a_new_history(self, tmp_path):
        for _ in range(2):
            fit(ours.callbacks(tmp_path, **OPTIONS))
        assert len(read(tmp_path / "history.jsonl")) == 7

    def test_non_finite_values_are_null(self, tmp_path):
        class Odd(Toy):
            def training_step(self, batch, batch_idx):
                super().training_step(batch, batch_idx)
                self.diagnostics["logit_clamped"] = torch.tensor(math.inf)

        fit(ours.callbacks(tmp_path, **OPTIONS), module=Odd())
        strict = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "history.jsonl").open()]
        assert strict[0]["train/logit_clamped"] is None and strict[0]["train/loss_critic"] > 0

    def test_the_device_is_asked_on_logged_steps_only(self, tmp_path, monkeypatch):
        asked = []
        read_once = ours.history.readings
        monkeypatch.setattr(ours.history, "readings", lambda *a: asked.append(a) or read_once(*a))
        fit([ours.History(tmp_path, every=5)], enable_checkpointing=False)
        assert len(asked) == 4


class TestResume:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
    @pytest.mark.parametrize("at", [8, 11])
    def test_interrupted_equals_uninterrupted(self, tmp_path, number, at):
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        fit(ours.callbacks(whole, **OPTIONS))
        _, trainer = fit(ours.callbacks(parts, **OPTIONS), module=Toy({at: interrupt(number)}))
        assert ours.interrupted(trainer) == number
        assert load(parts / "checkpoints/last.ckpt")["global_step"] == at
        module, _ = fit(ours.callbacks(parts, **OPTIONS), ckpt_path=parts / "checkpoints/last.ckpt")
        assert module.seen == list(range(at, 20))
        assert (whole / "history.jsonl").read_bytes() == (parts / "history.jsonl").read_bytes()
        for name in ("best.ckpt", "last.ckpt"):
            a, b = load(whole / "checkpoints" / name), load(parts / "checkpoints" / name)
            for part in ("state_dict", "optimizer_states", "callbacks", "global_step"):
                assert same(a[part], b[part]), (name, part)

    def test_killed_after_more_rows_than_checkpoints(self, tmp_path):
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        fit(ours.callbacks(whole, **OPTIONS))

        def crash(module):
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="disk"):
            fit(ours.callbacks(parts, **OPTIONS), module=Toy({13: crash}))
        assert load(parts / "checkpoints/last.ckpt")["global_step"] == 7
        assert read(parts / "history.jsonl")[-1]["step"] == 10
        fit(ours.callbacks(parts, **OPTIONS), ckpt_path=parts / "checkpoints/last.ckpt")
        assert (whole / "history.jsonl").read_bytes() == (parts / "history.jsonl").read_bytes()

    def test_a_complete_training_does_not_go_on(self, tmp_path):
        fit(ours.callbacks(tmp_path, **OPTIONS))
        before = (tmp_path / "history.jsonl").read_bytes()
        module, trainer = fit(ours.callbacks(tmp_path, **OPTIONS), ckpt_path=tmp_path / "checkpoints/last.ckpt")
        assert module.seen == [] and trainer.global_step == 20
        assert (tmp_path / "history.jsonl").read_bytes() == before

    def test_a_complete_training_can_be_extended(self, tmp_path):
        fit(ours.callbacks(tmp_path, **OPTIONS), steps=20)
        module, _ = fit(ours.callbacks(tmp_path, **OPTIONS), steps=30, ckpt_path=tmp_path / "checkpoints/last.ckpt")
        assert module.seen == list(range(20, 30))
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 30


class TestCheckpoints:
    def judge(self, values):
        """A measurement that gives the next of the values each time."""
        values = iter(values)
        return OPTIONS | dict(measure=lambda module: {"distance": next(values)}, draw=lambda module: ())

    def test_best_and_last_and_the_one_before_and_nothing_else(self, tmp_path):
        fit(ours.callbacks(tmp_path, **self.judge([3.0, 1.0, 2.0])))
        assert load(tmp_path / "checkpoints/previous.ckpt")["global_step"] == 14
        assert load(tmp_path / "checkpoints/best.ckpt")["global_step"] == 16
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 20
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
            "best.ckpt",
            "last.ckpt",
            "previous.ckpt",
        ]

    def test_nan_is_never_the_best(self, tmp_path):
        fit(ours.callbacks(tmp_path, **self.judge([math.nan, 5.0, math.nan])))
        assert load(tmp_path / "checkpoints/best.ckpt")["global_step"] == 16

    def test_best_survives_a_resume(self, tmp_path):
        fit(ours.callbacks(tmp_path, **self.judge([1.0])), module=Toy({11: interrupt()}))
        last = tmp_path / "checkpoints/last.ckpt"
        fit(ours.callbacks(tmp_path, **self.judge([2.0, 3.0])), ckpt_path=last)
        assert load(tmp_path / "checkpoints/best.ckpt")["global_step"] == 8
        assert load(last)["callbacks"]["Checkpoints"] == {"best": 1.0, "best_step": 8}

    def test_without_a_measurement_the_last_is_the_best(self, tmp_path):
        fit(ours.callbacks(tmp_path, **(OPTIONS | dict(evaluate_every=0))))
        assert load(tmp_path / "checkpoints/best.ckpt")["global_step"] == 20

    def test_max_time_ends_with_a_whole_checkpoint(self, tmp_path):
        late = Toy({4: lambda module: time.sleep(1)})
        fit(ours.callbacks(tmp_path, **OPTIONS), module=late, max_time=timedelta(seconds=1))
        checkpoint = load(tmp_path / "checkpoints/last.ckpt")
        assert 1 <= checkpoint["global_step"] <= 4
        module, _ = fit(ours.callbacks(tmp_path, **OPTIONS), ckpt_path=tmp_path / "checkpoints/last.ckpt")
        assert module.seen == list(range(checkpoint["global_step"], 20))

    def test_an_interrupt_between_batches_saves(self, tmp_path):
        class Late(Toy):
            def on_train_batch_end(self, *_):  # after all callbacks
                if self.trainer.global_step == 9:
                    raise KeyboardInterrupt

        with pytest.raises(SystemExit):
            fit(ours.callbacks(tmp_path, **OPTIONS), module=Late())
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 9

    def test_an_interrupt_within_a_batch_does_not(self, tmp_path):
        def now(module):
            raise KeyboardInterrupt

        with pytest.raises(SystemExit):
            fit(ours.callbacks(tmp_path, **OPTIONS), module=Toy({9: now}))
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 7

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")

        def half(draft):
            draft.write_text("ne")
            raise OSError("disk full")

        with pytest.raises(OSError, match="full"):
            replace(path, half)
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


class TestStop:
    def test_the_handler_is_handed_back(self, tmp_path):
        before = signal.getsignal(signal.SIGINT)
        stop = ours.Stop()
        _, trainer = fit([stop], module=Toy({3: interrupt()}), enable_checkpointing=False)
        assert trainer.global_step == 3 and ours.interrupted(trainer) == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_training_that_was_complete_anyway_was_not_interrupted(self):
        _, trainer = fit([ours.Stop()], module=Toy({20: interrupt()}), enable_checkpointing=False)
        assert ours.interrupted(trainer) is None

    def test_a_warning_that_comes_too_early_waits_and_one_that_comes_too_late_does_nothing(self):
        """As `python -m gibbsnet` has it: SIGUSR1 is blocked but while `Stop` listens."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        try:
            interrupt(signal.SIGUSR1)(None)
            _, trainer = fit([ours.Stop()], enable_checkpointing=False)
            assert trainer.global_step == 1 and ours.interrupted(trainer) == signal.SIGUSR1
            interrupt(signal.SIGUSR1)(None)
            assert signal.sigpending() == {signal.SIGUSR1}
        finally:
            signal.sigtimedwait([signal.SIGUSR1], 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
    def test_schedulers_repeat_themselves(self, number):
        _, trainer = fit([ours.Stop()], module=Toy({3: lambda module: [interrupt(number)(module) for _ in range(3)]}),
                         enable_checkpointing=False)  # fmt: skip
        assert trainer.global_step == 3 and ours.interrupted(trainer) == number

    def test_the_second_interrupt_acts_at_once(self, tmp_path):
        def twice(module):
            interrupt()(module)
            interrupt()(module)

        with pytest.raises(SystemExit):
            fit([ours.Stop()], module=Toy({3: twice}), enable_checkpointing=False)


class TestNonFinite:
    def test_a_loss_stops_the_training_and_is_named(self, tmp_path):
        with pytest.raises(ours.NonFiniteError) as error:
            fit(ours.callbacks(tmp_path, **(OPTIONS | dict(save_every=4))), module=Toy({9: poison()}))
        assert "step 10" in str(error.value) and "loss_critic = nan" in str(error.value)
        assert str(tmp_path / "checkpoints/last.ckpt") in str(error.value)
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 8
        assert read(tmp_path / "history.jsonl")[-1]["train/loss_critic"] is None

    def test_no_checkpoint_of_a_bad_loss(self, tmp_path):
        with pytest.raises(ours.NonFiniteError, match="step 14: loss_critic"):
            fit(ours.callbacks(tmp_path, **(OPTIONS | dict(log_every=100))), module=Toy({13: poison()}))
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 7

    def test_no_checkpoint_of_a_bad_parameter(self, tmp_path):
        class Fooled(Toy):
            def training_step(self, batch, batch_idx):
                super().training_step(batch, batch_idx)
                if self.trainer.global_step == 14:
                    self.weight.data[1] = math.inf

        with pytest.raises(ours.NonFiniteError, match="step 14: parameter weight"):
            fit(ours.callbacks(tmp_path, **OPTIONS), module=Fooled())
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 7

    def test_before_any_checkpoint(self, tmp_path):
        with pytest.raises(ours.NonFiniteError, match="step 5: loss_critic = nan; last good checkpoint: none yet"):
            fit(ours.callbacks(tmp_path, **OPTIONS), module=Toy({2: poison()}))


class TestEvaluation:
    def test_figures_and_metrics(self, tmp_path):
        _, trainer = fit(ours.callbacks(tmp_path, **OPTIONS))
        assert imread(tmp_path / "figures/samples.png").ndim == 3
        assert [p.name for p in (tmp_path / "figures").iterdir()] == ["samples.png"]
        rows = [row for row in read(tmp_path / "history.jsonl") if "val/distance" in row]
        assert float(trainer.callback_metrics["val/distance"]) == pytest.approx(rows[-1]["val/distance"])

    def test_training_does_not_notice(self, tmp_path):
        noticed = []

        def measure(module):
            noticed.append((torch.is_grad_enabled(), module.dropout.training))
            module.frozen.train()
            return distance(module)

        def generators():
            return torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate()

        class Watch(Callback):
            def on_train_batch_start(self, *_):
                self.before = generators()

            def on_train_batch_end(self, trainer, module, *_):
                assert generators() == self.before
                assert (module.training, module.dropout.training, module.frozen.training) == (True, True, False)

        callbacks = ours.callbacks(tmp_path, **(OPTIONS | dict(measure=measure)))
        fit([*callbacks, Watch()])
        assert noticed == [(False, False)] * 3

    def test_a_failing_measurement_restores_the_mode(self):
        module = Toy()
        with pytest.raises(ZeroDivisionError), ours.looking_only(module):
            _ = 1 / 0
        assert module.training and module.dropout.training and torch.is_grad_enabled()


class TestSpeed:
    def test_train_json(self, tmp_path):
        fit(ours.callbacks(tmp_path, **OPTIONS))
        facts = json.loads((tmp_path / "train.json").read_text())
        assert facts["steps"] == 20 and facts["images_seen"] == 200
        assert facts["seconds"] > 0 and facts["cpu_seconds"] > 0
        assert 100 < facts["peak_memory_mib"] < 100_000
        assert facts["images_per_second"] > 200 / facts["seconds"] / 2

    def clocked(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr(ours.speed.time, "perf_counter", lambda: clock[0])

        class Slow(Toy):  # batch i takes i seconds
            def training_step(self, batch, batch_idx):
                super().training_step(batch, batch_idx)
                clock[0] += self.trainer.global_step

        def measure(module):
            clock[0] += 100
            return {"distance": 1.0}

        return clock, Slow, OPTIONS | dict(measure=measure)

    def test_the_last_half_without_the_evaluation(self, tmp_path, monkeypatch):
        _, Slow, options = self.clocked(monkeypatch)
        fit(ours.callbacks(tmp_path, **options), module=Slow())
        facts = json.loads((tmp_path / "train.json").read_text())
        assert facts["images_per_second"] == pytest.approx(100 / sum(range(11, 21)))
        assert facts["seconds"] == pytest.approx(sum(range(21)) + 300)

    def test_resumed(self, tmp_path, monkeypatch):
        clock, Slow, options = self.clocked(monkeypatch)
        fit(ours.callbacks(tmp_path, **options), module=Slow({12: interrupt()}))
        clock[0] += 1000  # between two processes
        fit(ours.callbacks(tmp_path, **options), module=Slow(), ckpt_path=tmp_path / "checkpoints/last.ckpt")
        facts = json.loads((tmp_path / "train.json").read_text())
        assert facts["images_per_second"] == pytest.approx(100 / sum(range(11, 21)))
        assert facts["seconds"] == pytest.approx(sum(range(21)) + 300)

    def test_marks_stay_few(self, tmp_path):
        speed = ours.Speed(tmp_path)
        for images in range(10_000):
            speed._mark(images)
        assert len(speed.marks) <= 256 and speed.marks[-1][0] >= 9_900 and speed.marks[0][0] == 0


class TestProgress:
    def test_lines_without_a_terminal(self, tmp_path, capsys):
        fit(ours.callbacks(tmp_path, **(OPTIONS | dict(progress=True, print_every=10))))
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
        assert [line.split()[1] for line in lines] == ["10/20", "20/20"]
        assert "loss_critic" in lines[0] and "distance" in lines[0] and "images_per_second" in lines[0]

    def test_twenty_lines_unless_told_otherwise(self, tmp_path, capsys):
        fit([ours.Progress(ours.History(tmp_path))], steps=60, enable_checkpointing=False)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
        assert len(lines) == 20 and lines[0].startswith("step 3/60")

    def test_a_bar_on_a_terminal(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        fit(ours.callbacks(tmp_path, **(OPTIONS | dict(progress=True))))
        out = capsys.readouterr().out
        assert "20/20" in out and "loss_critic" in out and "step 20" not in out


class Apart(Toy):
    """A toy whose diagnostics, and whose health, differ between the ranks."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.diagnostics["rank"] = torch.tensor(float(self.global_rank))
        if self.global_rank == 1 and self.trainer.global_step == self.ill:
            self.diagnostics["loss_critic"] = torch.tensor(math.nan)


def two_ranks(run, event=None, at=None, ill=None):
    """A training on two processes; only the second one gets the event."""
    module = Apart({at: lambda module: event(module) if module.global_rank == 1 else None})
    module.ill = ill
    measured = run / "measured"
    run.mkdir(exist_ok=True)

    def measure(module):
        with measured.open("a") as file:
            file.write(f"{module.global_rank}\n")
        return distance(module)

    options = OPTIONS | dict(measure=measure, agree_every=3)
    return fit(ours.callbacks(run, **options), module=module, devices=2, strategy="ddp_fork")


class TestTwoRanks:
    @pytest.fixture(autouse=True)
    def loopback(self, monkeypatch):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    def test_both_measure_and_the_rows_are_of_both(self, tmp_path):
        two_ranks(tmp_path)
        rows = read(tmp_path / "history.jsonl")
        assert len(rows) == 7 and {row["train/rank"] for row in rows if "train/rank" in row} == {0.5}
        assert sorted((tmp_path / "measured").read_text().split()) == ["0"] * 3 + ["1"] * 3
        assert json.loads((tmp_path / "train.json").read_text())["ranks"] == 2
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 20

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
    def test_a_signal_to_one_stops_both_with_a_checkpoint(self, tmp_path, number):
        two_ranks(tmp_path, interrupt(number), at=4)
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 6

    def test_different_signals_are_the_same_to_all(self, tmp_path):
        """A cancelled job is not to be queued again because one rank had been warned before."""

        class Tell(Callback):
            def on_train_end(self, trainer, pl_module):
                (tmp_path / str(trainer.global_rank)).write_text(ours.interrupted(trainer).name)

        module = Toy({4: lambda module: interrupt([signal.SIGTERM, signal.SIGUSR1][module.global_rank])(module)})
        options = dict(enable_checkpointing=False, devices=2, strategy="ddp_fork")
        fit([ours.Stop(every=3), Tell()], module=module, **options)
        assert [(tmp_path / rank).read_text() for rank in "01"] == ["SIGTERM", "SIGTERM"]

    def test_an_ill_rank_stops_both(self, tmp_path):
        with pytest.raises(Exception, match="step 10: loss_critic = nan"):
            two_ranks(tmp_path, ill=10)
        assert load(tmp_path / "checkpoints/last.ckpt")["global_step"] == 7
