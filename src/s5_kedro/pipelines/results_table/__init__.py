"""The `results_table` pipeline."""

from s5_kedro.pipelines.results_table.pipeline import create_pipeline

__all__ = ["create_pipeline"]
