"""What is read: links lead somewhere, figures are small and shown."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [
    path
    for name in ("conf", "sweeps", "slurm", "src", "benchmarks", "docs")
    for path in sorted((ROOT / name).rglob("*"))
]
FIGURES = sorted((ROOT / "docs" / "figures").glob("*.png"))


def linked(page):
    """The files that a page's links and pictures name."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    return [(page.parent / name).resolve() for name in found if "://" not in name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not [str(file) for file in linked(page) if not file.exists()]


def test_pages_that_comments_point_to_exist():
    texts = [path.read_text() for path in TEXTS if path.suffix in (".py", ".yaml", ".sbatch", ".md")]
    named = {name for text in texts for name in re.findall(r"\bdocs/[\w/]+\.md", text)}
    assert "docs/lab/levels.md" in named
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_every_figure_is_shown_and_small():
    shown = {file for page in PAGES for file in linked(page)}
    assert FIGURES and not [figure.name for figure in FIGURES if figure.resolve() not in shown]
    assert not [figure.name for figure in FIGURES if figure.stat().st_size > 200 * 1024]
