"""evaluate: scores and pictures of a trained run, into its folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from . import callbacks, plots
from .classifier import Judge, weights_hash
from .config import folder
from .data import DataModule
from .evaluation import evaluate as score
from .files import fingerprint, replace
from .modules import build
from .prepare import datamodule, prepare
from .train import device, limit_threads, load_run, look_into, unfinished


def evaluate(config: Mapping) -> dict:
    """Writes metrics.json, scored.json and figures/*.png of the configuration's run, tells W&B, and returns the metrics.

    With `evaluation.split=validation` it writes metrics_validation.json and scored_validation.json and nothing else, and
    scores no test example.
    Under torchrun the processes share the chains' batches, which give the same numbers on however many; the first one writes.
    """
    if config["evaluation"]["split"] == "test":
        callbacks.resolve(config["tracking"]["mode"])  # what cannot be tracked is told before minutes of scoring
    first = join()
    limit_threads(config["trainer"])
    run, wanted = folder(config), config["evaluation"]
    best, stopped = run / "checkpoints" / "best.ckpt", unfinished(run, config) if first else None
    # Taken before the weights are read: should the training go on, the scores pass for older than they are, never for newer.
    weights = fingerprint(best) if first and best.exists() else None
    data, judge = datamodule(config), prepare(config)
    module, untrained = load_run(run, config, data.shape, data.digest), build(config, data.shape).eval()
    if stopped:  # said before the scoring, while best.ckpt is what was just read
        print(
            f"{run}: trained for {stopped} of {config['steps']} steps; the scores are of its best checkpoint so far, "
            f"that of step {look_into(best)[0]}"
        )
    module.to(device(config["trainer"]))
    tuning = wanted["split"] == "validation"
    suffix = "_validation" if tuning else ""
    metrics = score(
        module,
        data.data.tuning if tuning else data.data,
        judge,
        seed=wanted["seed"],
        samples=wanted["samples"],
        steps=wanted["steps"],
        untrained=untrained,
    )
    if not first:
        return metrics
    scores = run / f"metrics{suffix}.json"
    write_json(metrics, scores)
    # It names the scores that it is about: killed in between, old words stand beside new scores, and are not believed.
    said = circumstances(config, data, judge, module.device)
    said |= {"checkpoint": weights, "metrics": fingerprint(scores)}
    write_json(said, run / f"scored{suffix}.json")
    if tuning:
        return metrics
    shown = []
    for name, figure in plots.figures(module, data.data, judge, wanted["seed"]):
        shown.append((name, run / "figures" / f"{name}.png"))
        plots.save(figure, shown[-1][1])
    tracking = config["tracking"]
    where = {key: tracking[key] for key in ("mode", "project", "entity")}
    callbacks.log_metrics(run, metrics, shown, **where)
    return metrics


def circumstances(config: Mapping, data: DataModule, judge: Judge | None, where: torch.device) -> dict:
    """What scores hang on beside the run.

    Scores by another judge, of other data or of another number of samples do not compare; those of another seed, device or
    arithmetic of the processor are other draws of the same.
    """
    options = config["evaluation"]
    return {
        "judge": weights_hash(judge) if judge else None,
        "data": data.digest,
        "samples": options["samples"],
        "seed": options["seed"],
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "arithmetic": torch.backends.cpu.get_cpu_capability() if where.type == "cpu" else None,
        "torch": torch.__version__,
    }


def join() -> bool:
    """Meets the processes that torchrun started with this one; whether this is the first."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_rank() == 0


def write_json(value: dict, path: Path) -> None:
    """Whole or not at all."""
    said = json.dumps(value, indent=1, allow_nan=False) + "\n"
    replace(path, lambda draft: draft.write_text(said))
