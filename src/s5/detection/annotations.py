"""Boxes on disk: DOTA's labelTxt, DIOR-R's XML, Task1 files of a submission. What is unusable is told, not fatal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray

from s5.detection.boxes import FAULTS, find_faults
from s5.files import replacing

_HEADERS = ("imagesource:", "gsd:")
_DIOR_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


@dataclass(frozen=True)
class Annotations:
    """The objects of one image.

    Attributes:
        corners: float64 [N, 4, 2], x and y in pixels of the image.
        names: The class of each.
        difficult: bool [N]; such objects count neither as found nor as missed, and teach nothing.
    """

    corners: NDArray[np.float64]
    names: tuple[str, ...]
    difficult: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.corners.shape != (len(self.names), 4, 2) or self.difficult.shape != (len(self.names),):
            raise ValueError(
                f"Annotations: expected corners [N, 4, 2], N names and N flags, got {self.corners.shape}, "
                f"{len(self.names)} and {self.difficult.shape}"
            )

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image: corners float64 [N, 4, 2] in pixels, classes and scores float64 [N]."""

    corners: NDArray[np.float64]
    names: tuple[str, ...]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class BadBox:
    """A box, or a whole file, that is left out: a short `kind` to count by and a sentence to read."""

    path: Path
    kind: str
    reason: str


@dataclass(frozen=True)
class _Row:
    place: str
    values: tuple[float, ...]
    name: str
    difficult: bool


def read_annotations(
    path: Path, *, classes: Collection[str] | None = None, size: tuple[int, int] | None = None
) -> tuple[Annotations, list[BadBox]]:
    """The usable objects of one image's label file, and what is wrong with the others.

    Args:
        path: labelTxt of DOTA v1.0, v1.5 or v2.0 (``x1 y1 x2 y2 x3 y3 x4 y4 class difficult`` a line, with or without
            its two head lines), or XML of DIOR-R where it ends so. An empty file is an image without objects.
        classes: Known names; objects of others are left out.
        size: Height and width of the image; boxes whose centre lies outside are left out.
    """
    bad: list[BadBox] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _xml_rows(path, text, bad) if path.suffix.lower() == ".xml" else _txt_rows(path, text, bad)
    except (OSError, UnicodeDecodeError, ElementTree.ParseError) as error:
        rows, reason = [], f"{path}: cannot be read as a label file ({error}); its image counts as one without labels"
        bad.append(BadBox(path, "unreadable_labels", reason))
    usable = [row for row in rows if _is_known(path, row, classes, bad)]
    corners = np.array([row.values for row in usable], dtype=np.float64).reshape(-1, 4, 2)
    codes = find_faults(torch.from_numpy(corners), *(size or (None, None))).numpy()
    for row, code, found in zip(usable, codes, corners, strict=True):
        if code:
            kind = FAULTS[code - 1]
            shown = ", ".join(f"{value:.1f}" for value in found.ravel())
            bad.append(BadBox(path, kind, f"{path}: {row.place}: {row.name} box with {_EXPLAINED[kind]}: {shown}"))
    kept = [row for row, code in zip(usable, codes, strict=True) if not code]
    flags = np.array([row.difficult for row in kept], dtype=np.bool_)
    return Annotations(corners[codes == 0], tuple(row.name for row in kept), flags), bad


def _is_known(path: Path, row: _Row, classes: Collection[str] | None, bad: list[BadBox]) -> bool:
    if classes is None or row.name in classes:
        return True
    reason = f"{path}: {row.place}: unknown class {row.name!r}; known are {', '.join(sorted(classes))}"
    bad.append(BadBox(path, "unknown_class", reason))
    return False


_EXPLAINED = {
    "not_finite": "corners that are no finite numbers",
    "crossing_corners": "edges that cross; list the corners in order around the box",
    "zero_area": "no area",
    "outside_image": "its centre outside the image",
}


def _txt_rows(path: Path, text: str, bad: list[BadBox]) -> list[_Row]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts or parts[0].lower().startswith(_HEADERS):
            continue
        try:
            values, flag = tuple(float(part) for part in parts[:8]), int(parts[9]) if len(parts) > 9 else 0
            name = parts[8] if len(parts) <= 10 else ""
        except (ValueError, IndexError):
            name = ""
        if name:
            rows.append(_Row(f"line {number}", values, name, flag != 0))
        else:
            expected = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult"
            reason = f"{path}: line {number}: expected {expected!r}, got {line.strip()[:80]!r}"
            bad.append(BadBox(path, "malformed_line", reason))
    return rows


