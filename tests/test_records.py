"""Recorded results on the report's page: pages of Markdown, with their figures."""

import base64
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from test_report import Balanced, make, text_of

from benchmarks.aim import MARKS
from gibbsnet.__main__ import main
from gibbsnet.plots import save
from gibbsnet.report import report
from gibbsnet.report.html import tag
from gibbsnet.report.records import LAB, NAMES, read, shown_records

DOCS = Path(__file__).parents[1] / "docs"
FINDINGS = """# What was found

See [every number](results.md#digits), [the lab](lab/tuning.md) and [elsewhere](https://example.org).

## Claims

| claim | held |
|---|---:|
| a < b | **yes** |

    python -m benchmarks.compare digits

<script>alert(1)</script>

![a curve](figures/curve.png)
"""
LEVELS = """# Two levels

Back to [the findings](../findings.md), on to [results](../results.md) or [the judge](judge.md).

![a curve](../figures/curve.png)
"""


@pytest.fixture
def docs(tmp_path):
    """Two pages, one of the lab book, and a figure."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "findings.md").write_text(FINDINGS)
    (folder / "results.md").write_text("# Results\n\n## digits\n")
    (folder / "lab").mkdir()
    (folder / "lab" / "levels.md").write_text(LEVELS)
    save(Figure((1, 1)), folder / "figures" / "curve.png")
    return folder


@pytest.fixture
def runs(tmp_path):
    make(tmp_path / "runs", "ali", 1)
    return tmp_path / "runs"


def html_of(runs, records):
    return report(runs, runs.parent / "reports", records=records).read_text()


def test_pages_stand_on_the_page_with_their_tables_commands_and_pictures(runs, docs):
    html, plain = html_of(runs, docs), html_of(runs, None)
    page = Balanced()
    page.feed(html)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert len(page.sources) == plain.count("src=") + 1 and all(s.startswith("data:") for s in page.sources)
    assert '<details open=""><summary><b>What was found</b></summary><div id="record-findings">' in html
    assert '<details><summary><b>Results</b></summary><div id="record-results">' in html
    assert "<summary><b>Lab book: Two levels</b>" in html
    assert "<h3>Claims</h3>" in html
    assert html.count('id="picture-1"') == html.count('href="#picture-1"') == 1, "the second time it is a link"
    said = text_of(html)
    assert "a &lt; b yes" in said and "python -m benchmarks.compare digits" in said
    assert "<script" not in html and "&lt;script&gt;" in html
    assert 'href="#records"' in html and 'id="records"' not in plain and 'href="#records"' not in plain


def test_links_lead_to_what_is_shown_and_else_nowhere(runs, docs):
    page = Balanced()
    html = html_of(runs, docs)
    page.feed(html)
    assert "#record-results" in page.links and "https://example.org" in page.links
    assert all(link[1:] in page.ids for link in page.links if link[0] == "#")
    assert {link for link in page.links if link[0] != "#"} == {"https://example.org"}
    assert ", the lab and" in text_of(html) and "or the judge." in text_of(html)
    assert html.count('href="#record-findings"') == 1 and html.count('href="#record-results"') == 2


def test_pages_that_are_missing_are_left_out_and_none_is_an_error(docs):
    assert [record.name for record in read(docs)] == ["findings", "results", "lab/levels"]
    with pytest.raises(ValueError, match=r"records=.*figures: expected a folder with some of findings.md"):
        read(docs / "figures")


@pytest.mark.parametrize(
    "address",
    ["figures/gone.png", "https://example.org/a.png", "data:image/png;base64,AAAA", "../x.png", "lab/levels.md"],
)
def test_what_cannot_be_shown_is_one_line_and_nothing_is_written(runs, docs, address):
    (docs.parent / "x.png").write_bytes((docs / "figures" / "curve.png").read_bytes())
    (docs / "results.md").write_text(f"![a]({address})")
    with pytest.raises(
        ValueError, match=r"results\.md shows .*: expected a PNG file below .*docs; records= leaves"
    ) as found:
        html_of(runs, docs)
    assert "\n" not in str(found.value) and not (runs.parent / "reports").exists()


def test_a_page_that_is_no_text_is_named(docs):
    (docs / "results.md").write_bytes(b"\xe9\xff")
    with pytest.raises(ValueError, match=r"results\.md: expected text in UTF-8"):
        read(docs)


def test_names_with_blanks_links_around_pictures_and_pages_beyond_the_known(runs, docs):
    save(Figure((2, 1)), docs / "figures" / "my \u00e9.png")
    (docs / "results.md").write_text("# `R` and *S*\n\n# Again\n\n![b](<figures/my \u00e9.png>)\n")
    (docs / "lab" / "zoo.md").write_text("[![b](<../figures/my \u00e9.png>)](../findings.md)\n")
    html = html_of(runs, docs)
    page = Balanced()
    page.feed(html)
    assert page.open == [] and [record.name for record in read(docs)][-1] == "lab/zoo"
    assert "<b>R and S</b>" in html and "<h3>Again</h3>" in html
    assert '<a href="#record-findings"><span>picture above: b</span></a>' in html


def test_the_command_shows_this_project_s_docs_and_others_where_they_are_named(runs, docs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert main(["report", "runs", "out=reports"]) == 0
    assert 'id="records"' not in Path("reports", "index.html").read_text(), "these are another project's"
    for name in NAMES:
        (docs / f"{name}.md").touch()
    for said, shown in (([], True), (["records=docs"], True), (["records="], False)):
        assert main(["report", "runs", "out=reports", *said]) == 0
        assert ('id="records"' in Path("reports", "index.html").read_text()) == shown
    assert main(["report", "runs", "out=other", "records=nowhere"]) == 1
    assert "records=nowhere" in capsys.readouterr().err and not Path("other").exists()


def test_this_project_s_pages_are_all_shown_with_every_command_and_figure(runs):
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in (DOCS / "lab").glob("*.md")}
    assert {record.name for record in read(DOCS)} == {*NAMES, *pages} and pages == {f"lab/{name}" for name in LAB}
    html = html_of(runs, DOCS)
    page = Balanced()
    page.feed(html)
    assert page.open == [] and all(link[1:] in page.ids for link in page.links if link[0] == "#")
    said = text_of(html)
    for name in NAMES:
        commands = re.findall(r"python -m benchmarks\.\w+ \w+", (DOCS / f"{name}.md").read_text())
        assert commands and all(command in said for command in commands), name
    for figure in (DOCS / "figures").glob("*.png"):
        assert base64.b64encode(figure.read_bytes()).decode() in html, f"{figure.name} is on no page that is shown"


def test_what_is_between_marks_is_shown_and_the_marks_are_not():
    [findings] = [record for record in read(DOCS) if record.name == "findings"]
    html = str(shown_records([findings], lambda content, alt: tag("img")))
    assert "seeds in which GibbsNet is ahead</th>" in html
    assert all(mark in findings.text and mark.partition("# ")[2] not in html for mark in MARKS)
