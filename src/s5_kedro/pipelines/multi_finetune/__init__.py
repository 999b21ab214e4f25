"""The `multi_finetune` pipeline."""

from s5_kedro.pipelines.multi_finetune.pipeline import create_pipeline

__all__ = ["create_pipeline"]
