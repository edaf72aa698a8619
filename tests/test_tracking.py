import json
import os
import sys
import urllib.error
import urllib.request

import pytest

import gibbsnet.callbacks as ours
from gibbsnet.callbacks import tracking
from gibbsnet.callbacks.history import read
from tests.offline_run import part, payloads, read_offline
from tests.toy import Toy, distance, figure, fit, interrupt, poison

OPTIONS = dict(measure=distance, draw=figure, log_every=5, evaluate_every=8, save_every=7, progress=False)
METRICS = {
    "samples": {"class_score": 5.5, "judge": "digits"},
    "chain": {"10": {"class_frechet_ratio": 0.25}, "n": None},
}


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """No key, no server, and every folder that W&B writes to below the test's own."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name.lower()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("the network was asked"))
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("somebody was asked"))


def untold(tracked, rows):
    """The tracker's rows that the history does not hold; what is the tracker's alone (speed, figures) is left out."""
    known = {name for row in rows for name in row}
    return [row for row in tracked if {k: v for k, v in row.items() if k in known} not in rows]


def folders(run):
    return sorted((run / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One training, and its scores, all offline."""
    run = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME"):
            patch.setenv(name, str(run / "elsewhere"))
        patch.setenv("NETRC", str(run / "netrc"))
        config = {"model": {"name": "ali"}, "steps": 20}
        description = dict(name="ali-0", group="ali", tags=["digits", "test"])
        logger = ours.tracker(run, config, "offline", **description)
        fit(ours.callbacks(run, **OPTIONS), logger=logger)
        ours.log_metrics(run, METRICS, [("samples", run / "figures/samples.png")], "offline")
    return run


@pytest.fixture(scope="module")
def train(run):
    return read_offline(folders(run)[0])


@pytest.fixture(scope="module")
def scores(run):
    return read_offline(folders(run)[1])


class TestOfflineRun:
    def test_description(self, train):
        assert (train.name, train.group, train.tags, train.job_type) == ("ali-0", "ali", ["digits", "test"], "train")
        assert train.config["model"] == {"name": "ali"} and train.config["steps"] == 20
        assert train.exit_code == 0

    def test_rows_are_the_history_s(self, run, train):
        rows = read(run / "history.jsonl")
        assert len(train.history) == len(rows) == 7
        for logged, row in zip(train.history, rows, strict=True):
            assert {name: logged[name] for name in row} == row

    def test_speed_is_tracked_though_not_in_the_history(self, train):
        rates = [row["images_per_second"] for row in train.history if "train/loss_critic" in row]
        assert len(rates) == 4 and all(rate > 0 for rate in rates)

    def test_images_come_with_their_scalars_and_x_axis(self, train):
        judged = [row for row in train.history if "val/distance" in row]
        assert len(judged) == 3
        for row in judged:
            assert part(row, "figures/samples")["_type"] == "image-file" and row["images_seen"] == 10 * row["step"]
            assert (train.folder / "files" / part(row, "figures/samples")["path"]).exists()

    def test_every_curve_is_over_images_seen(self, train):
        star = [metric for metric in train.metrics if metric.glob_name == "*"]
        assert [metric.step_metric for metric in star] == ["images_seen"]
        (best,) = [metric for metric in train.metrics if metric.name == "val/distance"]
        assert best.step_metric == "images_seen" and best.summary.min
        assert "trainer/global_step" not in {name for row in train.history for name in row}

    def test_best_is_in_the_summary(self, run, train):
        judged = [row for row in read(run / "history.jsonl") if "val/distance" in row]
        best = min(judged, key=lambda row: row["val/distance"])
        assert train.summary["best/distance"] == pytest.approx(best["val/distance"])
        assert train.summary["best/step"] == best["step"] and train.summary["best/other"] == 2.0
        assert train.summary["best/images_seen"] == best["images_seen"]

    def test_checkpoints_are_one_artifact(self, train):
        models = [artifact for artifact in train.artifacts if artifact[0] == "model"]
        assert models == [("model", f"model-{train.identity}", ["best.ckpt", "last.ckpt"])]

    def test_scores_join_the_same_run(self, run, train, scores):
        assert scores.identity == train.identity == (run / "wandb_id.txt").read_text().strip()

    def test_scores(self, run, scores):
        (row,) = scores.history
        assert row["samples/class_score"] == 5.5 and row["chain/10/class_frechet_ratio"] == 0.25
        assert row["images_seen"] == 200 and part(row, "figures/samples")["_type"] == "image-file"
        assert scores.summary["samples/class_score"] == 5.5
        assert scores.summary["chain/10/class_frechet_ratio"] == 0.25

    def test_table(self, scores):
        path = scores.folder / "files" / part(scores.history[0], "metrics")["path"]
        table = json.loads(path.read_text())
        assert table["columns"] == ["metric", "value"]
        assert table["data"] == [["samples/class_score", 5.5], ["chain/10/class_frechet_ratio", 0.25]]

    def test_all_files_lie_in_the_run_folder(self, run):
        stray = [path for path in (run / "elsewhere").rglob("*.ckpt")] if (run / "elsewhere").exists() else []
        assert stray == [] and "WANDB_DATA_DIR" not in os.environ

    def test_the_reader_notices_damage(self, train):
        (log,) = train.folder.glob("*.wandb")
        raw = bytearray(log.read_bytes())
        raw[40] ^= 1
        with pytest.raises(AssertionError, match="damaged"):
            list(payloads(bytes(raw)))


