"""Results that are kept beside the code: pages of Markdown, with their commands and figures, as sections of the report."""

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gibbsnet.report.html import Markup, raw, tag
from gibbsnet.report.runs import is_png

# Of the pages, in the order in which they are shown: plain words, every number, and the lab book; then what else lies in lab/.
NAMES = ("findings", "results", "comparison", "stability", "abilities", "settings")
LAB = ("comparison", "stability", "tuning", "levels", "labels", "fills", "modes", "judge")
USUAL = "docs"  # this project's own
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


def usual() -> str | None:
    """The folder that is shown if none is named: this project's pages, where they lie; not another project's docs."""
    return USUAL if all(Path(USUAL, f"{name}.md").exists() for name in NAMES) else None


def read(folder: str | Path) -> list[Record]:
    """The pages of results in a folder.

    Raises ValueError if it holds none of them, or one that is no text or shows what is no PNG file below the folder.
    """
    lab = sorted((path.stem for path in Path(folder, "lab").glob("*.md")), key=_order)
    found = [name for name in (*NAMES, *(f"lab/{page}" for page in lab)) if Path(folder, f"{name}.md").exists()]
    if not found:
        raise ValueError(f"records={folder}: expected a folder with some of {', '.join(f'{n}.md' for n in NAMES)}")
    return [_record(Path(folder), name) for name in found]


def _order(page: str) -> tuple[int, str]:
    return LAB.index(page) if page in LAB else len(LAB), page


def _record(folder: Path, name: str) -> Record:
    path = folder / f"{name}.md"
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8; records= leaves the pages out") from error
    shown = [t.attrs["src"] for block in _markdown().parse(text) for t in block.children or () if t.type == "image"]
    return Record(name, text, {src: _picture(folder, path, src) for src in shown})


def _picture(folder: Path, page: Path, address: str) -> bytes:
    """A picture's bytes; what lies elsewhere is not taken into a page that may be passed on."""
    path = page.parent / unquote(address)
    inside = path.resolve().is_relative_to(folder.resolve()) and path.is_file()
    if not (inside and is_png(path)):
        raise ValueError(
            f"{page} shows {address[:80]!r}: expected a PNG file below {folder}; records= leaves the pages out"
        )
    return path.read_bytes()


def shown_records(records: Sequence[Record], image: Callable[[bytes, str], Markup]) -> Markup | None:
    """The pages' section: the first page is open, the others are folded away.

    image: (bytes, alternative text) -> the picture as markup.
    """
    if not records:
        return None
    anchors, album = {f"{record.name}.md": record.anchor for record in records}, Album(image)
    folded = (_folded(record, anchors, album, open_=number == 0) for number, record in enumerate(records))
    title = tag("h2", "Recorded results")
    return tag("section", title, tag("p", ABOUT, class_="muted"), *folded, class_="records", id="records")


class Album:
    """Pictures, each shown once: where it comes again there is a link to it, for the page holds its pictures itself."""

    def __init__(self, image: Callable[[bytes, str], Markup]):
        self.image, self.anchors = image, {}

    def card(self, content: bytes, alt: str, linked: bool) -> Markup:
        """linked: whether the picture stands inside of a link, which can hold no other."""
        if anchor := self.anchors.get(content):
            said = f"picture above: {alt}"
            return tag("span", said) if linked else tag("a", said, href=f"#{anchor}")
        self.anchors[content] = f"picture-{len(self.anchors) + 1}"
        return tag("span", self.image(content, alt), class_="card", id=self.anchors[content])


def _folded(record: Record, anchors: Mapping[str, str], album: Album, open_: bool) -> Markup:
    markdown = _markdown()

    def card(_, tokens: Sequence[Token], at: int, *rest) -> Markup:
        linked = sum(t.nesting for t in tokens[:at] if t.type.startswith("link_")) > 0
        return album.card(record.pictures[tokens[at].attrs["src"]], tokens[at].content, linked)

    markdown.add_render_rule("image", card)
    title, blocks = _titled(markdown.parse(record.text), record)
    # Markup already: the library escapes what it renders, and lets no HTML of the page through.
    body = raw(markdown.renderer.render(list(_placed(blocks, record, anchors)), markdown.options, {}))
    # The anchor is inside, for a browser opens what is folded around the place that a link leads to.
    return tag(
        "details", tag("summary", tag("b", title)), tag("div", body, id=record.anchor), open="" if open_ else None
    )


def _markdown() -> MarkdownIt:
    """Markup in the text is text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _titled(blocks: Sequence[Token], record: Record) -> tuple[str, Sequence[Token]]:
    """The page's title, plain, and its blocks without it."""
    if [b.tag for b in blocks[:1]] != ["h1"]:
        return record.name, blocks
    words = "".join(token.content for token in blocks[1].children or ())
    return "Lab book: " * record.name.startswith("lab/") + words, blocks[3:]


def _placed(blocks: Sequence[Token], record: Record, anchors: Mapping[str, str]) -> Iterator[Token]:
    """Headings below the section's; links to its pages lead there, those to files that are not shown are plain text."""
    for block in blocks:
        if block.type.startswith("heading"):
            block.tag = f"h{min(max(int(block.tag[1]) + 1, 3), 6)}"
        closes = None
        for token in block.children or ():
            if token.type == "link_open":
                closes = _led(token, record, anchors)
            elif token.type == "link_close" and closes:
                token.type, token.content, token.nesting = closes, "", 0
        yield block


def _led(link: Token, record: Record, anchors: Mapping[str, str]) -> str | None:
    """Gives a link the place that it leads to on this page; where there is none, it becomes empty text, as its end has to."""
    address = link.attrs["href"]
    if "://" in address:
        return None
    if anchor := anchors.get(record.place(address)):
        link.attrs["href"] = f"#{anchor}"
        return None
    link.type, link.content, link.attrs, link.nesting = "text", "", {}, 0
    return "text"
