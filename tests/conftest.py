"""Every test works in a folder of its own, one thread, and without a network."""

import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.manifold import TSNE

from gibbsnet import plots
from gibbsnet.classifier import save_judge, train_judge
from gibbsnet.data import load
from gibbsnet.files import alone
from gibbsnet.graph import Conditional

ROOT = Path(__file__).parents[1]
# Tracing costs a third of a test's time. These files walk again, over every model or under every fault, what others have walked.
UNTRACED = ["claims", "comparison", "contract", "faults", "ranks", "resume", "stopping"]
# Files with the longest tests go first: at the end one worker would wait for the other's.
FIRST = ["resume", "ranks", "sweep_agent", "faults", "stopping", "replay", "doors"]


def pytest_collection_modifyitems(items):
    def name(item):
        return item.path.stem.removeprefix("test_")

    for item in items:
        if name(item) in UNTRACED:
            item.add_marker(pytest.mark.no_cover)
    items.sort(key=lambda item: FIRST.index(name(item)) if name(item) in FIRST else len(FIRST))


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Ctrl-C interrupts, also where the shell started the tests in the background and said that it should not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """The working directory, W&B's folders and nobody's credentials."""
    monkeypatch.chdir(tmp_path)
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def judges(tmp_path_factory, worker_id) -> Path:
    """A folder with the judge of digits, which one of xdist's workers trains."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "judges"
    with alone(folder / "tests.lock"):
        if not (folder / "digits.pt").exists():
            save_judge(*train_judge(load("digits"), log=lambda line: None), folder / "digits.pt")
    return folder


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of chains of a hundred sweeps and t-SNE in its fewest steps: they would be most of an evaluation."""
    monkeypatch.setattr(plots, "STEPS", (0, 1, 2, 3, 10, 100))
    monkeypatch.setattr(plots, "TSNE", partial(TSNE, max_iter=250))


@pytest.fixture
def quick(judges) -> list[str]:
    """Settings for a training of seconds."""
    return ["steps=20", "every.log=5", "every.validate=10", "every.checkpoint=10", "tracking.mode=disabled", f"judges={judges}",
            "trainer.accelerator=cpu", "trainer.progress=false", "evaluation.samples=500", "evaluation.steps=[0,1]"]  # fmt: skip


@pytest.fixture
def record(monkeypatch):
    """Every draw that a graph makes from now on: (variable, whom of its neighbours it finds present, value, audible)."""
    rows, draw = [], Conditional.draw

    def spy(self, state, batch, noise, audible={}):
        value = draw(self, state, batch, noise, audible)
        rows.append((names[id(self)], "".join(sorted(set(state) & set(self.messages))), value, audible))
        return value

    names = {}

    def start(g):
        monkeypatch.setattr(Conditional, "draw", spy)
        names.update({id(g[v]): v for v in g})
        rows.clear()
        return rows

    return start
