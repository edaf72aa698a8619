"""Results that are kept beside the code: pages of Markdown, with their commands and figures, as sections of the report."""

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gibbsnet.report.html import Markup, raw, tag

# Of the pages, in the order in which they are shown: plain words, every number, and the lab book.
NAMES = ("findings", "results", "comparison", "stability", "abilities")
LAB = ("comparison", "stability", "tuning", "levels", "labels", "fills", "modes", "judge")
ABOUT = (
    "What was found with this code in longer runs than those above, and recorded: in plain words; then every number with the "
    "command that makes it again; then the lab book: what was expected, run and seen, with its pictures."
)


class Record(NamedTuple):
    """A page of Markdown. name: its place in the folder, without the ending; pictures: what it shows, by their addresses."""

    name: str
    text: str
    pictures: Mapping[str, bytes]

    @property
    def anchor(self) -> str:
        return f"record-{self.name.replace('/', '-')}"

    def place(self, address: str) -> str:
        """The file that a link on the page leads to, by its place in the folder."""
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.name), address.partition("#")[0]))


def read(folder: str | Path) -> list[Record]:
    """The pages of results in a folder.

    Raises ValueError if it holds none of them, FileNotFoundError if one shows a picture that is not there.
    """
    found = [name for name in (*NAMES, *(f"lab/{page}" for page in LAB)) if Path(folder, f"{name}.md").exists()]
    if not found:
        raise ValueError(f"records={folder}: expected a folder with some of {', '.join(f'{n}.md' for n in NAMES)}")
    return [_record(Path(folder), name) for name in found]


def _record(folder: Path, name: str) -> Record:
    path = folder / f"{name}.md"
    text = path.read_text()
    shown = [t.attrs["src"] for block in _markdown().parse(text) for t in block.children or () if t.type == "image"]
    return Record(name, text, {src: (path.parent / src).read_bytes() for src in shown})


def shown_records(records: Sequence[Record], image: Callable[[bytes, str], Markup]) -> Markup | None:
    """The pages' section: the first page is open, the others are folded away.

    image: (bytes, alternative text) -> the picture as markup.
    """
    if not records:
        return None
    anchors = {f"{record.name}.md": record.anchor for record in records}
    album = Album(image)
    folded = (_folded(record, anchors, album, open_=number == 0) for number, record in enumerate(records))
    title = tag("h2", "Recorded results")
    return tag("section", title, tag("p", ABOUT, class_="muted"), *folded, class_="records", id="records")


class Album:
    """Pictures, each shown once: where it comes again there is a link to it, for the page holds its pictures itself."""

    def __init__(self, image: Callable[[bytes, str], Markup]):
        self.image, self.anchors = image, {}

    def card(self, content: bytes, alt: str) -> Markup:
        if anchor := self.anchors.get(content):
            return tag("a", f"picture above: {alt}", href=f"#{anchor}")
        self.anchors[content] = f"picture-{len(self.anchors) + 1}"
        return tag("span", self.image(content, alt), class_="card", id=self.anchors[content])


def _folded(record: Record, anchors: Mapping[str, str], album: Album, open_: bool) -> Markup:
    title, *blocks = _titled(_markdown().parse(record.text), record)
    markdown = _markdown()
    pictures = record.pictures
    markdown.add_render_rule("image", lambda _, t, i, *rest: album.card(pictures[t[i].attrs["src"]], t[i].content))
    body = markdown.renderer.render(list(_placed(blocks, record, anchors)), markdown.options, {})
    summary = tag("summary", tag("b", title))
    return tag("details", summary, raw(body), id=record.anchor, open="" if open_ else None)


def _markdown() -> MarkdownIt:
    """Markup in the text is text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _titled(blocks: Sequence[Token], record: Record) -> list:
    """The page's title, and its blocks without it."""
    if [b.tag for b in blocks[:1]] != ["h1"]:
        return [record.name, *blocks]
    lab = "Lab book: " * record.name.startswith("lab/")
    return [lab + blocks[1].content, *blocks[3:]]


def _placed(blocks: Sequence[Token], record: Record, anchors: Mapping[str, str]) -> Iterator[Token]:
    """Headings a level lower; links to pages of the section lead there, those to files that are not shown are plain text."""
    for block in blocks:
        if block.type.startswith("heading"):
            block.tag = f"h{min(int(block.tag[1]) + 1, 6)}"
        closes = None
        for token in block.children or ():
            if token.type == "link_open":
                closes = _led(token, record, anchors)
            elif token.type == "link_close" and closes:
                token.type, token.content = closes, ""
        yield block


def _led(link: Token, record: Record, anchors: Mapping[str, str]) -> str | None:
    """Gives a link the place that it leads to on this page; where there is none, it becomes empty text, as its end has to."""
    address = link.attrs["href"]
    if "://" in address:
        return None
    if anchor := anchors.get(record.place(address)):
        link.attrs["href"] = f"#{anchor}"
        return None
    link.type, link.content, link.attrs = "text", "", {}
    return "text"
