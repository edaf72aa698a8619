"""DVC: queued experiments run their own copies, two at once, and a clone that pulls has nothing left to do.

In clones of this repository, shrunk to one model and a few steps; minutes. make test-dvc runs this.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("dvc") is None, reason="dvc is not installed"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]
TRAIN_JSON = "runs/default/digits/ali/0/train.json"
SPEED = "src/gibbsnet/callbacks/speed.py"
# Two trainings that wait for each other end only if they run at the same time.
MEETING = '''        """Starts the clocks."""
        from pathlib import Path

        Path({place!r}, {marker!r}).touch()
        end = time.monotonic() + 300
        while len(os.listdir({place!r})) < 2:
            if time.monotonic() > end:
                raise TimeoutError("the other experiment did not come")
            time.sleep(0.1)
'''


class Checkout:
    """A checkout of the shrunk repository, and its commands, which have to succeed."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder.parent
        names = {
            f"GIT_{who}_{what}": "somebody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith(("DVC_", "GIT_"))}
        folders = {name: str(self.home / name) for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = own | names | folders | {"PATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, *command: str) -> str:
        options = dict(cwd=self.folder, env=self.environment, text=True, timeout=1800)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-4000:]}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as the test wants it")

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r} any more: adapt this test"
        path.write_text(text.replace(old, new))


def shrink(checkout):
    """One model, ten steps, few samples, no tracking."""
    pipeline = checkout.folder / "dvc.yaml"
    text = re.sub(r"^ +- runs/default/digits/(hali|gibbsnet)/.*\n", "", pipeline.read_text(), flags=re.MULTILINE)
    pipeline.write_text(text)
    checkout.edit("dvc.yaml", "model: [ali, hali, gibbsnet]", "model: [ali]")
    checkout.edit("dvc.yaml", " runs/default/digits/hali/0 runs/default/digits/gibbsnet/0", "")
    checkout.edit("conf/data/digits.yaml", "steps: 6000", "steps: 10")
    checkout.edit("conf/config.yaml", "samples: 5000", "samples: 500")
    checkout.edit("conf/config.yaml", "steps: [0, 1, 3, 10, 100, 1000]", "steps: [0, 1]")
    checkout.edit("conf/config.yaml", "mode: auto", "mode: disabled")


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A checkout whose pipeline was run and whose dvc.lock is committed."""
    checkout = Checkout(tmp_path_factory.mktemp("pipeline") / "workspace")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (checkout.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout.folder / name)
    shrink(checkout)
    checkout.git("init", "--quiet")
    checkout.commit()
    checkout.dvc("repro")
    assert checkout.git("status", "--short").split() == ["??", "dvc.lock"], "what was run is not for git"
    checkout.commit()
    return checkout


def test_a_clone_that_pulls_is_up_to_date(reproduced, tmp_path_factory):
    remote = reproduced.home / "remote"
    reproduced.dvc("remote", "add", "--local", "--default", "shelf", str(remote))
    reproduced.dvc("push")
    clone = Checkout(tmp_path_factory.mktemp("elsewhere") / "clone")
    clone.home.mkdir(exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", reproduced.folder, clone.folder], check=True, env=clone.environment)
    clone.dvc("remote", "add", "--local", "--default", "shelf", str(remote))
    clone.dvc("pull")
    said = clone.dvc("repro")
    assert "Running stage" not in said and said.count("didn't change, skipping") == 4, said
    assert clone.git("status", "--short") == ""
    for name in (
        TRAIN_JSON,
        "runs/default/digits/ali/0/figures/samples.png",
        "judges/digits.json",
        "reports/index.html",
    ):
        assert (clone.folder / name).read_bytes() == (reproduced.folder / name).read_bytes()


def test_queued_experiments_run_their_own_code_and_data_two_at_once(reproduced):
    before, place = (reproduced.folder / TRAIN_JSON).read_text(), reproduced.home / "meeting"
    place.mkdir()
    source = (reproduced.folder / SPEED).read_text()
    for marker, setting in (("one", 2), ("two", 5)):
        (reproduced.folder / SPEED).write_text("import os\n" + source)
        reproduced.edit(SPEED, '"ranks": trainer', f'"marker": "{marker}", "ranks": trainer')
        reproduced.edit(SPEED, '        """Starts the clocks."""\n', MEETING.format(place=str(place), marker=marker))
        change = f"conf/config.yaml:every.log={setting}"
        reproduced.dvc("exp", "run", "--queue", "--name", marker, "-S", change, "train@ali-digits")
    # From here on the workspace's code and data would fail.
    (reproduced.folder / SPEED).write_text("raise SystemExit('this is the code of the workspace')\n")
    judge = reproduced.folder / "judges/digits.pt"
    judge.unlink()
    judge.write_bytes(b"this is the workspace's judge")
    try:
        reproduced.dvc("exp", "run", "--run-all", "--jobs", "2")
    finally:
        stop = [sys.executable, "-m", "dvc", "queue", "stop", "--kill"]
        subprocess.run(stop, cwd=reproduced.folder, env=reproduced.environment, capture_output=True, timeout=120)
        (reproduced.folder / SPEED).write_text(source)
    assert (reproduced.folder / TRAIN_JSON).read_text() == before, "the workspace's run is as it was"
    shown = experiments(reproduced)
    assert {name: facts["marker"] for name, facts in shown.items()} == {"one": "one", "two": "two"}


def experiments(checkout):
    """Name -> train.json of every experiment."""
    revisions = json.loads(checkout.dvc("exp", "show", "--json"))
    found = [rev for revision in revisions for rev in revision["experiments"] or []]
    return {e["revs"][0]["name"]: e["revs"][0]["data"]["metrics"][TRAIN_JSON]["data"] for e in found}
