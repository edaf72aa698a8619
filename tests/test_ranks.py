"""Several processes train as one does: weights, chains, records and scores, also when they come and go."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import gibbsnet.callbacks as ours
from gibbsnet import files
from gibbsnet import train as door
from gibbsnet.__main__ import main
from gibbsnet.config import ConfigError, load
from gibbsnet.data import DataModule, readers
from gibbsnet.evaluation import evaluate
from gibbsnet.evaluation.spread import spread
from gibbsnet.evaluation.suite import real_inception
from gibbsnet.modules import GibbsNet, build
from tests.pair import end, free_port, pair, start, torchrun, until
from tests.test_evaluation import StandIn
from tests.toy import Toy

SWEPT = "chains.unclamped.steps=[1,3]"
YOUNG = ["model=gibbsnet", "chains.unclamped.persistent=0.0"]
PERSISTENT = ["model=gibbsnet", SWEPT, "chains.unclamped.persistent=0.5"]
GAMES = {
    "ali": ["model=ali"],
    "ali, relativistic": ["model=ali", "game.loss=relativistic"],
    "ali, relativistic, no penalties": ["model=ali", "game.loss=relativistic", "penalty.x=0.0", "penalty.z=0.0"],
    "hali, whitened": ["model=hali", "game.whiten=2.0"],
    "hali, relativistic, lazy, clipped": ["model=hali", "game.whiten=0.0", "game.loss=relativistic", "game.lazy=3",
                                          "optim.clip=0.1"],
    "gibbsnet, random N": [*YOUNG, "game.rescale=false"],
    "gibbsnet, from data, relativistic": [*YOUNG, SWEPT, "chains.unclamped.start_from_data=0.5",
                                          "game.loss=relativistic"],
    "gibbsnet, persistent": PERSISTENT,
    "gibbsnet, persistent, learned start, rising, cycle": ["model=gibbsnet", SWEPT, "chains.unclamped.learned=[z]",
                                                           "chains.unclamped.rise=10", "game.cycle=0.5"],
    "gibbsnet, a third persistent, relativistic, no penalties": [*PERSISTENT, "chains.unclamped.persistent=0.33",
                                                                 "game.loss=relativistic", "penalty.x=0.0", "penalty.z=0.0"],
    "gibbsnet2, persistent, moved": ["model=gibbsnet2", "game.shift=1"],
    "labelled, often none known on a rank": ["model=labelled", "data.labels=10", "chains.clamped.mode.y.silent=true",
                                             "graph.y.straight=false", "supervised.y.dreams=0.3"],
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(judges):
    """What all trainings here have in common: double precision, where the order of sums is all that differs."""
    return ["steps=20", "every.log=5", "every.validate=20", "every.checkpoint=10", "tracking.mode=disabled",
            f"judges={judges}", "trainer.accelerator=cpu", "trainer.progress=false", "trainer.precision=64-true"]  # fmt: skip


class PowerLoss(Exception):
    pass


def fit(run, settings, devices=1, until_step=None):
    """One training; `until_step`: the batch in the middle of which it ends."""
    contest = GibbsNet.contest

    def until(self, *arguments):
        if int(self.step) == until_step:
            raise PowerLoss
        return contest(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GibbsNet, "contest", until)
        patch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
        door.train(load([*settings, f"run={run}", f"trainer.devices={devices}"]))


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def assert_close(a, b, where="checkpoint"):
    """Equal but for the order in which float64 sums were taken."""
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m: f"{where}: {m}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"Speed"}:
            assert_close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}[{k}]")
    else:
        assert a == pytest.approx(b, rel=1e-5) if isinstance(a, float) else a == b, where


def assert_same_training(one, two):
    for name in ("last", "best"):
        a, b = checkpoint(one, name), checkpoint(two, name)
        for part in ("state_dict", "optimizer_states", "global_step", "kept"):
            assert_close(a[part], b[part], f"{name}.{part}")
    assert_close(rows(one), rows(two), "history")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def together(folder, settings):
    """Every game on two ranks, a run begun by one and ended by two, one begun by two, and a model measured by both."""
    with pytest.raises(PowerLoss):
        fit(folder / "from one", [*PERSISTENT, *settings], until_step=13)

    def work(rank):
        for name, game in GAMES.items():
            fit(folder / "two" / name, [*game, *settings], 2)
        fit(folder / "from one", [*PERSISTENT, *settings], 2)
        with pytest.raises(PowerLoss):
            fit(folder / "from two", [*PERSISTENT, *settings], 2, until_step=13)
        return scores()

    return pair(folder / "results", work)


def scores():
    """Everything that is measured of a model, from a number of samples that no two ranks can share equally."""
    config = load(["model=gibbsnet", "data=digits"])
    data = DataModule("digits")
    data.setup()
    return json.dumps(evaluate(build(config, data.shape), data, samples=250, steps=[0, 1], pairs=110, batch=50))


@pytest.mark.parametrize("game", GAMES)
def test_two_ranks_with_half_a_batch_each_train_as_one_with_the_whole(together, folder, settings, game):
    fit(folder / "one" / game, [*GAMES[game], *settings])
    assert_same_training(folder / "one" / game, folder / "two" / game)
    last = checkpoint(folder / "two" / game)
    assert int(last["state_dict"]["images"]) == 20 * 100, "a step sees the batch of all ranks together"
    config = load(GAMES[game])
    kept = config["graph"] if config["chains"]["unclamped"]["persistent"] else {}
    assert {v: len(x) for v, x in last["kept"].items()} == dict.fromkeys(kept, 100)


def test_a_run_goes_on_on_another_number_of_ranks(together, folder, settings):
    assert (
        checkpoint(folder / "from two")["global_step"] == 10
        and len(checkpoint(folder / "from two")["kept"]["x"]) == 100
    )
    fit(folder / "from two", [*PERSISTENT, *settings])
    fit(folder / "never stopped", [*PERSISTENT, *settings])
    for begun in ("from one", "from two"):
        assert_same_training(folder / "never stopped", folder / begun)


def test_a_late_rank_finds_the_folder_as_the_first_one_found_it(tmp_path, settings):
    """The first rank is to begin anew, and would have deleted what the late one decides by."""
    short, run, claim = ["model=ali", *settings, "steps=4"], tmp_path / "run", door.claim
    fit(run, short)

    def work(rank):
        found = []

        def late(*arguments):
            time.sleep(2 * rank)
            found.append(claim(*arguments))
            return found[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(door, "claim", late)
            fit(run, [*short, "optim.lr=0.002", "restart=true"], 2)
        return found

    anew = door.Claim(anew=True)
    assert pair(tmp_path / "results", work) == [[anew, anew], [anew]], "the first looks once more under the lock"
    fit(tmp_path / "fresh", [*short, "optim.lr=0.002"])
    assert_same_training(tmp_path / "fresh", run)


def test_scores_are_those_of_one_process_to_the_last_bit(together):
    assert together[0] == together[1] == scores()


def inception_scores():
    """The real scores of 130 samples in batches of 50, by a stand-in for the network; how many images it saw on this rank."""
    config, data, extractor = load(["model=gibbsnet", "data=digits"]), readers.load("digits"), StandIn()
    module = build(config, data.shape)
    return real_inception(module, replace(data, levels=256), extractor, 130, 50, 0), extractor.seen


def test_the_inception_network_is_shared_and_its_scores_are_those_of_one_process(tmp_path):
    def work(rank):
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        return inception_scores()

    (first, mine), (second, other) = pair(tmp_path, work)
    alone, everything = inception_scores()
    assert first == second == alone and set(alone) == {"inception_score", "inception_score_std", "fid"}
    assert everything == 130 + 1437 and (mine, other) == (50 + 30 + 500 + 437, 50 + 500)


def test_work_is_dealt_out_in_turn_and_comes_back_in_order(tmp_path):
    def work(rank):
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        done = []
        return [spread(range(n), lambda k: done.append(k) or 10 * k) for n in (5, 1, 0)], done

    (first, done), (second, rest) = pair(tmp_path, work)
    assert first == second == [[0, 10, 20, 30, 40], [0], []]
    assert (done, rest) == ([0, 2, 4, 0], [1, 3])
    assert spread(range(3), str) == ["0", "1", "2"]


# What does not fit together


def test_a_batch_that_two_cannot_share_is_one_line_and_writes_nothing(tmp_path, quick, capsys):
    assert main(["train", "trainer.devices=2", "data.batch_size=99", f"run={tmp_path / 'odd'}", *quick]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "data.batch_size=99" in said and "multiple of 2" in said
    assert not (tmp_path / "odd").exists()


def test_torchrun_s_numbers_hold_and_may_be_repeated_but_not_contradicted(monkeypatch):
    def processes(devices, nodes):
        return door.processes({"devices": devices, "num_nodes": nodes})

    assert processes(3, 2) == (3, 2)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert processes(1, 1) == processes(2, 2) == (2, 2)
    with pytest.raises(ConfigError, match=r"trainer\.devices=3 .* 2 processes on each of 2 nodes"):
        processes(3, 2)


def test_ranks_with_unequal_numbers_of_batches_are_refused(tmp_path):
    def work(rank):
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", callbacks=[ours.Ranks()], logger=False,
                             enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False)  # fmt: skip
        module = Toy()
        trainer.fit(module, torch.utils.data.DataLoader(torch.arange(5 - rank), batch_size=None))

    results = pair(tmp_path, work)
    assert all("RankError: the ranks have between 4 and 5 batches" in str(result) for result in results), results


# A rank that dies


def test_a_rank_whose_peer_is_killed_ends_with_the_reason(tmp_path, settings):
    contest = GibbsNet.contest

    def killed(self, *arguments):
        if self.global_rank == 1 and int(self.step) == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return contest(self, *arguments)

    def work(rank):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GibbsNet, "contest", killed)
            patch.setattr("gibbsnet.plots.figures", lambda *a, **k: ())
            door.train(load(["model=ali", *settings, f"run={tmp_path / 'run'}", "trainer.devices=2"]))

    survivor, victim = pair(tmp_path / "results", work)
    assert victim == -signal.SIGKILL
    assert "RankError: rank 0 of 2 stopped at step 13" in str(survivor) and "the same command goes on" in str(survivor)
    assert checkpoint(tmp_path / "run")["global_step"] == 10


def test_an_orphan_ends_with_the_reason():
    """As a rank would that waits in a collective on a GPU: its thread of Python alone notices."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        mine = os.getpid()
        if os.fork() == 0:
            sys.stderr = os.fdopen(write, "w")
            threading.Thread(target=ours.Ranks(every=0.05)._watch, args=(1, mine)).start()
            time.sleep(30)
        time.sleep(0.2)
        os._exit(0)
    os.close(write)
    os.waitpid(parent, 0)
    began = time.monotonic()
    with os.fdopen(read) as said:
        assert "rank 1: the process that started this one is gone" in said.read()
    assert time.monotonic() - began < 10


