"""Local sweeps: the search with a stand-in for the training that takes no time, and once with the real one."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from gibbsnet import sweep
from gibbsnet.__main__ import main
from gibbsnet.config import ConfigError
from gibbsnet.sweep import search, trial
from gibbsnet.sweep.file import Range, check, command, read, settings

ROOT = Path(__file__).parents[1]
# Writes what a training writes: eight evaluations that fall towards a floor set by optim.lr, the best of which is .001.
# The one whose setting stands in the file `hold` waits after its fourth until it is stopped or the file is gone.
TRAINING = """
import json, math, pathlib, signal, sys, time
said = dict(word.split("=", 1) for word in sys.argv[1:])
run, hold, stop = pathlib.Path(said["run"]), pathlib.Path("hold"), []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
(run / "starts").open("a").write("x")
if said.get("game.loss") == "relativistic":
    sys.exit("no such game today")
floor = abs(math.log10(float(said.get("optim.lr", .001))) + 3) + int(said.get("seed", 0)) / 100
path = run / "history.jsonl"
for k in range(len(path.read_text().splitlines()) if path.exists() else 0, 8):
    if stop:
        (run / "stopped").touch()
        sys.exit(130)
    value = None if said.get("optim.clip") == "0.5" else floor + 1 / (k + 1)
    path.open("a").write(json.dumps({"step": k, "train/loss": 1.0, "val/distance": value}) + "\\n")
    end = time.monotonic() + 120
    while k == 3 and hold.exists() and hold.read_text() in sys.argv and not stop and time.monotonic() < end:
        time.sleep(0.01)
"""
EARLY = {"type": "hyperband", "min_iter": 2, "eta": 2}
LR = {"optim.lr": {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"}}
SEEDS = {"seed": {"values": [0, 1, 2]}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(trial, "POLL", 0.02)


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file whose trials are the stand-in."""
    (tmp_path / "training.py").write_text(TRAINING)

    def write(parameters=SEEDS, method="grid", name="file", **more):
        content = {
            "method": method,
            "metric": {"name": "val/distance", "goal": "minimize"},
            "parameters": parameters,
            "command": [
                "${env}",
                "${interpreter}",
                str(tmp_path / "training.py"),
                "${args_no_hyphens}",
                "run=elsewhere",
            ],
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content | more))
        return str(tmp_path / f"{name}.yaml")

    return write


def result(folder="runs/sweeps/file"):
    return json.loads(Path(folder, "sweep.json").read_text())


def trials(folder="runs/sweeps/file"):
    return [{k: t[k] for k in ("number", "state", "params", "value")} for t in result(folder)["trials"]]


def test_a_grid_is_searched_whole(write, capsys):
    assert main(["sweep", write(), "steps=7"]) == 0
    found = result()
    assert [t["state"] for t in found["trials"]] == ["complete"] * 3
    assert sorted(t["params"]["seed"] for t in found["trials"]) == ["0", "1", "2"]
    assert {t["params"]["seed"]: t["value"] for t in found["trials"]} == pytest.approx(
        {"0": 0.125, "1": 0.135, "2": 0.145}
    )
    assert found["trials"][found["best"]]["params"] == {"seed": "0"}
    assert Path("runs/sweeps/file/parallel.png").stat().st_size > 1000
    assert "best val/distance 0.125" in capsys.readouterr().out
    before = Path("runs/sweeps/file/sweep.json").read_bytes()
    assert main(["sweep", write(), "steps=7", "trials=9"]) == 0
    assert "the grid is exhausted after 3 trials" in capsys.readouterr().out
    assert Path("runs/sweeps/file/sweep.json").read_bytes() == before
    assert [p.read_text() for p in sorted(Path("runs/sweeps/file").glob("*/starts"))] == ["x"] * 3


def test_the_best_is_the_highest_where_that_is_the_goal(write):
    metric = {"name": "val/distance", "goal": "maximize"}
    assert main(["sweep", write(metric=metric)]) == 0
    assert result()["trials"][result()["best"]]["params"] == {"seed": "2"}
    assert result()["trials"][result()["best"]]["value"] == pytest.approx(1.02)


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_trials_in_all_and_the_same_ones_in_two_goes(write, method):
    path = write(LR, method)
    assert main(["sweep", path, "trials=4", "out=whole"]) == 0
    assert main(["sweep", path, "trials=2", "out=parts"]) == 0
    assert len(trials("parts")) == 2
    assert main(["sweep", path, "trials=4", "out=parts"]) == 0
    assert trials("parts") == trials("whole") and len(trials("whole")) == 4
    assert len({t["params"]["optim.lr"] for t in trials("whole")}) == 4, "continued searches do not draw the same again"
    assert all(1e-4 <= float(t["params"]["optim.lr"]) <= 1e-2 for t in trials("whole"))


