"""HTML in which every plain string is text: only `tag` and `raw` make markup."""

import html


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


VOID = {"img", "meta", "br", "col"}


def raw(text: str) -> Markup:
    """Text taken as markup: for what this package wrote itself."""
    return Markup(text)


def tag(name: str, /, *children: str | None, **attributes: str | int | None) -> Markup:
    """An element; children that are no markup are escaped, None is left out; `class_` is written class."""
    words = [name, *(f'{k.rstrip("_")}="{html.escape(str(v))}"' for k, v in attributes.items() if v is not None)]
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in VOID else f"{opened}{join(*children)}</{name}>")


def join(*children: str | None) -> Markup:
    """Pieces one after the other, those that are no markup escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children if c is not None))
