"""Which models are evaluated: those of the catalog, or finished ones given by path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5.types import BandStatistics
from s5_kedro.pipelines.evaluation.config import EvaluationConfig
from s5_kedro.project import find_file, project_root

if TYPE_CHECKING:
    from s5.data.loader import SegmentationData

# Name in the evaluation -> the pipeline that makes the model.
_MADE_BY = {"supervised": "supervised", "s4p": "s4p_pretrain", "finetuned": "finetune"}


def chosen_models(config: EvaluationConfig, trained: Mapping[str, dict[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """Model name -> its pointer, with `weights` the path of its file.

    Raises:
        FileNotFoundError: a model that was not trained yet, or a path where no file lies.
    """
    if config.models:
        return {name: given_model(name, path) for name, path in config.models.items()}
    from s5.models import open_pointer

    found = {}
    for name, pointer in trained.items():
        if pointer is None:
            raise FileNotFoundError(
                f"{name}: this model is not trained yet; make it with kedro run --pipelines={_MADE_BY[name]}, or "
                "evaluate a finished one with --params=evaluation.models.NAME=POINTER_OR_WEIGHTS"
            )
        found[name] = {**pointer, "weights": open_pointer(pointer, project_root())}
    return found


def open_model(name: str, pointer: Mapping[str, Any], data: SegmentationData) -> tuple[Any, BandStatistics]:
    """The network and the band statistics that it was trained with.

    Raises:
        ValueError: it was trained for other classes, or for another number of bands, than the dataset has.
    """
    from s5.models import load_model

    model, metadata = load_model(pointer["weights"])
    known, classes, bands = list(metadata["classes"]), list(data.labels.classes), len(data.statistics.bands)
    if known != classes:
        raise ValueError(
            f"{name}: the model knows the classes {known}, the dataset has {classes}; "
            "evaluate it on a card with the same classes in the same order"
        )
    statistics = BandStatistics.from_dict(metadata["statistics"])
    if len(statistics.bands) != bands:
        raise ValueError(
            f"{name}: the model takes {len(statistics.bands)} bands {list(statistics.bands)}, the dataset has {bands}"
        )
    return model, statistics


def given_model(name: str, path: str) -> dict[str, Any]:
    """The pointer of a finished model, with `weights` the path of its file.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is neither a pointer nor weights.
    """
    found = find_file(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"evaluation.models.{name}: there is no file {path}; expected a model pointer (.json) or weights "
            "(.safetensors), absolute or relative to the project"
        )
    if found.suffix == ".safetensors":
        return {"weights": found}
    if found.suffix != ".json":
        raise ValueError(f"evaluation.models.{name}: expected a .json or .safetensors file, got {found.name}")
    from s5.models import open_pointer

    pointer = json.loads(found.read_text(encoding="utf-8"))
    if not isinstance(pointer, dict) or "path" not in pointer:
        raise ValueError(f"evaluation.models.{name}: {path} is no model pointer (no 'path' in it)")
    return {**pointer, "weights": open_pointer(pointer, _project_of(found, str(pointer["path"])))}


def _project_of(pointer_file: Path, weights: str) -> Path:
    """The project that a pointer belongs to: this one, or a folder above the pointer that holds its weights."""
    return next((f for f in (project_root(), *pointer_file.parents) if (f / weights).is_file()), project_root())
