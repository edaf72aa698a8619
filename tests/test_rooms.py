"""Data flows one way: a file imports only from the rooms above it in docs/design.md's list."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gibbsnet"
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
OPTIONAL = {
    "wandb": "callbacks",
    "pooch": "data",
    "torch_fidelity": "evaluation",
    "torchvision": "evaluation",
    "dvc": "",
    "optuna": "sweep",
}


def rooms():
    """The rooms from the top down, as the table names them."""
    table = (ROOT / "docs" / "design.md").read_text().partition("## Rooms")[2].partition("## Interfaces")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in first for name in re.findall(r"`(\w+)`", cell)] + ["__main__"]


def room(path):
    return path.parts[0].removesuffix(".py")


def imported(source, path):
    """(dotted absolute name, whether inside a function) of everything that a file of the package imports."""
    tree = ast.parse(source)
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    package = ["gibbsnet", *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in inside) for name in names)


def used(source, path):
    """The other rooms that a file imports from."""
    found = {name.split(".")[1] for name, _ in imported(source, path) if name.startswith("gibbsnet.")}
    return found - {room(path)}


def read(path):
    return (SOURCE / path).read_text()


def test_every_file_lies_in_a_room():
    assert {room(path) for path in FILES} - {"__init__"} == set(rooms())
    assert not (SOURCE / "__init__.py").read_text().strip()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_from_above(path):
    order = rooms()
    above = order[: order.index(room(path))] if room(path) in order else []
    assert used(read(path), path) <= set(above), f"{path} imports from below"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_optional_packages_are_imported_where_they_are_needed(path):
    for name, inside in imported(read(path), path):
        if (package := name.partition(".")[0]) in OPTIONAL:
            assert room(path) == OPTIONAL[package], f"{path} imports {package}"
            assert inside, f"{path} needs {package} to be imported at all"


@pytest.mark.parametrize(
    "name, strangers",
    [
        ("graph", {"data"}),
        ("chain", {"data"}),
        ("game", {"noise", "data", "families", "messages", "chain"}),
        ("callbacks", {"families", "messages", "graph", "chain", "game"}),
        ("plots", {"families", "messages", "graph", "chain", "game", "modules"}),
    ],
)
def test_rooms_that_know_nothing_of_each_other(name, strangers):
    """`chain` never sees a loss, `game` never samples, `callbacks` knows no mathematics."""
    assert not set().union(*(used(read(path), path) for path in FILES if room(path) == name)) & strangers


@pytest.mark.parametrize(
    "line, names",
    [
        ("from . import plots", {"plots"}),
        ("from .graph import Graph", {"graph"}),
        ("import gibbsnet.game as g", {"game"}),
        ("def f():\n    from gibbsnet import modules", {"modules"}),
        ("import torch", set()),
    ],
)
def test_the_reader_of_imports_sees(line, names):
    assert used(line, Path("chain.py")) == names
    assert used(line.replace("from .", "from .."), Path("data/sets.py")) == names
