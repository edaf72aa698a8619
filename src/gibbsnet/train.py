"""train: fits the configured model; goes on where an interrupted run of the same configuration stopped."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from . import callbacks, cluster, plots
from .config import ConfigError, differences, experiments, folder, read, write
from .data import DataModule
from .evaluation import validation_distance
from .files import alone
from .modules import GibbsNet, build
from .prepare import datamodule, prepare

UNTAUGHT = (
    "x is held by both chains in every batch, and nothing teaches how it is drawn: chains.unclamped.dream_every=2 has every "
    "second batch dream"
)
GENERAL = "these are general settings; for this model and data set there are (README): experiment={}"


def train(config: Mapping) -> Path:
    """Trains into the run's folder, which it returns.

    Raises:
        ConfigError: the folder or the options cannot be used.
        BlockingIOError: another training is at work in the folder.
        KeyboardInterrupt: a signal ended the training early, and last.ckpt is saved; the signal is its argument.
    """
    run = folder(config)
    if file := next((path for path in (run, *run.parents) if path.is_file()), None):
        raise ConfigError(
            f"{'run=' if file == run else ''}{file} is a file: say {'a' if file == run else 'another'} folder"
        )
    if config["evaluation"]["split"] != "test":
        raise ConfigError(
            f"evaluation.split={config['evaluation']['split']}: leave it out here, and say it to evaluate"
        )
    claimed = claim(run, config)
    if claimed.finished and claimed.digest:
        claimed = on_the_same_data(run, claimed, datamodule(config).digest, config["restart"])
    if claimed.finished:
        print(f"{run} is trained already ({config['steps']} steps); restart=true begins anew")
        return run
    limit_threads(config["trainer"])
    data = datamodule(config)
    claimed = on_the_same_data(run, claimed, data.digest, config["restart"])
    module = build(config, data.shape)
    module.start_from(data.mean)
    if claimed.start:
        _of_this_model(claimed.start, module)
    judge = cache(lambda: prepare(config))
    with ExitStack() as held:
        trainer = _trainer(run, config, data, judge, _beginning(run, config, data.digest, claimed, held))
        if trainer.is_global_zero and _always_holds_x(module):
            print(UNTAUGHT, file=sys.stderr)
        judge()  # takes minutes: what cannot be is refused before
        module.replays = config["trainer"]["replay"] and trainer.world_size == 1  # with several nobody has tried it
        data.shared_by(trainer.world_size)
        _fit(trainer, module, data, claimed.start)
    # Rank 0's exit code speaks for all: at the first that is not 0 a launcher may kill the ranks that are still at work.
    if (caught := callbacks.interrupted(trainer)) and trainer.is_global_zero:
        cluster.go_on(caught, f"{run}: {caught.name} at step {trainer.global_step}")
        raise KeyboardInterrupt(caught)
    steps, limit = trainer.global_step, config["trainer"]["max_time"]
    if limit and steps < config["steps"] and trainer.is_global_zero and not config["trainer"]["fast_dev_run"]:
        print(f"{run}: trainer.max_time={limit} ends it at step {steps} of {config['steps']}; with more it goes on")
        print(f"{run}: its best checkpoint, which is scored, is that of step {callbacks.best_step(trainer)}")
    return run


def _always_holds_x(module: GibbsNet) -> bool:
    """Whether neither the unclamped chain's draws nor a cycle loss teach p(x|...)."""
    chain = module.unclamped
    held = "x" in chain.clamped and chain.mode["x"].share == 1
    return held and not chain.dream_every and not module.game.cycle


def _fit(trainer: Trainer, module: GibbsNet, data: DataModule, start: Path | None) -> None:
    # Lightning reads a checkpoint into the weights before it gives them their precision: double ones would be rounded.
    trainer.precision_plugin.convert_module(module)
    try:
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
    except RuntimeError as error:
        if said := callbacks.lost(error, trainer):
            raise said from error
        raise


@dataclass(frozen=True)
class Claim:
    """What a run's folder was found to hold: the checkpoint to go on from, if any, and the digest that the data must have;
    whether there is nothing left to do; what has to be forgotten, or moved out of the way, before the training begins."""

    start: Path | None = None
    digest: str | None = None
    finished: bool = False
    anew: bool = False
    damaged: Path | None = None


