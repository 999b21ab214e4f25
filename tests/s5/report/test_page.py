from __future__ import annotations

import base64
import io
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from s5.report import ReportInputs, SceneLink, plot_gallery, render_report
from s5.report.canvas import encode

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Page(HTMLParser):
    """Checks that what is opened is closed, and remembers what the page holds."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} stands twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


def test_the_page_is_well_formed(report_html: str) -> None:
    page = _Page(report_html)
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids) == 9
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{i}" for i in ids]
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_maps_of_scenes_are_shown_and_linked() -> None:
    links = {"page": "../x/index.html", "classes.tif": "../x/classes.tif"}
    picture = encode(np.zeros((4, 9, 3), np.uint8))[1]
    page = _Page(
        render_report(ReportInputs("d", scenes=[SceneLink("north <1>", links, picture), SceneLink("b", links)]))
    )
    assert [h for h in page.attributes("href") if h.startswith("..")] == list(links.values()) * 2
    assert "north <1>: page classes.tif" in page.text
    assert "north <1> and its map" in page.attributes("alt")


def test_nothing_is_fetched_from_anywhere(report_html: str) -> None:
    page = _Page(report_html)
    for name in ("src", "href", "srcset", "data", "action", "poster"):
        assert all(value.startswith(("data:", "#")) for value in page.attributes(name))
    assert not any(tag in ("script", "iframe", "object", "embed") for tag, _ in page.tags)
    styles = report_html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_pictures_can_be_decoded(report_html: str) -> None:
    pictures = [attrs for tag, attrs in _Page(report_html).tags if tag == "img"]
    assert len(pictures) == 5
    for attrs in pictures:
        head, _, body = (attrs["src"] or "").partition(",")
        with Image.open(io.BytesIO(base64.b64decode(body, validate=True))) as image:
            image.load()
            assert (str(image.width), str(image.height)) == (attrs["width"], attrs["height"])
            assert head == f"data:image/{image.format.lower()};base64"


def test_what_a_person_asks_is_answered(report_html: str, run_inputs: ReportInputs) -> None:
    text = _Page(report_html).text
    models = run_inputs.scored
    assert f"{models['finetuned']['miou']:.1f}" in text
    assert f"+{models['finetuned']['miou'] - models['supervised']['miou']:.1f}" in text
    for needed in ("19,200", "wrong bands", "28 of 60 unlabelled tiles", "tau: 0.95", "2.15.0", "kedro run --params"):
        assert needed in text, needed


def test_the_same_run_gives_the_same_page(report_html: str, run_inputs: ReportInputs) -> None:
    assert render_report(run_inputs) == report_html


def test_hostile_names_stay_text(run_inputs: ReportInputs) -> None:
    evil = '<script>alert("1")</script>'
    names = [evil, "$\\frac{$", "_hidden", 'a" onmouseover="x', "&amp;"]
    ious = dict.fromkeys(names, 50.0)
    scores = {**run_inputs.scored["s4p"], "per_class_iou": ious}
    inputs = replace(
        run_inputs,
        dataset=evil,
        evaluation={"split": evil, "models": {"supervised": scores, "s4p": scores, evil: scores}},
        confusion={evil: run_inputs.confusion["s4p"]},
        label_space={"classes": names, "background": evil},
        class_pixels={evil: dict.fromkeys(names, 5)},
        quarantine=pd.DataFrame({"path": [evil], "reason": [evil]}),
        parameters={evil: {evil: evil}, "plain": evil},
        notes=[evil],
        histories={evil: run_inputs.histories["s4p"]},
        models={evil: {"sha256": evil}},
        versions={evil: evil},
        command=evil,
        created=evil,
        revision=evil,
        figures={evil: plot_gallery([], None, [])},
    )
    page = _Page(render_report(inputs))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert page.attributes("onmouseover") == []
    assert page.text.count(evil) > 10


@pytest.mark.parametrize("missing", [f.name for f in fields(ReportInputs) if f.name != "dataset"])
def test_any_part_may_be_missing(run_inputs: ReportInputs, missing: str) -> None:
    default = next(f for f in fields(ReportInputs) if f.name == missing)
    empty = default.default_factory() if callable(default.default_factory) else default.default
    light = replace(run_inputs, histories={}, manifest=None, figures={}, scores=None, confusion=None)
    assert run_inputs.dataset in _Page(render_report(replace(light, **{missing: empty}))).text


def test_an_empty_run_is_a_page_too() -> None:
    page = _Page(render_report(ReportInputs("nothing yet")))
    assert "nothing yet" in page.text
    assert not any(tag == "section" for tag, _ in page.tags)


def test_a_loss_is_called_a_loss(run_inputs: ReportInputs) -> None:
    models = dict(run_inputs.scored)
    models["finetuned"] = {**models["finetuned"], "miou": 40.0, "steps": 99999}
    page = _Page(render_report(ReportInputs("x", evaluation={"split": "test", "models": models})))
    assert "The unlabelled tiles lost" in page.text
    assert "the comparison favours finetuned" in page.text


def test_collapse_is_warned_about(run_inputs: ReportInputs) -> None:
    history = run_inputs.histories["s4p"].assign(confident_share=0.001)
    page = _Page(render_report(ReportInputs("x", histories={"s4p": history})))
    assert "Signs that the pseudo-labels fail" in page.text


def test_absent_classes_have_no_number() -> None:
    scores = {"miou": None, "per_class_iou": {"a": None, "b": 12.0}}
    assert "–" in _Page(render_report(ReportInputs("x", evaluation={"models": {"mine": scores}}))).text


def test_pictures_of_every_form(tmp_path) -> None:
    figure = Figure(figsize=(1, 1))
    figure.savefig(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    inputs = ReportInputs("x", figures={"path": tmp_path / "a.png", "bytes": content, "figure": figure})
    assert sum(tag == "img" for tag, _ in _Page(render_report(inputs)).tags) == 3
    with pytest.raises(ValueError, match="PNG or JPEG"):
        encode(b"GIF89a")


def test_a_protocol_that_is_not_plain_is_said() -> None:
    from s5.data.protocol import PRESETS

    scores = {"miou": 50.0, "per_class_iou": {"a": 50.0}}
    document = {"split": "test", "models": {"mine": scores}}
    plain = render_report(ReportInputs("x", evaluation={**document, "protocol": PRESETS["whole"].to_dict()}))
    assert "Measured on" not in plain
    other = render_report(ReportInputs("x", evaluation={**document, "protocol": PRESETS["loveda"].to_dict()}))
    assert "Measured on windows of 512 px, one every 256 px." in other