class TestTraining:
    def test_a_resumed_training_is_the_same_run(self, tmp_path):
        for options in (dict(module=Toy({11: interrupt()})), dict(ckpt_path=tmp_path / "checkpoints/last.ckpt")):
            fit(ours.callbacks(tmp_path, **OPTIONS), logger=ours.tracker(tmp_path, mode="offline"), **options)
        first, second = map(read_offline, folders(tmp_path))
        assert first.identity == second.identity
        steps = [[row["step"] for row in part.history] for part in (first, second)]
        assert steps == [[5, 8, 10], [5, 8, 10, 15, 16, 20, 20]], "what the first process told is told again"
        assert untold(first.history + second.history, read(tmp_path / "history.jsonl")) == []

    def test_a_failed_training_is_a_failed_run(self, tmp_path):
        with pytest.raises(ours.NonFiniteError):
            logger = ours.tracker(tmp_path, mode="offline")
            fit(ours.callbacks(tmp_path, **OPTIONS), logger=logger, module=Toy({3: poison()}))
        assert read_offline(folders(tmp_path)[0]).exit_code == 1

    def test_a_sweep_s_agent_names_the_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
        ours.tracker(tmp_path, mode="offline").experiment.finish()
        monkeypatch.delenv("WANDB_RUN_ID")
        assert tracking._identity(tmp_path, anew=False) == "fromagent" != tracking._identity(tmp_path, anew=True)

    def test_the_entity_is_told(self, tmp_path, monkeypatch):
        told, begin = [], tracking._begin
        monkeypatch.setattr(tracking, "_begin", lambda *a, **k: told.append(k["entity"]) or begin(*a, **k))
        tracked = ours.tracker(tmp_path, mode="offline", entity="my-team")
        assert tracked.experiment.entity == "my-team"
        tracked.experiment.finish()
        ours.log_metrics(tmp_path, METRICS, mode="offline", entity="my-team")
        assert told == ["my-team"] * 2

    def test_two_runs_in_one_process(self, tmp_path):
        loggers = [ours.tracker(tmp_path / name, mode="offline") for name in "ab"]
        assert loggers[0].experiment.id != loggers[1].experiment.id
        for logger in loggers:
            logger.experiment.finish()
        assert len(folders(tmp_path / "a")) == len(folders(tmp_path / "b")) == 1


class TestMode:
    def test_auto_without_a_key_is_offline_and_says_so_once(self, tmp_path, capsys):
        ours.tracker(tmp_path, mode="auto").experiment.finish()
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        assert lines == [
            f"W&B: offline (not logged in), in {tmp_path}/wandb; upload with: wandb sync {tmp_path}/wandb/offline-run-*"
        ]

    def test_auto_without_a_network_is_offline(self, monkeypatch):
        def unreachable(*_, **__):
            raise urllib.error.URLError("no route")

        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setattr(urllib.request, "urlopen", unreachable)
        mode, line = tracking.resolve("auto")
        assert mode == "offline" and "https://api.wandb.ai does not answer" in line

    def test_auto_with_a_key_and_a_network_is_online(self, tmp_path, monkeypatch):
        (tmp_path / "netrc").write_text("machine wandb.local login user password " + "0" * 40 + "\n")
        monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.local:80")

        def refusing(url, **_):
            raise urllib.error.HTTPError(url, 403, "forbidden", {}, None)

        monkeypatch.setattr(urllib.request, "urlopen", refusing)
        assert tracking.resolve("auto")[0] == "online"
        monkeypatch.setenv("WANDB_BASE_URL", "http://another.local")
        assert tracking.resolve("auto")[0] == "offline"

    def test_auto_falls_back_if_going_online_fails(self, tmp_path, monkeypatch, capsys):
        import wandb

        init = wandb.init

        def flaky(**options):
            if options["mode"] == "online":
                raise wandb.errors.CommError("key refused")
            return init(**options)

        monkeypatch.setattr(wandb, "init", flaky)
        monkeypatch.setattr(tracking, "_lacking", lambda: None)
        ours.tracker(tmp_path, mode="auto").experiment.finish()
        assert "offline (key refused)" in capsys.readouterr().err and len(folders(tmp_path)) == 1
        with pytest.raises(ours.TrackingError, match="online: key refused"):
            ours.tracker(tmp_path, mode="online")

    def test_auto_obeys_the_environment(self, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert tracking.resolve("auto")[0] == "disabled"
        assert tracking.resolve("offline")[0] == "offline"

    def test_online_without_a_key_is_an_error(self, tmp_path):
        with pytest.raises(ours.TrackingError, match="not logged in"):
            ours.tracker(tmp_path, mode="online")

    def test_unknown(self, tmp_path):
        with pytest.raises(ours.TrackingError, match="expected one of auto, online, offline, disabled"):
            ours.tracker(tmp_path, mode="of")

    def test_disabled_does_not_need_wandb(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)
        logger = ours.tracker(tmp_path, mode="disabled")
        fit(ours.callbacks(tmp_path, **OPTIONS), logger=logger or False)
        ours.log_metrics(tmp_path, METRICS, mode="disabled")
        assert logger is None and not (tmp_path / "wandb").exists()
        assert (tmp_path / "checkpoints/best.ckpt").exists()

    def test_auto_without_wandb_is_disabled_and_offline_is_an_error(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "wandb", None)
        assert ours.tracker(tmp_path) is None
        assert "wandb is not installed" in capsys.readouterr().err
        with pytest.raises(ours.TrackingError, match="not installed"):
            ours.tracker(tmp_path, mode="offline")

    def test_other_ranks_open_no_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tracking.rank_zero_only, "rank", 1)
        logger = ours.tracker(tmp_path, mode="offline")
        logger.experiment.log({"a": 1})
        assert not (tmp_path / "wandb").exists() and not (tmp_path / "wandb_id.txt").exists()


def test_flatten():
    assert tracking.flatten(METRICS) == {"samples/class_score": 5.5, "chain/10/class_frechet_ratio": 0.25}
