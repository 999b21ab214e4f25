"""The dataset card: one YAML file that describes a user's data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from s5.data.protocol import PRESETS, EvaluationProtocol, read_protocol
from s5.types import LabelSpace

SPLITS = ("labeled", "unlabeled", "noisy", "val", "test")
_KEYS = (
    "name", "classes", "ignore_index", "bands", "scale", "splits", "background", "palette", "ignore_values",
    "class_field", "legend", "prompts", "protocol", "gsd", "group", "sensors",
)  # fmt: skip
_REQUIRED = ("name", "classes", "bands", "splits")
_CODING_KEYS = ("palette", "ignore_values", "class_field", "legend")
_SPLIT_KEYS = ("images", "masks", "list", "boxes", *_CODING_KEYS)

Colour = tuple[int, int, int]


class CardError(ValueError):
    """A dataset card that cannot be used as it is."""


@dataclass(frozen=True)
class MaskCoding:
    """How the values of mask files become class indices; `None` stands for `ignore_index`.

    `palette` maps colours, `legend` raster values, `ignore_values` lists raster values without a label, and
    `class_field` names the attribute of vector files.
    """

    palette: tuple[tuple[Colour, int | None], ...] = ()
    legend: tuple[tuple[int, int | None], ...] = ()
    ignore_values: tuple[int, ...] = ()
    class_field: str = "class"


@dataclass(frozen=True)
class SplitSource:
    """Where the files of a split are: folders, globs or a vector file, or a list file."""

    name: str
    images: str | None
    masks: str | None
    list_file: Path | None
    boxes: Path | None
    coding: MaskCoding


@dataclass(frozen=True)
class DatasetCard:
    """A dataset as its card describes it. `folder` is where the paths of the card start."""

    path: Path
    name: str
    labels: LabelSpace
    bands: tuple[str, ...]
    splits: dict[str, SplitSource]
    scale: float | None = None
    gsd: float | None = None
    group: str | None = None
    prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    protocol: EvaluationProtocol = PRESETS["whole"]
    sensors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def shown(self, path: Path) -> str:
        """A path as messages name it: relative to the card where it lies below it."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)


def load_card(path: Path | str) -> DatasetCard:
    """Read and check a dataset card.

    Raises:
        FileNotFoundError: there is no such file.
        CardError: what is wrong with it and what to do, in one line.
    """
    path = Path(path).absolute()
    try:
        return _Reader(path.name, _read_yaml(path)).card(path)
    except CardError as error:
        raise CardError(f"{path.name}: {error}") from error.__cause__


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise CardError("is a folder; give the path of the dataset card in it, such as dataset.yml")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such dataset card; set 'dataset' to the path of a dataset.yml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CardError(f"is not YAML ({' '.join(str(error).split())}); correct it there") from error
    if not isinstance(values, dict):
        raise CardError(f"expected keys such as name, classes, bands and splits, found {_kind(values)}")
    return {str(key): value for key, value in values.items()}


