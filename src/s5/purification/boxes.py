"""Boxes from what a vision-language model wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s5.purification.prompts import same_name

_NUMBER = r"-?\d+(?:\.\d+)?"
_PLAIN = re.compile(r"^([^\[\]:\n]+):([\s\d.,\-\[\]()]+)$", re.MULTILINE)
_FOUR = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
_BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box")
_LABEL_KEYS = ("label", "class", "category", "name")


@dataclass(frozen=True)
class Box:
    """A class and where it is: x1, y1, x2, y2 in pixels of the image, x1 < x2 and y1 < y2, none out of the image."""

    label: int
    xyxy: tuple[float, float, float, float]


def parse_boxes(answer: str, names: Mapping[str, int], frame: tuple[float, float], size: tuple[int, int]) -> list[Box]:
    """Boxes of known classes in an answer.

    Understood are JSON (a list of objects with ``bbox_2d`` and ``label``, or one object, fenced or within prose, and
    what is whole of a list that was cut off), an object of class names with lists of boxes, and lines such as ``road:
    [x1, y1, x2, y2], [...]``. What is no box of a class that was asked for is left out; prose gives nothing.

    Args:
        answer: As the model wrote it.
        names: Phrasings to class indices.
        frame: Width and height of the frame that the model's coordinates are in: its resized image, or 1000 by 1000.
        size: Height and width of the image, in pixels.

    Returns:
        Boxes in the order of the answer, each once, cut to the image.
    """
    known = {same_name(name): index for name, index in names.items()}
    found = _from_json(answer)
    pairs = found if found is not None else _from_lines(answer)
    boxes: list[Box] = []
    for label, corners in pairs:
        index, xyxy = known.get(same_name(label)), _in_image(corners, frame, size)
        if index is not None and xyxy is not None and (box := Box(index, xyxy)) not in boxes:
            boxes.append(box)
    return boxes


def _in_image(
    corners: Sequence[Any], frame: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Mapped from the model's frame and cut to the image; None for what has no area there."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in corners):
        return None
    (width, height), (rows, cols) = frame, size
    x1, x2 = (min(max(float(v) * cols / width, 0.0), float(cols)) for v in (corners[0], corners[2]))
    y1, y2 = (min(max(float(v) * rows / height, 0.0), float(rows)) for v in (corners[1], corners[3]))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _from_json(answer: str) -> list[tuple[str, Sequence[Any]]] | None:
    """Pairs of label and four numbers; None where the answer holds no JSON of boxes."""
    decoder = json.JSONDecoder()
    found: list[tuple[str, Sequence[Any]]] = []
    position, any_json = 0, False
    while (start := answer.find("{", position)) >= 0:
        try:
            value, position = decoder.raw_decode(answer, start)
        except (json.JSONDecodeError, RecursionError):
            position = start + 1  # cut off or no JSON: what is whole within it is still to come
            continue
        any_json = any_json or isinstance(value, dict)
        found += _pairs(value)
    return found if any_json else None


def _pairs(value: Any) -> list[tuple[str, Sequence[Any]]]:
    box = next((value[key] for key in _BOX_KEYS if key in value), None)
    label = next((value[key] for key in _LABEL_KEYS if isinstance(value.get(key), str)), None)
    if box is not None:
        return [(label, one) for one in _several(box)] if label is not None else []
    pairs = [(str(name), one) for name, boxes in value.items() for one in _several(boxes)]
    nested = [one for child in value.values() if isinstance(child, list) for one in child if isinstance(one, dict)]
    return pairs + [pair for one in nested for pair in _pairs(one)]


def _several(value: Any) -> list[Sequence[Any]]:
    """One box or a list of boxes."""
    if not isinstance(value, list):
        return []
    if len(value) == 4 and not any(isinstance(one, list) for one in value):
        return [value]
    return [one for one in value if isinstance(one, list) and len(one) == 4]


def _from_lines(answer: str) -> list[tuple[str, Sequence[Any]]]:
    return [
        (label, [float(number) for number in four])
        for label, numbers in _PLAIN.findall(answer)
        for four in _FOUR.findall(numbers)
    ]
