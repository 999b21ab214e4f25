"""Several dataset cards in; one network for all of them, or one each, and a table of their scores out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.multi_finetune.nodes import evaluate_datasets, finetune_datasets, ingest_datasets


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                ingest_datasets,
                inputs=["params:multi_finetune.datasets", "params:ingestion", "params:seed"],
                outputs=["multi_manifest", "multi_quarantine", "multi_spaces"],
                name="ingest_datasets",
            ),
            node(
                finetune_datasets,
                inputs=[
                    "multi_manifest",
                    "multi_spaces",
                    "params:multi_finetune",
                    "params:model",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["multi_models", "multi_history"],
                name="finetune_datasets",
            ),
            node(
                evaluate_datasets,
                inputs=["multi_manifest", "multi_spaces", "multi_models", "params:multi_finetune", "params:compute"],
                outputs="multi_evaluation",
                name="evaluate_datasets",
            ),
        ]
    )