def claim(run: Path, config: Mapping) -> Claim:
    """Looks at the folder and changes nothing, so that every rank comes to the same answer: see `take`.

    The configuration that last.ckpt belongs to lies beside it, since the pipeline deletes a stage's outs before it runs.

    Raises:
        ConfigError: the folder holds another configuration, or damaged checkpoints alone, and `restart` is not set.
    """
    checkpoints, restart = run / "checkpoints", config["restart"]
    if config["trainer"]["fast_dev_run"]:
        return Claim()
    known = _known(checkpoints, restart)
    changed = differences(known, config) if known is not None else []
    if changed and not restart:
        raise ConfigError(
            f"{run} holds another configuration ({', '.join(changed[:3])}): choose another run=..., or restart=true to begin anew"
        )
    found = [path for path in (checkpoints / "last.ckpt", checkpoints / "previous.ckpt") if path.exists()]
    if changed or not found:
        return Claim(anew=bool(changed))
    start, (steps, digest) = next(((path, seen) for path in found if (seen := look_into(path))), (None, (0, None)))
    if not restart and not start:
        raise ConfigError(
            f"damaged: {' and '.join(map(str, found))}; put a whole one there, or restart=true to begin anew"
        )
    if steps >= config["steps"] and not restart:
        moved = known is not None and known["data"].get("path") != config["data"].get("path")  # or another file
        return Claim(finished=True, digest=digest if moved else None)
    if steps >= config["steps"] or not start:
        return Claim(anew=True)
    return Claim(start, digest, damaged=found[0] if start != found[0] else None)


def _known(checkpoints: Path, restart: bool) -> dict | None:
    """The configuration that the checkpoints belong to, if it is there; one that cannot be read is no reason to keep them."""
    if not (checkpoints / "config.yaml").exists():
        return None
    try:
        return read(checkpoints)
    except ConfigError:
        if restart:
            return {}
        raise


def on_the_same_data(run: Path, claimed: Claim, digest: str | None, restart: bool) -> Claim:
    """The claim, if the data are those that the checkpoint was trained on; an old checkpoint, and a toy, do not say.

    Raises:
        ConfigError: a file was altered since, and `restart` is not set.
    """
    if claimed.digest in (None, digest):
        return claimed
    if not restart:
        raise ConfigError(
            f"{run} was trained on other data (digest {claimed.digest}, now {digest}): put the old files back, choose another "
            "run=..., or restart=true to begin anew"
        )
    return Claim(anew=True)


def take(run: Path, config: Mapping, claimed: Claim) -> None:
    """Makes the folder this run's own."""
    checkpoints = run / "checkpoints"
    if claimed.anew:
        print(f"{run}: beginning anew")
        measured = run.glob("*.json")  # of the weights that go: by training, `evaluate` and benchmarks
        records = [run / "history.jsonl", *measured]
        drawn = [*(run / "figures").glob("*.png"), *(run / "samples").glob("*.png"), *(run / "samples").glob("*.npz")]
        for old in [*checkpoints.glob("*.ckpt"), *drawn, *records]:
            old.unlink(missing_ok=True)
    if claimed.damaged:
        aside = claimed.damaged.with_suffix(".damaged")
        print(f"{claimed.damaged} is damaged, now {aside.name}: going on from {claimed.start}", file=sys.stderr)
        claimed.damaged.replace(aside)  # or the next checkpoint would take the whole one's place
    write(config, checkpoints / "config.yaml")
    write(config, run / "config.yaml")
    if not claimed.start and (names := experiments(config)):
        print(GENERAL.format(", ".join(names)))


def look_into(checkpoint: Path) -> tuple[int, str | None] | None:
    """The batches that a checkpoint has seen and its data's digest; None where it is damaged or holds more than plain values."""
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return found["global_step"], found.get("DataModule", {}).get("digest")
    except (MemoryError, PermissionError):
        raise
    except Exception:  # torch.load raises whatever the bytes lead it to
        return None


def _of_this_model(checkpoint: Path, module: GibbsNet) -> None:
    """Refuses a checkpoint that is whole and cannot be this model's, whose configuration lies beside it: somebody put it there.

    Raises:
        ConfigError: it lacks something that Lightning saves, or its weights have other names or shapes.
    """
    found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = found.get("state_dict")
    shapes = {name: getattr(w, "shape", None) for name, w in weights.items()} if isinstance(weights, Mapping) else None
    saved = {"optimizer_states", "loops", "callbacks", "pytorch-lightning_version"} <= found.keys()
    if not saved or shapes != {name: w.shape for name, w in module.state_dict().items()}:
        raise ConfigError(
            f"{checkpoint} is no checkpoint of this model: put this run's own there, or take it away; the training then goes on "
            "from the other one, or begins"
        )


def _beginning(
    run: Path, config: Mapping, digest: str | None, claimed: Claim, held: ExitStack
) -> Callable[[Trainer], None]:
    """What rank 0 does once every rank has looked at the folder: makes it this training's, which holds its lock from then on.

    Raises, when called:
        BlockingIOError: another training is at work there.
        ConfigError: another one was since this one looked; or see `claim` and callbacks.tracker.
        TrackingError: W&B cannot be had as it was asked for; nothing is forgotten.
    """
    busy = f"another training is at work in {run}: wait until it has ended, or choose another run=..."

    def begin(trainer: Trainer) -> None:
        callbacks.resolve(config["tracking"]["mode"])  # before anything is written
        held.enter_context(alone(run / ".lock", busy, cluster.PATIENCE if cluster.job() else 0))
        if on_the_same_data(run, claim(run, config), digest, config["restart"]) != claimed:
            raise ConfigError(f"another training was at work in {run} until now: say the same command again")
        trainer.logger = tracker(run, config, claimed.anew)  # refuses before anything is forgotten
        take(run, config, claimed)

    return begin