# The doors


@pytest.fixture
def doors(settings):
    return ["train", "model=gibbsnet", SWEPT, "chains.unclamped.persistent=0.5", *settings]


def assert_like_one_process(tmp_path, settings, run):
    fit(tmp_path / "one", ["model=gibbsnet", SWEPT, "chains.unclamped.persistent=0.5", *settings])
    assert_same_training(tmp_path / "one", run)
    assert json.loads((run / "train.json").read_text())["ranks"] == 2
    assert (run / "figures" / "samples.png").exists()


def test_torchrun(tmp_path, settings, doors):
    process = start(torchrun(*doors, f"run={tmp_path / 'run'}"))
    try:
        said, _ = process.communicate(timeout=600)
    finally:
        end(process)
    assert process.returncode == 0, said
    assert said.count("judge of digits") == 1, "the first rank alone speaks"
    assert_like_one_process(tmp_path, settings, tmp_path / "run")


def test_ranks_in_a_folder_where_another_training_is_at_work_end_together(tmp_path, settings, doors):
    run = tmp_path / "run"
    with files.alone(run / ".lock"):
        process = start(torchrun(*doors, f"run={run}"))
        try:
            said, _ = process.communicate(timeout=300)
        finally:
            end(process)
    assert process.returncode == 1 and said.count("another training is at work") == 1, said
    assert "goes on from the last checkpoint" not in said and not (run / "checkpoints").exists()


