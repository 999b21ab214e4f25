"""One self-contained page with everything a person asks of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files

from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, join
from s5.report.sections.data import data, quarantine
from s5.report.sections.headline import headline
from s5.report.sections.run import more_figures, parameters, reproduction
from s5.report.sections.scenes import scenes
from s5.report.sections.scores import gallery, per_class
from s5.report.sections.selection import selection
from s5.report.sections.training import training

_SECTIONS: tuple[Callable[[ReportInputs], Html | None], ...] = (
    headline,
    gallery,
    scenes,
    per_class,
    training,
    selection,
    data,
    quarantine,
    more_figures,
    parameters,
    reproduction,
)


def render_report(inputs: ReportInputs) -> str:
    """The report as one HTML document: styles and pictures inside, no script, nothing fetched from anywhere.

    The same inputs give the same bytes, unless `created` says otherwise.
    """
    parts = [part for make in _SECTIONS if (part := make(inputs)) is not None]
    links = [element("a", title, href=f"#{anchor}") for anchor, title in map(_anchor_and_title, parts)]
    title = f"S5 report: {inputs.dataset}"
    page = element(
        "html",
        element("head", *_meta(title)),
        element(
            "body",
            element(
                "div",
                element("nav", element("strong", "S5 report"), links, aria_label="Sections"),
                element("main", _header(inputs), parts, element("footer", "Made by S5; needs no other file.")),
                class_="frame",
            ),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _meta(title: str) -> list[Html]:
    css = files("s5.report").joinpath("page.css").read_text(encoding="utf-8")
    return [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        # An empty icon keeps browsers from asking a server for one.
        element("link", rel="icon", href="data:,"),
        element("style", Html(css)),
    ]


def _header(inputs: ReportInputs) -> Html:
    said = [
        "S5 report",
        None if inputs.seed is None else f"seed {inputs.seed}",
        None if not inputs.revision else f"revision {inputs.revision[:12]}",
        inputs.created,
    ]
    below = " · ".join(text for text in said if text)
    return element(
        "header",
        element("h1", inputs.dataset),
        element("p", below),
        join(element("div", note, class_="note") for note in inputs.notes),
    )


def _anchor_and_title(part: Html) -> tuple[str, Html]:
    found = re.match(r'<section id="([^"]+)"><h2>(.*?)</h2>', part)
    assert found is not None, "every part is made by parts.section"
    return found.group(1), Html(found.group(2))