def test_bayes_finds_the_valley_that_random_search_only_hits(write):
    """After ten random trials TPE draws near the best: the mean of its last ten beats the first ten's."""
    assert main(["sweep", write(LR, "bayes"), "trials=20"]) == 0
    values = [t["value"] for t in trials()]
    assert sum(values[10:]) / 10 < 0.7 * sum(values[:10]) / 10


def test_what_lags_behind_is_stopped_and_judged_by_its_reports_alone(write, monkeypatch):
    """Rungs after 2 and 4 reports. One clock catches the trial at work, the other one after it has ended."""
    lr = {"optim.lr": {"values": [1e-1, 1e-3, 2e-3]}}  # the grid begins with its last point
    path = write(lr, early_terminate=EARLY)
    Path("hold").write_text("optim.lr=0.1")
    assert main(["sweep", path, "out=slow"]) == 0
    Path("hold").unlink()
    monkeypatch.setattr(trial, "POLL", 30)
    assert main(["sweep", path, "out=fast"]) == 0
    assert trials("slow") == trials("fast")
    (lagging,) = [t for t in trials("slow") if t["params"]["optim.lr"] == "0.1"]
    assert lagging["state"] == "stopped" and lagging["value"] == pytest.approx(2.5), "what it was after two reports"
    assert [t["state"] for t in trials("slow") if t["params"]["optim.lr"] == "0.001"] == ["complete"]
    at_work, over = (Path(folder, str(lagging["number"])) for folder in ("slow", "fast"))
    assert (at_work / "stopped").exists(), "it was told to stop, and ended by itself"
    assert [len((f / "history.jsonl").read_text().splitlines()) for f in (at_work, over)] == [4, 8]


def test_a_failing_trial_is_recorded_and_ends_nothing(write, capsys):
    parameters = {"game.loss": {"values": ["nonsaturating", "relativistic"]}, "seed": {"values": [1, 2]}}
    assert main(["sweep", write(parameters)]) == 0
    states = {(t["params"]["game.loss"], t["params"]["seed"]): t for t in result()["trials"]}
    for seed in "12":
        assert states["relativistic", seed]["state"] == "failed" and states["relativistic", seed]["value"] is None
        assert states["relativistic", seed]["error"] == "exit code 1: no such game today"
        assert states["nonsaturating", seed]["state"] == "complete"
    said = capsys.readouterr().out
    assert "failed: exit code 1: no such game today" in said
    assert said.splitlines()[-1].startswith("runs/sweeps/file: 4 trials (2 failed), best val/distance ")