@pytest.mark.slow
def test_devices(tmp_path, settings, doors):
    command = [*torchrun()[:1], "-m", "gibbsnet", *doors, "trainer.devices=2", f"run={tmp_path / 'run'}"]
    process = start(command)
    try:
        said, _ = process.communicate(timeout=600)
    finally:
        end(process)
    assert process.returncode == 0, said
    assert_like_one_process(tmp_path, settings, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_two_nodes_of_one_process_each(tmp_path, settings, doors, launcher):
    port = str(free_port())
    arguments = [*doors, f"run={tmp_path / 'run'}", "trainer.num_nodes=2"]
    if launcher == "torchrun":
        static = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
        commands = [
            [*torchrun()[:1], "-m", "torch.distributed.run", f"--node_rank={k}", *static, "-m", "gibbsnet", *arguments]
            for k in range(2)
        ]
        nodes = [start(command) for command in commands]
    else:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        nodes = [start([*torchrun()[:1], "-m", "gibbsnet", *arguments], NODE_RANK=str(k), **where) for k in range(2)]
    try:
        said = [node.communicate(timeout=600)[0] for node in nodes]
    finally:
        for node in nodes:
            end(node)
    assert [node.returncode for node in nodes] == [0, 0], said
    assert_like_one_process(tmp_path, settings, tmp_path / "run")


@pytest.mark.slow
def test_evaluation_under_torchrun_gives_the_same_metrics(tmp_path, settings):
    fit(tmp_path / "run", ["model=gibbsnet", *settings])
    scored = [f"run={tmp_path / 'run'}", "evaluation.samples=2300", "evaluation.steps=[0,1]"]
    assert main(["evaluate", *scored]) == 0
    alone = (tmp_path / "run" / "metrics.json").read_bytes()
    (tmp_path / "run" / "metrics.json").unlink()
    process = start(torchrun("evaluate", *scored))
    try:
        said, _ = process.communicate(timeout=600)
    finally:
        end(process)
    assert process.returncode == 0, said
    assert (tmp_path / "run" / "metrics.json").read_bytes() == alone


def ranks_of(run):
    """The processes of this machine that train into a folder, by rank; the launchers are none of them."""
    found = {}
    for entry in os.listdir("/proc"):
        try:
            command = Path(f"/proc/{entry}/cmdline").read_text().split("\0") if entry.isdigit() else []
            if f"run={run}" in command and "torch.distributed.run" not in command:
                env = dict(pair.partition("=")[::2] for pair in Path(f"/proc/{entry}/environ").read_text().split("\0"))
                found[int(env.get("LOCAL_RANK", 0))] = int(entry)
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_a_killed_rank_ends_the_others_within_a_minute_and_the_run_goes_on(tmp_path, settings, launcher, victim):
    run = tmp_path / "run"
    training = ["train", "model=ali", *settings, "steps=100000", "every.validate=100000", f"run={run}"]
    command = torchrun(*training) if launcher == "torchrun" else [*torchrun()[:1], "-m", "gibbsnet", *training]
    process = start(command if launcher == "torchrun" else [*command, "trainer.devices=2"])
    try:
        until(lambda: (run / "checkpoints" / "previous.ckpt").exists())
        killed = time.monotonic()
        os.kill(ranks_of(run)[victim], signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        until(lambda: not ranks_of(run), patience=60 - (time.monotonic() - killed))
    finally:
        end(process)
    assert process.returncode != 0
    assert any(words in said for words in ("another rank ended", "terminated with code -9", "Signal 9")), said
    assert checkpoint(run)["global_step"] >= 20
