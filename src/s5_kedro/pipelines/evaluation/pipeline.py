"""Finished models and a dataset in, scores, confusion matrices and pictures out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.evaluation.nodes import evaluate_models, plot_confusion, plot_predictions

_INPUTS = [
    "tile_manifest",
    "band_statistics",
    "label_space",
    "supervised_model",
    "s4p_model",
    "finetuned_model",
    "params:evaluation",
    "params:compute",
]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(evaluate_models, inputs=_INPUTS, outputs=["evaluation", "confusion_counts"], name="evaluate_models"),
            node(plot_confusion, inputs="confusion_counts", outputs="confusion_matrix", name="plot_confusion"),
            node(plot_predictions, inputs=_INPUTS, outputs="prediction_gallery", name="plot_predictions"),
        ]
    )
