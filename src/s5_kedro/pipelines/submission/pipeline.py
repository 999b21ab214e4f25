"""A model and images without masks in, a zip file for the benchmark's server out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.submission.nodes import write_submission


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                write_submission,
                inputs=["tile_manifest", "band_statistics", "label_space", "params:submission", "params:compute"],
                outputs="submission_report",
                name="write_submission",
            )
        ]
    )
