"""The project's sweep files: valid as W&B sees them, made of keys that exist, judged by a metric that runs log."""

import json
from importlib.metadata import distribution
from pathlib import Path

import jsonschema
import pytest
import yaml

from gibbsnet.config import load
from gibbsnet.modules import build
from gibbsnet.sweep.file import Range, check, read, settings
from tests.offline_run import read_offline

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
SCHEMA = json.loads(distribution("sweeps").locate_file("sweeps/config/schema.json").read_text())
parametrized = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def content(path):
    return yaml.safe_load(path.read_text())


def test_there_is_one_of_each_method():
    assert {content(path)["method"] for path in FILES} == {"grid", "random", "bayes"}
    assert any(content(path).get("early_terminate") for path in FILES)
    searched = {key for path in FILES for key in read(path).space}
    assert searched >= {"chains.unclamped.steps", "size.z", "size.critic", "penalty.x", "seed"}


@parametrized
def test_wandb_s_own_schema_accepts_it(path):
    jsonschema.Draft7Validator(SCHEMA).validate(content(path))


@pytest.mark.parametrize(
    "change", [{"method": "guess"}, {"parameters": {"seed": {"values": []}}}, {"metrics": {}}, {"steps": 3}]
)
def test_the_schema_refuses(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(content(FILES[0]) | change)


@parametrized
def test_every_parameter_is_a_key_and_every_value_is_taken(path):
    check(read(path), [])


@parametrized
def test_every_value_makes_a_model(path):
    """`load` knows keys and types; which values fit together is known by the model alone."""
    plan = read(path)
    for key, space in plan.space.items():
        for word in [str(space.low), str(space.high)] if isinstance(space, Range) else space:
            config = load(settings(plan, {key: word}, []))
            build(config, config["data"]["shape"])


@parametrized
def test_the_command_gives_each_run_of_an_agent_its_own_folder(path, monkeypatch):
    command, run = content(path)["command"], content(path)["command"][-1]
    assert command[:-1] == ["${env}", "${interpreter}", "-m", "${program}", "train", "${args_no_hyphens}"]
    assert content(path)["program"] == "gibbsnet" and content(path)["project"] == load()["tracking"]["project"]
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert load([run])["run"] == f"runs/sweeps/{path.stem}/abc"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert load([run])["run"] == f"runs/sweeps/{path.stem}/by_hand", "so the recorded command can be run as it is"


def test_the_metric_is_what_a_tracked_run_holds(tmp_path, quick):
    from gibbsnet.__main__ import main

    quick = [setting for setting in quick if not setting.startswith("tracking")]
    assert main(["train", "data=ring", f"run={tmp_path / 'run'}", "tracking.mode=offline", *quick]) == 0
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    names = {name for row in read_offline(folder).history for name in row}
    assert {content(path)["metric"]["name"] for path in FILES} <= names
