"""HTML that is escaped by construction: text becomes markup only through `element`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

_VOID = frozenset({"br", "hr", "img", "meta", "link", "input"})


class Html(str):
    """A string that is markup already. Everything else is text and gets escaped."""

    __slots__ = ()


Content = str | int | float | None | Sequence["Content"]


def element(name: str, /, *content: Content, **attributes: str | int | bool | None) -> Html:
    """``<name attributes>content</name>``.

    Args:
        name: Tag.
        content: Text, which is escaped, or `Html`, which is not; None is left out, sequences are joined.
        attributes: ``class_`` stands for class and ``data_x`` for data-x; True writes the bare name, None and
            False nothing.
    """
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(content)}</{name}>")


def join(content: Iterable[Content]) -> Html:
    """The parts one after the other, text escaped."""
    return Html("".join(_render(part) for part in content))


def picture(mime: str, content: bytes, *, alt: str, size: tuple[int, int] | None = None) -> Html:
    """An image that lies in the page itself."""
    width, height = size if size is not None else (None, None)
    source = f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
    return element("img", src=source, alt=alt, width=width, height=height)


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]], *, class_: str | None = None) -> Html:
    """A table; a row's first cell is its heading, and a cell made with ``element("td", ...)`` stays as it is."""
    body = [element("tr", [_cell(cell, first=i == 0) for i, cell in enumerate(row)]) for row in rows]
    titles = element("thead", element("tr", [element("th", title, scope="col") for title in head]))
    return element("div", element("table", titles, element("tbody", body), class_=class_), class_="scroll")


def _cell(cell: Content, *, first: bool) -> Html:
    if isinstance(cell, Html) and cell.startswith("<td"):
        return cell
    if first:
        return element("th", cell, scope="row")
    is_number = isinstance(cell, int | float) or (
        isinstance(cell, str) and cell[:1] in "+-−–.0123456789" and cell != ""
    )
    return element("td", cell, class_="n" if is_number else None)


def _render(part: Content) -> str:
    if part is None:
        return ""
    if isinstance(part, Html):
        return str(part)
    if isinstance(part, str):
        return escape(part, quote=False)
    if isinstance(part, int | float):
        return f"{part:,}"
    return join(part)


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'
