"""Everything that a run left in, one page out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.report.nodes import render_report

_ARTEFACTS = (
    "tile_manifest",
    "quarantine",
    "band_statistics",
    "label_space",
    "tile_scores",
    "pretrain_pool",
    "selection_clusters",
    "selection_dropped",
    "selection_report",
    "seed_model",
    "supervised_model",
    "s4p_model",
    "finetuned_model",
    "seed_history",
    "supervised_history",
    "s4p_history",
    "finetune_history",
    "evaluation",
    "confusion_counts",
    "confusion_matrix",
    "prediction_gallery",
    "scene_maps",
)
_PARAMETERS = (
    "dataset",
    "seed",
    "ingestion",
    "model",
    "compute",
    "seed_model",
    "supervised",
    "entropy_scoring",
    "quality",
    "diversity_sampling",
    "s4p",
    "finetune",
    "evaluation",
    "scene",
)


def create_pipeline() -> Pipeline:
    inputs = {name: name for name in _ARTEFACTS} | {f"params_{name}": f"params:{name}" for name in _PARAMETERS}
    return Pipeline([node(render_report, inputs=inputs, outputs="report", name="render_report")])