def test_a_sweep_whose_trials_have_all_failed_has_failed(write, capsys):
    """A trial without a finite value has failed as well; another command of the sweep tells so again."""
    for _ in range(2):
        assert main(["sweep", write(), "trials=1", "optim.clip=0.5"]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("gibbsnet sweep: runs/sweeps/file: no trial of 1 has a value")
        assert "no finite value of val/distance" in said and "train.log" in said
    assert result()["trials"][0]["error"] == "no finite value of val/distance in history.jsonl"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_goes_on_with_the_trial_that_was_cut_off(write, monkeypatch, number):
    path = write(early_terminate=EARLY)
    assert main(["sweep", path, "out=whole"]) == 0
    look = trial._values
    Path("hold").write_text("seed=1")

    def interrupting(folder, metric):
        values = look(folder, metric)
        if folder == Path("parts/1") and len(values) >= 1:
            monkeypatch.setattr(trial, "_values", look)
            os.kill(os.getpid(), number)
        return values

    monkeypatch.setattr(trial, "_values", interrupting)
    assert main(["sweep", path, "out=parts"]) == 130
    assert [t["state"] for t in trials("parts")] == ["complete", "interrupted"]
    assert (Path("parts/1/stopped")).exists(), "the trial was interrupted, and ended by itself"
    Path("hold").unlink()
    assert main(["sweep", path, "out=parts"]) == 0
    assert trials("parts") == trials("whole")
    assert Path("parts/1/starts").read_text() == "xx" and Path("parts/0/starts").read_text() == "x"


def test_a_trial_that_has_hardly_begun_can_be_stopped_where_interrupts_are_ignored(tmp_path):
    """As they are in a shell's background jobs, which hand that on to what they start."""
    deaf = [sys.executable, "-c", "import time; time.sleep(30)"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with (tmp_path / "lock").open("w") as lock, sweep._terminable():
            os.kill(os.getpid(), signal.SIGINT)  # it goes on ignoring them itself
            begun = time.monotonic()
            assert trial.run(deaf, tmp_path, "val/distance", lambda values: True, lock.fileno()) == ([], True, None)
            assert time.monotonic() - begun < 20, "it was not waited for"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_sweep_loses_and_repeats_nothing(write, capsys):
    path = write()
    assert main(["sweep", path, "out=whole"]) == 0
    Path("hold").write_text("seed=1")
    child = os.fork()
    if child == 0:
        main(["sweep", path, "out=parts"])
        os._exit(0)
    end = time.monotonic() + 120
    while not Path("parts/1/history.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    capsys.readouterr()
    assert main(["sweep", path, "out=parts"]) == 1, "its trial is still at work there"
    said = capsys.readouterr().err
    assert "at work in parts: wait until it has ended" in said and said.count("\n") == 1
    Path("hold").unlink()
    while main(["sweep", path, "out=parts"]) == 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert trials("parts") == trials("whole")


def test_a_record_that_was_torn_and_a_lock_that_was_left(write):
    """Optuna itself spins on such a lock for ever: it looks for the age of what the lock points to, from another folder."""
    assert main(["sweep", write(), "trials=2"]) == 0
    log = Path("runs/sweeps/file/study.log")
    log.write_bytes(log.read_bytes() + b'{"op_code": 4, "worker')
    log.with_name("study.log.lock").symlink_to(log)
    assert main(["sweep", write()]) == 0
    assert len(trials()) == 3 and all(json.loads(line) for line in log.read_text().splitlines())


def test_a_decision_to_stop_outlives_the_process(write, tmp_path):
    path = write({"optim.lr": {"values": [1e-3, 1e-2]}}, early_terminate=EARLY)
    plan, folder = read(Path(path)), tmp_path / "study"
    folder.mkdir()
    first = search.Search(plan, folder, [])
    for values, lags in (([0.1, 0.1], False), ([0.9, 0.9], True)):
        asked, _ = first.ask()
        assert first.report(asked, values) is lags
        if not lags:
            first.tell(asked, values, False, None)
    again = search.Search(plan, folder, [])
    asked, _ = again.ask()
    assert asked.number == 1 and again.report(asked, [0.9, 0.9]) and again.report(asked, [0.9, 0.9, 0.05])


def test_another_sweep_in_the_folder_is_refused(write, capsys):
    assert main(["sweep", write(), "trials=1"]) == 0
    before = Path("runs/sweeps/file/study.log").read_bytes()
    assert main(["sweep", write({"seed": {"values": [7, 8]}}), "trials=1"]) == 1
    assert "holds another sweep (parameters): choose another out=FOLDER" in capsys.readouterr().err
    assert main(["sweep", write(), "trials=1", "steps=9"]) == 1
    assert "holds another sweep (overrides)" in capsys.readouterr().err
    assert Path("runs/sweeps/file/study.log").read_bytes() == before


def test_rules_that_several_keys_make_are_held_against_points_of_the_search(write):
    together = {
        "chains.unclamped.steps": {"values": [1, 3]},
        "chains.unclamped.start_from_data": {"values": [0.25, 0.5]},
    }
    check(read(Path(write(together))), [])
    with pytest.raises(ConfigError, match="start_from_data needs steps >= 1"):
        check(read(Path(write({**together, "chains.unclamped.steps": {"values": [1, 0]}}))), [])


@pytest.mark.parametrize("more", [{"kind": "sweep", "controller": {"type": "local"}}, {"description": "words"}])
def test_what_only_wandb_s_service_reads_and_no_search_hangs_on_may_stand_there(write, more):
    assert read(Path(write(**more))).method == "grid"


def one(**parameter):
    return {"seed": parameter}


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({"method": "magic"}, [], ["method 'magic'", "grid, random, bayes"]),
        ({"metric": {"goal": "minimize"}}, [], ["no metric"]),
        ({"metric": {"name": "val/distance", "goal": "up"}}, [], ["goal 'up'"]),
        ({"metric": {"name": "val/distanc"}}, [], ["no run logs 'val/distanc'", "did you mean 'val/distance'?"]),
        ({"parameters": {}}, [], ["no parameters"]),
        ({"parameters": one(value=1)}, [], ["nothing is searched"]),
        ({"parameters": {"optim.lrr": {"values": [1.0]}}}, [], ["unknown key 'optim.lrr'", "'optim.lr'"]),
        ({"parameters": one(values=[1, "two"])}, [], ["seed=two", "an integer"]),
        ({"parameters": {"model": {"values": ["ali", "dali"]}}}, [], ["model=dali", "ali"]),
        ({"parameters": one(min=1.5, max=2)}, [], ["seed", "a grid needs values"]),
        ({"parameters": one(min=5, max=2)}, [], ["seed", "min below max"]),
        ({"parameters": one(values=[])}, [], ["seed", "expected value"]),
        ({"parameters": one(min=0.1, max=2, distribution="normal")}, [], ["seed", "'normal'"]),
        ({"parameters": one(values=[1], probabilities=[1])}, [], ["'probabilities'"]),
        ({"early_terminate": {"type": "median"}}, [], ["early_terminate"]),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, [], ["min_iter"]),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 1.5}}, [], ["eta=1.5"]),
        ({"early_terminate": {"type": "hyperband", "max_iter": "few", "s": 1}}, [], ["max_iter", "whole numbers"]),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 2, "etaa": 2}},
            [],
            ["early_terminate", "'etaa'", "eta"],
        ),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2, "strict": True}}, [], ["strict", "service"]),
        ({"metric": {"name": "val/distance", "target": 0.1}}, [], ["metric.target=0.1", "service"]),
        ({"run_cpa": 1}, [], ["'run_cpa'", "run_cap"]),
        ({"metric": {"name": "val/distance", "gaol": "maximize"}}, [], ["metric", "'gaol'", "goal"]),
        ({"parameters": one(value=1, values=[1, 2])}, [], ["parameter seed", "'values'"]),
        ({"parameters": {"run": {"values": ["a", "b"]}}}, [], ["run=", "out=FOLDER"]),
        (
            {"parameters": {"game.loss": {"values": ["relativistic", "foo"]}}},
            [],
            ["unknown loss 'foo'", "relativistic"],
        ),
        ({"parameters": {"penalty.z": {"values": [0.1, -1.0]}}}, [], ["gamma", "-1.0"]),
        ({"parameters": {"chains.unclamped.grad_draws": {"values": [0, 1]}}}, [], ["grad_draws must be >= 1"]),
        ({}, ["out="], ["out=", "a folder"]),
        ({"run_cap": "few"}, [], ["run_cap: few", "at least 1"]),
        ({"run_cap": -1}, [], ["run_cap: -1", "at least 1"]),
        ({"command": 5}, [], ["${args_no_hyphens}"]),
        (
            {"method": "random", "parameters": one(min=0.1, max=2, distribution="q_uniform", q="x")},
            [],
            ["seed", "q: x"],
        ),
        ({"command": ["python", "train.py", "${args}"]}, [], ["${args_no_hyphens}"]),
        ({"command": ["${envvar:HOME}", "${args_no_hyphens}"]}, [], ["${envvar:HOME}"]),
        ({"method": "random"}, [], ["trials=N"]),
        ({}, ["trials=0"], ["trials=0", "at least 1"]),
        ({}, ["trials=few"], ["trials=few"]),
        ({}, ["seed=4"], ["seed", "leave it out"]),
        ({}, ["run=here"], ["run=", "out=FOLDER"]),
        ({}, ["stepz=4"], ["stepz", "steps"]),
        ({}, ["other.yaml"], ["one sweep file"]),
    ],
)
def test_bad_input_is_one_line(write, capsys, change, arguments, words):
    path = write(**change)
    assert main(["sweep", path, *arguments]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words), said
    assert not list(Path().rglob("parallel.png"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"a: [", "not readable as YAML"), (b"\xff\xfe\x00", "YAML"), (b"3", "no sweep")],
)
def test_a_file_that_is_no_sweep(tmp_path, capsys, content, words):
    if content is not None:
        (tmp_path / "odd.yaml").write_bytes(content)
    assert main(["sweep", "odd.yaml", "trials=1"]) == 1
    said = capsys.readouterr().err
    assert "odd.yaml" in said and words in said and said.count("\n") == 1
    assert not Path("runs").exists()


