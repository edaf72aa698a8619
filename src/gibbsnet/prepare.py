"""prepare: reads (or downloads) the data and trains their judge, once."""

import json
from collections.abc import Mapping
from pathlib import Path

from .classifier import Judge, load_judge, plan, save_judge, train_judge
from .config import ConfigError
from .data import DataModule
from .files import alone, replace


def prepare(config: Mapping) -> Judge | None:
    """The data set's judge, from <judges>/<data>.pt; trained if it is not there.  None where there is nothing to judge.

    Raises:
        ConfigError: it was trained on other data of that name, such as another file of one's own.
    """
    data = datamodule(config)
    if not has_judge(data):
        print(f"{data.data.name} has no labelled images: no judge, no class scores")
        return None
    path = Path(config["judges"], f"{data.data.name}.pt")
    if not path.exists():
        with alone(path.with_suffix(".lock")):  # others wait, and find done what one did
            make_judge(data, path)
    judge, facts = load_judge(path)
    if facts.get("digest") not in (None, data.digest):
        raise ConfigError(
            f"{path} was trained on other data (digest {facts['digest']}, now {data.digest}): say another judges=FOLDER, or "
            "delete it to have it made anew"
        )
    if plan(data.shape).exact and not facts.get("exact"):
        print(
            f"{path} was trained in float32, by an earlier version: its scores compare with those of today's judges no more; "
            "delete it, and evaluate again what is to be compared"
        )
    print(f"judge of {data.data.name}: test accuracy {facts['accuracy']:.4f} on {facts['n']} images, {path}")
    return judge


def make_judge(data: DataModule, path: Path) -> None:
    """Trains and writes the judge, if nobody did while this process waited."""
    if path.exists():
        return
    judge, facts = train_judge(data.data)
    said = json.dumps(facts, indent=1) + "\n"
    replace(path.with_suffix(".json"), lambda draft: draft.write_text(said), raced=True)
    save_judge(judge, facts, path)


def datamodule(config: Mapping) -> DataModule:
    """The configuration's data, loaded.

    Raises:
        ConfigError: the model has labels that the data do not have.
    """
    options = {
        key: value for key, value in config["data"].items() if key not in ("shape", "family", "scale", "classes")
    }
    data = DataModule(steps=config["steps"], seed=config["seed"], attributes="a" in config["graph"], **options)
    data.prepare_data()
    data.setup()
    check_classes(config, data)
    return data


def check_classes(config: Mapping, data: DataModule) -> None:
    """Refuses a model with labels on data that have none, or others."""
    wanted, name = config["data"].get("classes"), data.data.name
    if "y" not in config["graph"]:
        return
    if not data.classes:
        raise ConfigError(
            f"model={config['model']['name']} learns labels, and {name} has no labels: choose another model"
        )
    if wanted != data.classes:
        raise ConfigError(f"data.classes={wanted}, but {name} has {data.classes}: correct it")


def has_judge(data: DataModule) -> bool:
    """Only labelled images are judged: toys have their modes."""
    return data.classes > 1 and len(data.shape) == 3
