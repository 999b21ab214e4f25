"""What came out: the models side by side, and whether the comparison is fair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s5.data.protocol import read_protocol
from s5.report.health import collapse_warnings, fairness_warnings
from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, table
from s5.report.palette import model_color
from s5.report.sections.parts import bar, section, signed, warning, with_sign
from s5.report.verdict import Verdict, judge

_MEASURES = (("miou", "mIoU"), ("macc", "mean accuracy"), ("mf1", "mean F1"), ("oa", "overall accuracy"))
_TITLES = {
    "supervised": "labelled tiles alone",
    "s4p": "semi-supervised pretraining",
    "finetuned": "S4P, then labelled tiles",
}


def headline(inputs: ReportInputs) -> Html | None:
    """Scores of all models, the difference to the supervised one, and the budget of each."""
    if not inputs.scored:
        return None
    verdict = judge(inputs.scored, inputs.histories)
    split = str((inputs.evaluation or {}).get("split", "test"))
    cards = [_model_card(name, scores) for name, scores in inputs.scored.items()]
    if verdict is not None:
        cards.append(_difference_card(verdict))
    return section(
        "result",
        "Result",
        _sentence(verdict, split),
        _protocol(inputs.evaluation or {}),
        warning("Look at this first", _signs(inputs)),
        element("div", cards, class_="cards"),
        _scores_table(inputs.scored),
        _budget(inputs.scored, split),
    )


def _protocol(evaluation: Mapping[str, Any]) -> Html | None:
    """How the models were measured, where it is not the plain way."""
    protocol = read_protocol(evaluation.get("protocol"))
    if protocol.is_plain and not protocol.leave_out:
        return None
    return element("p", f"Measured on {protocol.sentence}.")


def _signs(inputs: ReportInputs) -> list[str]:
    signs = [f"{name}: {sign}" for name, frame in inputs.histories.items() for sign in collapse_warnings(frame)]
    return signs + fairness_warnings(inputs.evaluation or {})


def _sentence(verdict: Verdict | None, split: str) -> Html:
    if verdict is None:
        return element("p", f"Scores on the {split} split, in percent.", class_="lead")
    difference = verdict.difference
    did = "gained" if round(difference, 1) > 0 else "lost" if round(difference, 1) < 0 else "changed"
    text = (
        f"The unlabelled tiles {did} {abs(difference):.1f} points of mIoU on the {split} split: "
        f"{verdict.model} reaches {verdict.chosen:.1f} %, the supervised model {verdict.supervised:.1f} %. "
        f"{verdict.model} is {verdict.chosen_on}. "
        "One run is one draw: repeat it with other seeds before you believe a difference."
    )
    return element("p", text, class_="lead")


def _model_card(name: str, scores: Mapping[str, Any]) -> Html:
    value = scores.get("miou")
    shown = "–" if value is None else f"{value:.1f}"
    return element(
        "div",
        element("div", name, class_="name"),
        element("div", shown, element("small", " % mIoU"), class_="value"),
        element("div", _TITLES.get(name, "model"), class_="below"),
        class_="card",
        style=f"--c:{model_color(name)}",
    )


def _difference_card(verdict: Verdict) -> Html:
    kind = "good" if round(verdict.difference, 1) > 0 else "bad" if round(verdict.difference, 1) < 0 else ""
    return element(
        "div",
        element("div", "difference", class_="name"),
        element("div", with_sign(verdict.difference), element("small", " points"), class_=f"value {kind}".strip()),
        element("div", f"{verdict.model} − supervised", class_="below"),
        class_="card",
    )


def _scores_table(scored: Mapping[str, Mapping[str, Any]]) -> Html:
    base = scored.get("supervised", {}).get("miou")
    rows = []
    for name, scores in scored.items():
        miou = scores.get("miou")
        gain = None if base is None or miou is None or name == "supervised" else miou - base
        rows.append([name, *(bar(scores.get(key), model_color(name)) for key, _ in _MEASURES), signed(gain)])
    return table(["model", *(f"{title}, %" for _, title in _MEASURES), "mIoU − supervised"], rows)


def _budget(scored: Mapping[str, Mapping[str, Any]], split: str) -> Html | None:
    if not any(scores.get("steps") for scores in scored.values()):
        return None
    rows = [
        [
            name,
            _number(scores.get("steps")),
            _number(scores.get("labeled_seen")),
            str(scores.get("selected_on") or "–"),
            _number(scores.get("seed"), grouped=False),
            _number(scores.get("n_pixels")),
        ]
        for name, scores in scored.items()
    ]
    fair = "supervised" in scored and not fairness_warnings({"models": scored})
    text = (
        "Everything behind a model counts towards its steps and labelled images, the seed model included. "
        + ("The supervised model had at least as much of both as the models that it is compared with. " if fair else "")
        + "A class that is in neither the truth nor the prediction is left out of the means."
    )
    head = ["model", "optimiser steps", "labelled images seen", "checkpoint chosen on", "seed", f"{split} pixels"]
    return element("div", element("h3", "Budget"), element("p", text, class_="lead"), table(head, rows))


def _number(value: Any, *, grouped: bool = True) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if grouped and isinstance(value, int) else str(value)
