"""train: fits the configured model; goes on where an interrupted run of the same configuration stopped."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from . import callbacks, cluster, plots
from .config import ConfigError, differences, folder, read, write
from .evaluation import validation_distance
from .modules import GibbsNet, build
from .prepare import datamodule, prepare


def train(config: Mapping) -> Path:
    """Trains into the run's folder, which it returns.

    Raises:
        KeyboardInterrupt: a signal ended the training early, and last.ckpt is saved; the signal is its argument.
    """
    run = folder(config)
    start = claim(run, config)
    if start == "finished":
        print(f"{run} is trained already ({config['steps']} steps); restart=true begins anew")
        return run
    if config["trainer"]["threads"]:
        torch.set_num_threads(config["trainer"]["threads"])
    data, judge = datamodule(config), prepare(config)
    module = build(config, data.shape)
    module.start_from(data.mean)
    trainer = _trainer(run, config, data, judge)
    trainer.fit(module, data, ckpt_path=start, weights_only=True)
    # Rank 0's exit code speaks for all: at the first that is not 0 a launcher may kill the ranks that are still at work.
    if (caught := callbacks.interrupted(trainer)) and trainer.is_global_zero:
        print(f"{run}: {caught.name} at step {trainer.global_step}; {cluster.go_on(caught)}", flush=True)
        raise KeyboardInterrupt(caught)
    return run


def claim(run: Path, config: Mapping) -> Path | str | None:
    """The checkpoint to go on from, "finished", or None to begin.

    The configuration that last.ckpt belongs to lies beside it, since the pipeline deletes a stage's outs before it runs.

    Raises:
        ConfigError: the folder holds another configuration, and `restart` is not set.
    """
    checkpoints = run / "checkpoints"
    last, mark = checkpoints / "last.ckpt", checkpoints / "config.yaml"
    if config["trainer"]["fast_dev_run"]:
        return None
    known = read(checkpoints) if mark.exists() else None
    changed = differences(known, config) if known else []
    if changed and not config["restart"]:
        raise ConfigError(
            f"{run} holds another configuration ({', '.join(changed[:3])}): choose another run=..., or restart=true to begin anew"
        )
    complete = last.exists() and steps_of(last) >= config["steps"]
    if complete and not changed and not config["restart"]:
        return "finished"
    if changed or complete:
        print(f"{run}: beginning anew")
        records = ("history.jsonl", "wandb_id.txt", "train.json", "metrics.json")
        for old in [*checkpoints.glob("*.ckpt"), *(run / "figures").glob("*.png"), *(run / name for name in records)]:
            old.unlink(missing_ok=True)
    write(config, mark)
    write(config, run / "config.yaml")
    return last if last.exists() else None


def steps_of(checkpoint: Path) -> int:
    """The batches that a checkpoint has seen."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]


def _trainer(run: Path, config: Mapping, data, judge) -> Trainer:
    options, every = config["trainer"], config["every"]
    _quiet()
    seed = config["evaluation"]["seed"]
    hooks = callbacks.callbacks(
        run,
        measure=lambda module: validation_distance(module, data.data, judge, seed),
        draw=lambda module: plots.figures(module, data.data, judge, seed, quick=True),
        log_every=every["log"],
        evaluate_every=every["validate"],
        save_every=every["checkpoint"],
        progress=options["progress"],
    )
    return Trainer(
        accelerator=options["accelerator"],
        devices=options["devices"],
        num_nodes=options["num_nodes"],
        strategy=options["strategy"],
        precision=options["precision"],
        plugins=cluster.plugins(options["devices"], options["num_nodes"]),
        max_time=options["max_time"],
        fast_dev_run=5 if options["fast_dev_run"] else False,
        max_steps=config["steps"],
        logger=False if options["fast_dev_run"] else tracker(run, config) or False,
        callbacks=[] if options["fast_dev_run"] else hooks,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=options["progress"],
        enable_checkpointing=not options["fast_dev_run"],
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def _quiet() -> None:
    """Silences what Lightning says of things that are as they should be here."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        "does not have many workers",
        "`srun` command is available",
        "have no `validation_step`",
        "LeafSpec",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def tracker(run: Path, config: Mapping):
    """The W&B logger of a run, or None."""
    tracking, names = config["tracking"], (config["experiment"], config["data"]["name"], config["model"]["name"])
    return callbacks.tracker(
        run,
        config,
        mode=tracking["mode"],
        project=tracking["project"],
        entity=tracking["entity"],
        name="/".join([*names, str(config["seed"])]),
        group=tracking["group"] or "/".join(names),
        tags=[*names, *tracking["tags"]],
    )


def load_run(run: Path, config: Mapping, shape: tuple[int, ...]) -> GibbsNet:
    """The trained module of a run: its best checkpoint's weights.

    Raises:
        ConfigError: there is no checkpoint, or it is damaged or belongs to another architecture.
    """
    path = Path(run, "checkpoints", "best.ckpt")
    if not path.exists():
        raise ConfigError(f"{path} does not exist: train first, with python -m gibbsnet train run={run}")
    module = build(config, shape)
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise ConfigError(
            f"{path} is damaged or of another model ({type(error).__name__}): train again with restart=true"
        ) from error
    return module.eval()
