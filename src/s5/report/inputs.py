"""What a report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from s5.report.canvas import Picture


@dataclass(frozen=True)
class SceneLink:
    """A map of a scene that lies beside the report.

    Args:
        name: Of the scene.
        links: Title to address, relative to the report.
        quicklook: A picture of it.
    """

    name: str
    links: Mapping[str, str]
    quicklook: Picture | None = None


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report can show. A part that is None or empty is left out.

    Args:
        dataset: Name of the data set.
        evaluation: ``{"dataset", "split", "models": {name: scores}}``, scores in percent.
        confusion: Model name to pixel counts [K, K], rows truth.
        histories: Model name to its training history.
        manifest: A row a tile.
        quarantine: A row a file that was not used, or only in part: path, reason and, where known, split and kind.
        statistics: `BandStatistics` as a dict.
        label_space: classes, ignore_index, background and more of the card, as a dict.
        class_pixels: Split to class to number of labelled pixels, as `count_classes` gives it.
        scores: A row an unlabelled tile, with its entropy.
        pool, clusters, dropped: What the selection gave.
        figures: Finished pictures by catalog name: selection_report, confusion_matrix, prediction_gallery; any other
            name is shown at the end. Curves and map are always drawn here, the others where they are missing.
        scenes: Maps that the run ended with.
        models: Model name to its pointer: step, sha256, config, ...
        parameters: The run's parameters, nested.
        versions: Package name to version.
        seed: The run's seed.
        revision: Git revision of the code.
        command: What was typed.
        created: When, as text.
        notes: Sentences for the reader, shown at the top.
    """

    dataset: str
    evaluation: Mapping[str, Any] | None = None
    confusion: Mapping[str, Any] | None = None
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    manifest: pd.DataFrame | None = None
    quarantine: pd.DataFrame | None = None
    statistics: Mapping[str, Any] | None = None
    label_space: Mapping[str, Any] | None = None
    class_pixels: Mapping[str, Mapping[str, int]] | None = None
    scores: pd.DataFrame | None = None
    pool: pd.DataFrame | None = None
    clusters: pd.DataFrame | None = None
    dropped: pd.DataFrame | None = None
    figures: Mapping[str, Picture] = field(default_factory=dict)
    scenes: Sequence[SceneLink] = ()
    models: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    revision: str | None = None
    command: str | None = None
    created: str | None = None
    notes: Sequence[str] = ()

    @property
    def classes(self) -> list[str]:
        """Names of the classes: from the label space, else from the evaluation."""
        if self.label_space is not None:
            return [str(name) for name in self.label_space["classes"]]
        for scores in self.scored.values():
            return [str(name) for name in scores.get("per_class_iou", {})]
        return []

    @property
    def scored(self) -> dict[str, Mapping[str, Any]]:
        """The evaluated models by name."""
        models = {} if self.evaluation is None else self.evaluation.get("models", {})
        return {str(name): scores for name, scores in models.items() if scores}
