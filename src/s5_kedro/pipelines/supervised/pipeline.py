"""Labelled tiles in, baseline out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.supervised.nodes import train_supervised

# What the baseline is compared to. Only these keys: the baseline does not depend on how S4P is set up otherwise.
_BUDGET = [f"params:{stage}.{key}" for stage in ("seed_model", "s4p", "finetune") for key in ("steps", "batch_size")]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                train_supervised,
                inputs=[
                    "tile_manifest",
                    "band_statistics",
                    "label_space",
                    "params:model",
                    "params:supervised",
                    "params:compute",
                    "params:seed",
                    *_BUDGET,
                ],
                outputs=["supervised_model", "supervised_history"],
                name="train_supervised",
            )
        ]
    )
