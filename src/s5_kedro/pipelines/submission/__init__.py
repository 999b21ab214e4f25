"""The `submission` pipeline."""

from s5_kedro.pipelines.submission.pipeline import create_pipeline

__all__ = ["create_pipeline"]