def test_without_optuna_the_extra_is_named(write, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["sweep", write()]) == 1
    assert "gibbsnet[sweep]" in capsys.readouterr().err


def test_words_and_ranges(write):
    parameters = {
        "chains.unclamped.steps": {"values": [0, [0, 3]]},
        "seed": {"min": 1, "max": 3},
        "optim.lr": {"min": 0, "max": 1.0},
        "optim.ema": {"min": 0.5, "max": 0.9, "distribution": "q_uniform", "q": 0.1},
        "penalty.x": {"value": 0.1},
    }
    plan = read(Path(write(parameters, "random")))
    assert plan.space["chains.unclamped.steps"] == ["0", "[0, 3]"] and plan.constants == {"penalty.x": "0.1"}
    assert plan.space["seed"] == Range(1, 3) and plan.space["seed"].whole
    assert plan.space["optim.lr"] == Range(0.0, 1.0) and not plan.space["optim.lr"].whole
    assert plan.space["optim.ema"].step == 0.1
    assert len(read(Path(write(one(min=1, max=3)))).points()) == 3
    assert settings(plan, {"seed": "2"}, ["penalty.x=1"]) == ["penalty.x=0.1", "seed=2", "penalty.x=1"]
    line = command(plan, {"seed": "2"}, [], Path("there"))
    assert line[:2] == ["/usr/bin/env", sys.executable] and line[-2:] == ["seed=2", "run=there"]
    with pytest.raises(ConfigError, match="q_log"):
        read(Path(write({"seed": {"min": 1, "max": 2, "distribution": "q_log_uniform_values"}}, "random")))