def _xml_rows(path: Path, text: str, bad: list[BadBox]) -> list[_Row]:
    rows = []
    for number, node in enumerate(ElementTree.fromstring(text).iter("object"), start=1):
        name = (node.findtext("name") or "").strip()
        flag = (node.findtext("difficult") or "0").strip()
        try:
            values = _xml_corners(node)
        except (TypeError, ValueError):
            values = ()
        if name and values:
            rows.append(_Row(f"object {number}", values, name, flag not in ("0", "")))
        else:
            expected = "a name and a robndbox with x_left_top ... y_left_bottom, or a bndbox"
            bad.append(BadBox(path, "malformed_line", f"{path}: object {number}: expected {expected}"))
    return rows


def _xml_corners(node: ElementTree.Element) -> tuple[float, ...]:
    """Eight numbers of an object; TypeError or ValueError where one is missing or is none."""
    turned, upright = node.find("robndbox"), node.find("bndbox")
    if turned is not None:
        values = [turned.findtext(f"{axis}_{corner}") for corner in _DIOR_CORNERS for axis in ("x", "y")]
    elif upright is not None:
        left, top, right, bottom = (upright.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax"))
        values = [left, top, right, top, right, bottom, left, bottom]
    else:
        return ()
    return tuple(float(value) for value in values)  # type: ignore[arg-type]


def count_kinds(bad: Iterable[BadBox]) -> str:
    """Such as "3 zero_area, 1 unknown_class"; empty for nothing."""
    return ", ".join(f"{number} {kind}" for kind, number in Counter(one.kind for one in bad).most_common())


def write_label_txt(path: Path, annotations: Annotations, *, source: str = "", gsd: float | None = None) -> None:
    """Write labelTxt as DOTA has it, whole or not at all."""
    lines = [f"imagesource:{source}", f"gsd:{'null' if gsd is None else gsd}"]
    for corners, name, difficult in zip(annotations.corners, annotations.names, annotations.difficult, strict=True):
        lines.append(f"{_corner_text(corners)} {name} {int(difficult)}")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_submission(folder: Path, detections: Mapping[str, Detections], classes: Sequence[str]) -> list[Path]:
    """Write ``Task1_<class>.txt`` for each class, as DOTA's server and devkit take it: ``image score x1 y1 ... x4 y4``.

    Args:
        folder: Where to; made where missing.
        detections: Image id to what was found there.
        classes: A file is written for each, an empty one where nothing was found.
    """
    lines: dict[str, list[str]] = {name: [] for name in classes}
    for image, found in detections.items():
        for corners, name, score in zip(found.corners, found.names, found.scores, strict=True):
            lines[name].append(f"{image} {score:.6f} {_corner_text(corners, 2)}")
    paths = []
    for name, of_class in lines.items():
        paths.append(folder / f"Task1_{name}.txt")
        with replacing(paths[-1]) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in of_class), encoding="utf-8")
    return paths


def read_submission(folder: Path) -> tuple[dict[str, Detections], list[str]]:
    """Image id to detections from the ``Task1_<class>.txt`` files of a folder, and the classes that have a file.

    Raises:
        FileNotFoundError: there is no such file in the folder.
        ValueError: a line that is no detection.
    """
    files = sorted(folder.glob("Task1_*.txt"))
    if not files:
        raise FileNotFoundError(f"{folder}: holds no Task1_<class>.txt; write them with s5.detection.write_submission")
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for file in files:
        name = file.stem.removeprefix("Task1_")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            parts = line.split()
            if not parts:
                continue
            try:
                values = [float(part) for part in parts[1:]]
            except ValueError:
                values = []
            if len(values) != 9:
                raise ValueError(
                    f"{file}: line {number}: expected 'image score x1 y1 ... x4 y4', got {line[:80]!r}; correct it"
                )
            found.setdefault(parts[0], []).append((name, values))
    detections = {}
    for image, rows in found.items():
        values_of = np.array([values for _, values in rows], dtype=np.float64)
        names = tuple(name for name, _ in rows)
        detections[image] = Detections(values_of[:, 1:].reshape(-1, 4, 2), names, values_of[:, 0])
    return detections, [file.stem.removeprefix("Task1_") for file in files]


def _corner_text(corners: NDArray[np.float64], digits: int = 1) -> str:
    return " ".join(f"{value:.{digits}f}" for value in corners.ravel())
