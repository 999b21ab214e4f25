"""Class by class: IoU, confusions and pictures."""

from __future__ import annotations

from s5.report.canvas import Picture
from s5.report.confusion import plot_confusion
from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, table
from s5.report.palette import class_colors, model_color
from s5.report.sections.parts import bar, figure, section, signed, swatch
from s5.report.verdict import judge


def per_class(inputs: ReportInputs) -> Html | None:
    """IoU of every class and model, and what is taken for what."""
    image = _confusion_picture(inputs)
    if not inputs.scored and image is None:
        return None
    matrices = None
    if image is not None:
        caption = (
            "Each row is a true class and sums to 100 %: the diagonal is its recall, the rest what it is taken for."
        )
        matrices = element("div", element("h3", "Confusions"), figure(image, "Confusion matrices", caption))
    return section("classes", "Classes", _iou_table(inputs), matrices)


def gallery(inputs: ReportInputs) -> Html | None:
    """Images, truth and predictions."""
    image = inputs.figures.get("prediction_gallery")
    if image is None:
        return None
    caption = "Tiles are chosen by their truth alone, so that all classes are seen; no model's success plays a part."
    return section("gallery", "Predictions", figure(image, "Image, truth and the prediction of each model", caption))


def _confusion_picture(inputs: ReportInputs) -> Picture | None:
    if "confusion_matrix" in inputs.figures:
        return inputs.figures["confusion_matrix"]
    if inputs.confusion and inputs.classes:
        return plot_confusion(inputs.confusion, inputs.classes)
    return None


def _iou_table(inputs: ReportInputs) -> Html | None:
    scored = {name: scores["per_class_iou"] for name, scores in inputs.scored.items() if scores.get("per_class_iou")}
    if not scored:
        return None
    verdict = judge(inputs.scored, inputs.histories)
    rows = []
    for name, color in zip(inputs.classes, class_colors(inputs.classes), strict=True):
        values = {model: ious.get(name) for model, ious in scored.items()}
        top = max((v for v in values.values() if v is not None), default=None)
        cells = [bar(v, model_color(m), best=v is not None and v == top) for m, v in values.items()]
        rows.append([swatch(color, name), *cells, *_gain(values, verdict.model if verdict else None)])
    head = ["class", *(f"{model} IoU, %" for model in scored)]
    if verdict is not None:
        head.append(f"{verdict.model} − supervised")
    return table(head, rows)


def _gain(values: dict[str, float | None], model: str | None) -> list[Html]:
    if model is None:
        return []
    base, own = values.get("supervised"), values.get(model)
    return [signed(None if base is None or own is None else own - base)]
