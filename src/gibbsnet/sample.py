"""sample: draws chains from a trained run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import plots
from .config import folder
from .prepare import datamodule
from .train import load_run


def sample(config: Mapping, chains: int = 100) -> Path:
    """Runs `chains` unclamped chains for chains.unclamped.steps sweeps; returns the folder of what was written.

    <run>/samples/chain.png shows ten of them as they go, samples.png the last states, samples.npz holds the last states of
    every variable, float32 (chains, *), x in [-1, 1].
    """
    run = folder(config)
    data = datamodule(config)
    module = load_run(run, config, data.shape)
    shown = {*plots.STEPS, module.N}
    states = {}
    for i, state in enumerate(module.trajectory(chains, config["evaluation"]["seed"])):
        if i in shown:
            states[i] = state
        if i == module.N:
            break
    out = run / "samples"
    out.mkdir(parents=True, exist_ok=True)
    real = data.state("validation")["x"]
    plots.save(plots.chain({i: s["x"] for i, s in states.items()}, real, module.N), out / "chain.png")
    plots.save(plots.samples(states[module.N]["x"], real, f"after {module.N} sweeps"), out / "samples.png")
    np.savez(out / "samples.npz", **{v: value.numpy() for v, value in states[module.N].items()})
    print(f"{out}: {chains} chains, {module.N} sweeps")
    return out
