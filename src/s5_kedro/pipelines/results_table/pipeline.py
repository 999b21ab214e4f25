"""Evaluations in, one table out, in four formats."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.results_table.nodes import make_results_table


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                make_results_table,
                inputs="params:results_table",
                outputs=["results_table", "results_markdown", "results_latex", "results_rows"],
                name="make_results_table",
            )
        ]
    )
