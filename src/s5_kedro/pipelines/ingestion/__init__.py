"""The `ingestion` pipeline."""

from s5_kedro.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
