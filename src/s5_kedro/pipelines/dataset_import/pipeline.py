"""An archive in, a dataset card and a report out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.dataset_import.nodes import import_dataset


def create_pipeline() -> Pipeline:
    return Pipeline(
        [node(import_dataset, inputs="params:dataset_import", outputs="dataset_report", name="import_dataset")]
    )