class _Reader:
    """Reads the values of a card; `CardError` messages come without the name of the file."""

    def __init__(self, file_name: str, values: dict[str, Any]) -> None:
        self.file_name, self.values = file_name, values

    def card(self, path: Path) -> DatasetCard:
        _refuse_unknown(self.values, _KEYS, "")
        missing = [key for key in _REQUIRED if self.values.get(key) is None]
        if missing:
            raise CardError(f"lacks {', '.join(map(repr, missing))}; every card needs {', '.join(_REQUIRED)}")
        labels = self._labels()
        bands = _names(self.values["bands"], "bands")
        coding = _coding(self.values, labels, MaskCoding(), "")
        return DatasetCard(
            path=path,
            name=_text(self.values["name"], "name"),
            labels=labels,
            bands=bands,
            splits=self._splits(path.parent, labels, coding),
            scale=_positive(self.values.get("scale"), "scale"),
            gsd=_positive(self.values.get("gsd"), "gsd"),
            group=self._group(),
            prompts=self._prompts(labels),
            protocol=self._protocol(labels),
            sensors=self._sensors(bands),
        )

    def _labels(self) -> LabelSpace:
        ignore = self.values.get("ignore_index", 255)
        background = self.values.get("background")
        classes = _names(self.values["classes"], "classes", unique=False)
        if isinstance(ignore, bool) or not isinstance(ignore, int):
            raise CardError(f"ignore_index: expected a mask value in 0..255, got {ignore!r}")
        try:
            return LabelSpace(classes, ignore, None if background is None else str(background))
        except ValueError as error:
            raise CardError(str(error)) from error

    def _splits(self, folder: Path, labels: LabelSpace, coding: MaskCoding) -> dict[str, SplitSource]:
        splits = self.values["splits"]
        if not isinstance(splits, dict) or not splits:
            raise CardError(f"splits: expected one or more of {', '.join(SPLITS)}, got {_kind(splits)}")
        _refuse_unknown(splits, SPLITS, "splits.")
        return {name: _split(name, splits[name], folder, labels, coding) for name in SPLITS if name in splits}

    def _group(self) -> str | None:
        group = self.values.get("group")
        if group is None:
            return None
        try:
            return re.compile(_text(group, "group")).pattern
        except re.error as error:
            raise CardError(f"group: {group!r} is no column name and no regular expression ({error})") from error

    def _protocol(self, labels: LabelSpace) -> EvaluationProtocol:
        try:
            return read_protocol(self.values.get("protocol"), labels.classes)
        except ValueError as error:
            raise CardError(str(error)) from error

    def _prompts(self, labels: LabelSpace) -> dict[str, tuple[str, ...]]:
        prompts = _mapping(self.values.get("prompts"), "prompts")
        _refuse_unknown(prompts, labels.classes, "prompts.")
        return {
            name: (phrases,) if isinstance(phrases, str) else _names(phrases, f"prompts.{name}")
            for name, phrases in prompts.items()
        }

    def _sensors(self, bands: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        sensors = {
            str(name): _names(of, f"sensors.{name}")
            for name, of in _mapping(self.values.get("sensors"), "sensors").items()
        }
        for name, of in sensors.items():
            _refuse_unknown(dict.fromkeys(of), bands, f"sensors.{name}: ")
        return sensors


def _split(name: str, values: Any, folder: Path, labels: LabelSpace, coding: MaskCoding) -> SplitSource:
    at = f"splits.{name}"
    if not isinstance(values, dict) or not values:
        raise CardError(f"{at}: expected {{images: ..., masks: ...}} or {{list: ...}}, got {_kind(values)}")
    _refuse_unknown(values, _SPLIT_KEYS, f"{at}.")
    if ("list" in values) == ("images" in values):
        raise CardError(f"{at}: expected either 'images' or 'list', got {sorted(values)}")
    if "list" in values and "masks" in values:
        raise CardError(f"{at}: 'masks' goes with 'images'; a list names its masks in its column 'mask'")
    if "images" in values and "masks" not in values and name != "unlabeled" and "boxes" not in values:
        raise CardError(f"{at}: lacks 'masks'; only unlabeled images go without, and those with 'boxes'")
    images, masks, list_file, boxes = (
        None if values.get(key) is None else _text(values[key], f"{at}.{key}")
        for key in ("images", "masks", "list", "boxes")
    )
    for key, value in (("images", images), ("masks", masks), ("list", list_file), ("boxes", boxes)):
        if value is not None and not is_glob(value) and not (folder / value).exists():
            raise CardError(f"{at}.{key}: {folder / value} does not exist; paths are relative to the card")
    return SplitSource(
        name=name,
        images=images,
        masks=masks,
        list_file=None if list_file is None else folder / list_file,
        boxes=None if boxes is None else folder / boxes,
        coding=_coding(values, labels, coding, f"{at}."),
    )


def is_glob(text: str) -> bool:
    """Whether a path of a card is a pattern."""
    return any(sign in text for sign in "*?[")


def _coding(values: Mapping[str, Any], labels: LabelSpace, default: MaskCoding, at: str) -> MaskCoding:
    chosen = {key: getattr(default, key) for key in _CODING_KEYS}
    if values.get("palette") is not None:
        chosen["palette"] = _palette(values["palette"], labels, f"{at}palette")
    if values.get("legend") is not None:
        legend = _mapping(values["legend"], f"{at}legend")
        chosen["legend"] = tuple(
            (_integer(value, f"{at}legend"), _class_index(name, labels, f"{at}legend"))
            for value, name in legend.items()
        )
    if values.get("ignore_values") is not None:
        given = values["ignore_values"]
        listed = given if isinstance(given, list) else [given]
        chosen["ignore_values"] = tuple(_integer(value, f"{at}ignore_values") for value in listed)
    if values.get("class_field") is not None:
        chosen["class_field"] = _text(values["class_field"], f"{at}class_field")
    return MaskCoding(**chosen)


def _palette(given: Any, labels: LabelSpace, at: str) -> tuple[tuple[Colour, int | None], ...]:
    if isinstance(given, list):
        if len(given) != labels.num_classes:
            raise CardError(
                f"{at}: {len(given)} colours for {labels.num_classes} classes; name them: {{class: [r, g, b]}}"
            )
        given = dict(zip(labels.classes, given, strict=True))
    pairs: dict[Colour, int | None] = {}
    for name, colours in _mapping(given, at).items():
        several = isinstance(colours, list) and bool(colours) and isinstance(colours[0], list)
        for colour in colours if several else [colours]:
            rgb = _colour(colour, f"{at}.{name}")
            if rgb in pairs:
                raise CardError(f"{at}: colour {list(rgb)} is given twice")
            pairs[rgb] = _class_index(name, labels, at)
    return tuple(pairs.items())


def _colour(value: Any, at: str) -> Colour:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    raise CardError(f'{at}: expected a colour such as [255, 0, 0] or "#ff0000", got {value!r}')


def _class_index(name: Any, labels: LabelSpace, at: str) -> int | None:
    if name is None or (name == "ignore" and "ignore" not in labels.classes):
        return None
    if name in labels.classes:
        return labels.classes.index(name)
    raise CardError(f"{at}: {name!r} is not one of the classes {list(labels.classes)}, nor 'ignore'")


def _refuse_unknown(values: Mapping[Any, Any], known: tuple[str, ...], at: str) -> None:
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
            raise CardError(f"{at}{key}: unknown; {advice}")


def _names(values: Any, at: str, *, unique: bool = True) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise CardError(f"{at}: expected a list of names, got {_kind(values)}")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise CardError(f"{at}: expected names, got {value!r}; YAML reads no, yes, on, off and digits as something "
                            "else unless quoted")  # fmt: skip
    if unique and not values:
        raise CardError(f"{at}: the list is empty; name at least one")
    if unique and len(set(values)) != len(values):
        raise CardError(f"{at}: a name stands twice in {values}")
    return tuple(values)


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CardError(f"{at}: expected text, got {value!r}")
    return value


def _integer(value: Any, at: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CardError(f"{at}: expected whole numbers, got {value!r}")
    return value


def _positive(value: Any, at: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise CardError(f"{at}: expected a number over 0, got {value!r}")
    return float(value)


def _mapping(value: Any, at: str) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CardError(f"{at}: expected 'name: value' pairs, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None or value in ({}, []) else f"{type(value).__name__} {str(value)[:60]!r}"
