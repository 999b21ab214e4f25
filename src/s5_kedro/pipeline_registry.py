"""Which pipelines there are, and what each needs upstream of its own nodes."""

from __future__ import annotations

from importlib import import_module

from kedro.pipeline import Pipeline

# Kedro's find_pipelines returns only the requested pipeline for `--pipelines=X`, so that composing from its result
# fails in exactly that case; nor do the pipelines import each other. What a pipeline needs upstream stands here.
_UPSTREAM: dict[str, tuple[str, ...]] = {
    "ingestion": (),
    "sharding": ("ingestion",),
    "training_plan": ("ingestion",),
    "seed_training": ("ingestion",),
    "supervised": ("ingestion",),
    "entropy_scoring": ("seed_training",),
    "diversity_sampling": ("entropy_scoring",),
    "purification": ("diversity_sampling",),
    # Without purification.enabled its nodes do nothing, and S4P is handed no purifier.
    "s4p_pretrain": ("purification",),
    "finetune": ("s4p_pretrain",),
    # Cards of its own, several of them: beside the chain of one card.
    "multi_finetune": (),
    # No training upstream: a finished model is evaluated on any card; a missing one is a clear error.
    "evaluation": ("ingestion",),
    "noisy_labels": ("ingestion",),
    "noisy_pretrain": ("noisy_labels",),
    "label_cleaning": ("noisy_labels",),
    "ablation": ("ingestion",),
    # No training upstream either; in the whole chain it maps a test image with the model that was just fine-tuned.
    "scene_inference": (),
    # Objects have boxes of their own, and a network of their own: not part of the whole chain.
    "detection": ("ingestion",),
    "dataset_import": (),
    "submission": ("ingestion",),
    "results_table": (),
    "report": ("supervised", "finetune", "evaluation", "scene_inference"),
}


def register_pipelines() -> dict[str, Pipeline]:
    """Each pipeline with what it needs upstream; `__default__` is the whole chain with its report."""
    own = {name: import_module(f"s5_kedro.pipelines.{name}").create_pipeline() for name in _UPSTREAM}

    def whole(name: str) -> Pipeline:
        return sum((whole(upstream) for upstream in _UPSTREAM[name]), own[name])

    return {**{name: whole(name) for name in _UPSTREAM}, "__default__": whole("report")}
