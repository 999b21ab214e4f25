"""The `s4p_pretrain` pipeline."""

from s5_kedro.pipelines.s4p_pretrain.pipeline import create_pipeline

__all__ = ["create_pipeline"]
