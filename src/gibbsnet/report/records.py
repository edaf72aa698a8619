"""Results that are kept beside the code: pages of Markdown, with their commands and figures, as sections of the report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gibbsnet.report.html import Markup, raw, tag

NAMES = (
    "findings",
    "results",
    "comparison",
    "stability",
    "abilities",
)  # of the pages, in the order in which they are shown
ABOUT = (
    "What was found with this code in longer runs than those above, and recorded: in plain words, then every number with the "
    "command that makes it again."
)


class Record(NamedTuple):
    """A page of Markdown. pictures: what it shows, by the address that it says."""

    name: str
    text: str
    pictures: Mapping[str, bytes]

    @property
    def anchor(self) -> str:
        return f"record-{self.name}"


def read(folder: str | Path) -> list[Record]:
    """The pages of results in a folder.

    Raises ValueError if it holds none of them, FileNotFoundError if one shows a picture that is not there.
    """
    pages = [path for name in NAMES if (path := Path(folder, f"{name}.md")).exists()]
    if not pages:
        raise ValueError(f"records={folder}: expected a folder with some of {', '.join(f'{n}.md' for n in NAMES)}")
    return [_record(path) for path in pages]


def _record(path: Path) -> Record:
    text = path.read_text()
    shown = [t.attrs["src"] for block in _markdown().parse(text) for t in block.children or () if t.type == "image"]
    return Record(path.stem, text, {src: (path.parent / src).read_bytes() for src in shown})


def shown_records(records: Sequence[Record], image: Callable[[bytes, str], Markup]) -> Markup | None:
    """The pages' section: the first page is open, the others are folded away.

    image: (bytes, alternative text) -> the picture as markup.
    """
    if not records:
        return None
    anchors = {f"{record.name}.md": record.anchor for record in records}
    folded = (_folded(record, anchors, image, open_=number == 0) for number, record in enumerate(records))
    title = tag("h2", "Recorded results")
    return tag("section", title, tag("p", ABOUT, class_="muted"), *folded, class_="records", id="records")


def _folded(record: Record, anchors: Mapping[str, str], image: Callable, open_: bool) -> Markup:
    title, *blocks = _titled(_markdown().parse(record.text), record.name)
    markdown = _markdown()
    markdown.add_render_rule("image", lambda _, tokens, i, *rest: _card(tokens[i], record.pictures, image))
    body = markdown.renderer.render(list(_placed(blocks, anchors)), markdown.options, {})
    summary = tag("summary", tag("b", title))
    return tag("details", summary, raw(body), id=record.anchor, open="" if open_ else None)


def _markdown() -> MarkdownIt:
    """Markup in the text is text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _titled(blocks: Sequence[Token], name: str) -> list:
    """The page's title, and its blocks without it."""
    if [b.tag for b in blocks[:1]] != ["h1"]:
        return [name, *blocks]
    return [blocks[1].content, *blocks[3:]]


def _placed(blocks: Sequence[Token], anchors: Mapping[str, str]) -> Iterator[Token]:
    """Headings a level lower; links to pages of the section lead there, those to files that are not shown are plain text."""
    for block in blocks:
        if block.type.startswith("heading"):
            block.tag = f"h{min(int(block.tag[1]) + 1, 6)}"
        closes = None
        for token in block.children or ():
            if token.type == "link_open":
                closes = _led(token, anchors)
            elif token.type == "link_close" and closes:
                token.type, token.content = closes, ""
        yield block


def _led(link: Token, anchors: Mapping[str, str]) -> str | None:
    """Gives a link the place that it leads to on this page; where there is none, it becomes empty text, as its end has to."""
    address = link.attrs["href"]
    if "://" in address:
        return None
    if anchor := anchors.get(address.partition("#")[0]):
        link.attrs["href"] = f"#{anchor}"
        return None
    link.type, link.content, link.attrs = "text", "", {}
    return "text"


def _card(token: Token, pictures: Mapping[str, bytes], image: Callable) -> Markup:
    return tag("span", image(pictures[token.attrs["src"]], token.content), class_="card")
