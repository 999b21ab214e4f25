"""Pretrained model in, fine-tuned model out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.finetune.nodes import finetune_model


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                finetune_model,
                inputs=[
                    "tile_manifest",
                    "band_statistics",
                    "label_space",
                    "s4p_model",
                    "params:model",
                    "params:finetune",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["finetuned_model", "finetune_history"],
                name="finetune_model",
            )
        ]
    )