def _trainer(run: Path, config: Mapping, data, judge: Callable, begin: Callable[[Trainer], None]) -> Trainer:
    options, every = config["trainer"], config["every"]
    _quiet()
    seed = config["evaluation"]["seed"]
    devices, nodes = processes(options)

    hooks = callbacks.callbacks(
        run,
        measure=lambda module: validation_distance(module, data.data, judge(), seed),
        draw=lambda module: plots.figures(module, data.data, judge(), seed, quick=True),
        log_every=every["log"],
        evaluate_every=every["validate"],
        save_every=every["checkpoint"],
        progress=options["progress"],
        check_every_batch=config["optim"].get("skip_nonfinite", 0) > 0,
    )
    return _lightning(
        accelerator=accelerator(options),
        devices=devices,
        num_nodes=nodes,
        strategy=options["strategy"],
        precision=options["precision"],
        plugins=cluster.plugins(devices, nodes),
        max_time=options["max_time"],
        fast_dev_run=5 if options["fast_dev_run"] else False,
        max_steps=config["steps"],
        logger=False,
        callbacks=[] if options["fast_dev_run"] else [callbacks.Begin(begin), *hooks],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_progress_bar=options["progress"],
        enable_checkpointing=not options["fast_dev_run"],
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def _lightning(**options) -> Trainer:
    """Lightning's Trainer.

    Raises:
        ConfigError: in one line, what Lightning says against its options.
    """
    try:
        return Trainer(**options)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def processes(options: Mapping) -> tuple[int, int]:
    """Devices of a node, and nodes: torchrun's own numbers, where it started this process.

    Raises:
        ConfigError: the configuration says other numbers than torchrun.
    """
    devices, nodes = options["devices"], options["num_nodes"]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return devices, nodes
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    started = local, int(os.environ["WORLD_SIZE"]) // local
    if (devices, nodes) not in ((1, 1), started):
        raise ConfigError(
            f"trainer.devices={devices} trainer.num_nodes={nodes}, but torchrun started {started[0]} processes on each of "
            f"{started[1]} nodes: leave both out, or say the same"
        )
    return started


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


def tracker(run: Path, config: Mapping, anew: bool = False):
    """The W&B logger of a run, or None; `anew`: of another W&B run than the folder's earlier one."""
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
        anew=anew,
    )


def unfinished(run: Path, config: Mapping) -> int | None:
    """The step that a run's training has come to, if that is not its end; None where there is no last.ckpt to tell."""
    last = run / "checkpoints" / "last.ckpt"
    seen = look_into(last) if last.exists() else None
    return seen[0] if seen and seen[0] < config["steps"] else None


def limit_threads(options: Mapping) -> None:
    """`trainer.threads` of the CPU, where it is said."""
    if options.get("threads"):
        torch.set_num_threads(options["threads"])


def accelerator(options: Mapping) -> str:
    """Lightning's word for where to train.  By itself it would choose Apple's GPU, which lacks the doubles of our accounts."""
    return "cpu" if options["accelerator"] == "auto" and not torch.cuda.is_available() else options["accelerator"]


def device(options: Mapping) -> torch.device:
    """Where a trained module is scored: on the GPU, where there is one and `trainer.accelerator` does not say otherwise; of
    several the one whose number torchrun gave to this process."""
    if options["accelerator"] not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def load_run(run: Path, config: Mapping, shape: tuple[int, ...], digest: str | None = None) -> GibbsNet:
    """The trained module of a run: its best checkpoint's weights.

    Arguments:
        digest: of the data that it is to be held against.

    Raises:
        ConfigError: there is no checkpoint, it is damaged or belongs to another architecture, or it was trained on other data.
    """
    path = Path(run, "checkpoints", "best.ckpt")
    if not path.exists():
        finished = path.with_name("last.ckpt").exists() and unfinished(Path(run), config) is None
        begun = "train first, or go on with the command that the training was begun with"
        todo = "put it back, or train again with restart=true" if finished else begun
        raise ConfigError(f"{path} does not exist: {todo}")
    module = build(config, shape)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["state_dict"])
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise ConfigError(
            f"{path} is damaged or of another model ({type(error).__name__}): train again with restart=true"
        ) from error
    known = saved.get("DataModule", {}).get("digest")
    if digest and known not in (None, digest):
        raise ConfigError(
            f"{run} was trained on other data (digest {known}, now {digest}): put the old files back, or train again"
        )
    return module.eval()