@pytest.mark.parametrize(
    ("early", "rungs"),
    [({"min_iter": 3, "eta": 2}, (3, 2)), ({"min_iter": 1}, (1, 3)), ({"max_iter": 27, "s": 2, "eta": 3}, (3, 3))],
)
def test_hyperband_s_rungs_are_wandb_s(write, early, rungs):
    plan = read(Path(write(early_terminate={"type": "hyperband", **early})))
    assert (plan.early["first"], plan.early["eta"]) == rungs


def test_the_report_shows_a_sweep_and_takes_its_trials_for_no_runs(write, capsys):
    assert main(["sweep", write({"game.loss": {"values": ["nonsaturating", "relativistic"]}})]) == 0
    for k in "01":
        Path("runs/sweeps/file", k, "config.yaml").write_text("seed: 1")
    for arguments in (["runs"], ["runs/sweeps/file"], ["runs/sweeps/file", "runs/sweeps"]):
        assert main(["report", *arguments]) == 0
        html = Path("reports/index.html").read_text()
        assert html.count("<h2>Sweep file</h2>") == 1 and "0 runs" in html and "no such game today" in html
        assert 'alt="trials of file"' in html and '<td class="best">0.125</td>' in html and 'href="#runs"' not in html
    whole = Path("runs/sweeps/file/sweep.json")
    content = json.loads(whole.read_text())
    for change, words in (
        ({"trials": 3}, "sweep.json: trials is no list"),
        ({"trials": [{}]}, "sweep.json: expected error, number, params, state, value of every trial"),
        ({"parameters": None}, "sweep.json: parameters is no list"),
    ):
        whole.write_text(json.dumps(content | change))
        assert main(["report", "runs"]) == 0 and words in Path("reports/index.html").read_text()
    whole.write_text(json.dumps({key: value for key, value in content.items() if key != "best"}))
    assert main(["report", "runs"]) == 0 and "sweep.json has no best" in Path("reports/index.html").read_text()
    Path("runs/sweeps/file/sweep.json").write_text('{"file": ')
    assert main(["report", "runs"]) == 0
    assert "sweep.json: Expecting value" in Path("reports/index.html").read_text()


def test_the_real_training(monkeypatch):
    """The project's own file: a trial with its record, its checkpoint and its report."""
    more = ["data=ring", "steps=20", "every.log=10", "every.validate=20", "tracking.mode=disabled"]
    file = str(ROOT / "sweeps" / "steps.yaml")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])))
    assert main(["sweep", file, "trials=1", *more, "trainer.accelerator=cpu", "trainer.progress=false"]) == 0
    assert [t["state"] for t in trials("runs/sweeps/steps")] == ["complete"], result("runs/sweeps/steps")
    (found,), run = trials("runs/sweeps/steps"), Path("runs/sweeps/steps/0")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert str(config["chains"]["unclamped"]["steps"]) == found["params"]["chains.unclamped.steps"]
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert found["value"] == min(row["val/distance"] for row in rows if "val/distance" in row)
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert main(["report", "runs"]) == 0 and "Sweep steps" in Path("reports/index.html").read_text()
