"""Pieces that sections are put together from."""

from __future__ import annotations

from collections.abc import Sequence

from s5.report.canvas import Picture, encode, picture_size
from s5.report.markup import Content, Html, element, picture

_MOST_SHOWN = 200


def section(anchor: str, title: str, *content: Content) -> Html:
    """A section that the navigation can jump to."""
    return element("section", element("h2", title), *content, id=anchor)


def figure(image: Picture, alt: str, caption: Content = None) -> Html:
    """A picture in the page, with what it shows in words."""
    mime, content = encode(image)
    text = element("figcaption", caption) if caption is not None else None
    return element("figure", picture(mime, content, alt=alt, size=picture_size(content)), text)


def warning(title: str, signs: Sequence[str]) -> Html | None:
    """A box with one or several warnings; None where there are none."""
    if not signs:
        return None
    items = [element("li", sign) for sign in signs]
    return element("div", element("strong", title), element("ul", items), class_="warning", role="alert")


def bar(value: float | None, color: str, *, digits: int = 1, best: bool = False) -> Html:
    """A table cell with a number in percent and a bar as long as it."""
    if value is None:
        return element("td", "–", class_="n")
    text = f"{value:.{digits}f}"
    shown = element("strong", text) if best else text
    return element("td", shown, class_="bar", style=f"--v:{max(0.0, min(value, 100.0)):.2f};--c:{color}")


def signed(value: float | None, digits: int = 1) -> Html:
    """A table cell with a difference: its sign written out, and coloured."""
    if value is None:
        return element("td", "–", class_="n")
    rounded = round(value, digits)
    kind = "good" if rounded > 0 else "bad" if rounded < 0 else ""
    return element("td", with_sign(value, digits), class_=f"n {kind}".strip())


def with_sign(value: float, digits: int = 1) -> str:
    """``+1.2``, ``−1.2`` with a true minus, or ``0.0``."""
    rounded = round(value, digits)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def swatch(color: str, name: str) -> Html:
    """A small square of a colour before a name."""
    return element("span", element("span", class_="swatch", style=f"background:{color}"), name)


def folded(summary: str, *content: Content) -> Html:
    """Content that is there when one asks for it."""
    return element("details", element("summary", summary), *content)


def shown_of(count: int, most: int = _MOST_SHOWN) -> str | None:
    """A sentence for a table that was cut; None where it was not."""
    return None if count <= most else f"The first {most:,} of {count:,} are listed; the table in the catalog has all."


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 tile``, ``1,200 tiles``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
