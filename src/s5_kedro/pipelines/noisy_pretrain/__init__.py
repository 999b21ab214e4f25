"""The `noisy_pretrain` pipeline."""

from s5_kedro.pipelines.noisy_pretrain.pipeline import create_pipeline

__all__ = ["create_pipeline"]
