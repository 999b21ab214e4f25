"""Predictions as the server of a benchmark wants them."""

from __future__ import annotations

from typing import Any

from s5_kedro.given import given_model
from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import protocol_of, segmentation_data


def write_submission(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    submission: dict[str, Any],
    compute: dict[str, Any],
) -> dict[str, Any]:
    """Predict the unlabelled images of a card with its protocol; returns submission_report."""
    from s5.engine import ComputeConfig, resolve_compute
    from s5.inference.submission import SubmissionConfig, predict_images
    from s5.models import load_model
    from s5.types import BandStatistics

    config = configure(SubmissionConfig, submission, "submission")
    where = resolve_compute(configure(ComputeConfig, compute, "compute"))
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    model, metadata = load_model(given_model("submission.model", str(config.model))["weights"], task=config.task)
    folder = project_root() / (config.folder or f"data/07_model_output/submission/{label_space['name']}")
    return predict_images(
        model.to(where.device), data, BandStatistics.from_dict(metadata["statistics"]), folder, config,
        protocol_of(label_space, config.protocol), list(metadata["classes"]), where,
    )  # fmt: skip
