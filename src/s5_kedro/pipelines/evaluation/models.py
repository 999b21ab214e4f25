"""Which models are evaluated: those of the catalog, or finished ones given by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s5.types import BandStatistics
from s5_kedro.finished import finished_model
from s5_kedro.pipelines.evaluation.config import EvaluationConfig
from s5_kedro.project import project_root

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
    """The pointer of the finished model that `evaluation.models` names; see `finished_model`."""
    return finished_model(path, f"evaluation.models.{name}")
