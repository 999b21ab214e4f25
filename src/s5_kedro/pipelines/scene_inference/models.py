"""The model that scenes are mapped with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5.types import BandStatistics
from s5_kedro.given import given_model
from s5_kedro.project import project_root

if TYPE_CHECKING:
    from s5.inference import SceneModel

_RELEASED = (".pth", ".pt")
# What S5's released networks were trained on: 8-bit RGB, normalised as on ImageNet.
_IMAGENET = BandStatistics(
    ("red", "green", "blue"), (0.0,) * 3, (255.0,) * 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)


def model_file(path: str) -> Path:
    """The weights that `scene.model` names.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is neither a pointer nor weights.
    """
    weights: Path = given_model("scene.model", path, also=_RELEASED)["weights"]
    return weights


def scene_model(path: str | None, task: str | None, trained: Mapping[str, Any] | None) -> SceneModel:
    """The network, its classes and how its bands are normalised.

    Args:
        path: `scene.model`.
        task: `scene.task`.
        trained: The pointer of the catalog's `finetuned_model`, used where there is no `path`.

    Raises:
        FileNotFoundError: there is no such file, or no model was trained yet.
        ValueError: the file is no model that maps classes, or does not say how its bands are normalised.
    """
    from s5.files import sha256_of
    from s5.inference import SceneModel
    from s5.models import load_model, open_pointer
    from s5.report import class_colors

    if path is None and trained is None:
        raise FileNotFoundError(
            "finetuned_model: this model is not trained yet; make it with kedro run --pipelines=finetune, or map with "
            "a finished one: --params=scene.model=POINTER_OR_WEIGHTS"
        )
    weights = open_pointer(dict(trained or {}), project_root()) if path is None else model_file(path)
    if weights.suffix in _RELEASED:
        network, classes, statistics = _released(weights, task)
    else:
        network, metadata = load_model(weights, task=task)
        classes, statistics = _described(weights, metadata)
    return SceneModel(network, classes, statistics, class_colors(classes), sha256_of(weights))


def _described(weights: Path, metadata: Mapping[str, Any]) -> tuple[Sequence[str], BandStatistics]:
    missing = [key for key in ("classes", "statistics") if key not in metadata]
    if missing:
        raise ValueError(f"{weights}: its header does not name its {' and '.join(missing)}; save the model with them")
    return [str(name) for name in metadata["classes"]], BandStatistics.from_dict(metadata["statistics"])


def _released(weights: Path, task: str | None) -> tuple[Any, Sequence[str], BandStatistics]:
    from s5.models import MultiDatasetModel, SegmentationModel, from_released

    network = from_released(weights, task=task)
    if isinstance(network, MultiDatasetModel):
        raise ValueError(f"{weights}: has classes of {list(network.datasets)}; say of which with scene.task=NAME")
    if not isinstance(network, SegmentationModel):
        raise ValueError(f"{weights}: is an encoder alone, which maps no classes; train a decoder on it first")
    if network.bands != len(_IMAGENET.bands):
        raise ValueError(f"{weights}: takes {network.bands} bands, and nothing tells how they are normalised")
    return network, [f"class {number}" for number in range(network.num_classes)], _IMAGENET
