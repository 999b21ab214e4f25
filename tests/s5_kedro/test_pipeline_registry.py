"""The pipelines as design.md names them, and the catalog that they meet in."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DataCatalog
from kedro.io.core import Version
from kedro.pipeline import Pipeline

from s5_kedro.datasets import AtomicDataset
from s5_kedro.pipeline_registry import register_pipelines

CONF = Path(__file__).parents[2] / "conf" / "base"
PIPELINES = register_pipelines()
NODES = {
    "ingest_tiles",
    "train_seed_model",
    "train_supervised",
    "score_entropy",
    "embed_tiles",
    "sample_diverse",
    "pretrain_s4p",
    "finetune_model",
    "evaluate_models",
    "render_report",
}
LAYERS = {
    "tile_manifest": "02_intermediate",
    "quarantine": "02_intermediate",
    "shard_index": "03_primary",
    "tile_scores": "04_feature",
    "tile_embeddings": "04_feature",
    "pretrain_pool": "05_model_input",
    "selection_report": "08_reporting",
    "seed_model": "06_models",
    "supervised_model": "06_models",
    "s4p_model": "06_models",
    "finetuned_model": "06_models",
    "s4p_history": "08_reporting",
    "evaluation": "08_reporting",
    "confusion_matrix": "08_reporting",
    "prediction_gallery": "08_reporting",
    "report": "08_reporting",
}


@cache
def entries() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(CONF.glob("catalog_*.yml")):
        found.update(yaml.safe_load(path.read_text()))
    return found


def test_every_pipeline_of_this_stage_is_registered() -> None:
    expected = {"ingestion", "supervised", "entropy_scoring", "diversity_sampling", "s4p_pretrain", "finetune"}
    assert expected | {"evaluation", "__default__"} <= set(PIPELINES)
    assert {node.name for node in PIPELINES["__default__"].nodes} >= NODES


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_a_pipeline_holds_what_it_needs_upstream(name: str) -> None:
    models = {
        "evaluation": {"supervised_model", "s4p_model", "finetuned_model"},
        "scene_inference": {"finetuned_model"},
    }
    free = {entry for entry in PIPELINES[name].inputs() if not entry.startswith("params:")}
    assert free == models.get(name, set())


def test_evaluation_trains_nothing() -> None:
    names = {node.name for node in PIPELINES["evaluation"].nodes}
    assert names == {"ingest_tiles", "evaluate_models", "plot_confusion", "plot_predictions"}


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_no_output_stays_in_memory(name: str) -> None:
    catalog = DataCatalog.from_config(entries(), save_version="v")
    for output in PIPELINES[name].all_outputs():
        dataset = catalog.get(output)
        assert isinstance(dataset, AtomicDataset), output
        assert dataset._version == Version(None, "v")


@pytest.mark.parametrize("name", sorted(entries()))
def test_files_are_named_after_their_entry_and_layer(name: str) -> None:
    pattern = rf"data/0[1-8]_[a-z_]+/{name}\.(parquet|json|npy|png|html|gpkg|md|tex)"
    assert re.fullmatch(pattern, entries()[name]["filepath"])
    assert entries()[name]["versioned"] is True
    if name in LAYERS:
        assert entries()[name]["filepath"].split("/")[1] == LAYERS[name]


def test_the_catalog_has_no_entry_that_nothing_makes() -> None:
    assert set(entries()) == set().union(*(pipeline.all_outputs() for pipeline in PIPELINES.values()))


def test_layers_for_kedro_viz_form_no_cycle() -> None:
    layer = {name: entry["metadata"]["kedro-viz"]["layer"] for name, entry in entries().items()}
    follows: dict[str, set[str]] = {}
    for node in {node for pipeline in PIPELINES.values() for node in pipeline.nodes}:
        for source in set(node.inputs) & set(layer):
            for target in node.outputs:
                if layer[source] != layer[target]:
                    follows.setdefault(layer[target], set()).add(layer[source])
    done: set[str] = set()
    waiting = set(layer.values())
    while waiting:
        ready = {name for name in waiting if follows.get(name, set()) <= done}
        assert ready, f"layers in a cycle: {waiting}"
        done |= ready
        waiting -= ready


@pytest.mark.parametrize("name", ["s4p_pretrain", "evaluation"])
def test_one_pipeline_can_be_asked_for_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedro.framework.project import _ProjectPipelines

    asked = _ProjectPipelines()
    asked.configure("s5_kedro.pipeline_registry")
    asked.set_requested([name])
    assert isinstance(asked[name], Pipeline)


def test_nodes_import_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, s5_kedro.pipeline_registry as r; r.register_pipelines(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
