"""Which scenes are mapped, with which model, and how."""

from __future__ import annotations

from dataclasses import dataclass

from s5.inference import SceneConfig


@dataclass(frozen=True)
class SceneParameters(SceneConfig):
    """The `scene` parameter group; what is not listed here is in `s5.inference.SceneConfig`.

    Args:
        images: A folder, a glob, a file or a GDAL path such as ``/vsicurl/...``; None is a test image of the dataset.
        model: A model pointer (.json), weights (.safetensors) or one of S5's released files (.pth); None is the
            catalog's `finetuned_model`.
        task: Of a model for several datasets, which one's classes are mapped.
        zones: A vector file; areas are also given for each of its polygons.
    """

    images: str | None = None
    model: str | None = None
    task: str | None = None
    zones: str | None = None
