"""The `noisy_labels` pipeline."""

from s5_kedro.pipelines.noisy_labels.pipeline import create_pipeline

__all__ = ["create_pipeline"]
