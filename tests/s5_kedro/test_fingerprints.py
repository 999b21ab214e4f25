"""An artefact made from something else is never reused in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.hooks import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from s5_kedro.datasets import JSONDataset
from s5_kedro.fingerprints import card_fingerprint, check_reused, read_fingerprint
from s5_kedro.hooks import FingerprintHooks
from s5_kedro.parameters import flatten

INGEST = node(lambda dataset, seed: {"tiles": 1}, ["params:dataset", "params:seed"], "tiles", name="ingest")
TRAIN = node(lambda tiles, s4p, compute: {"w": 1}, ["tiles", "params:s4p", "params:compute"], "s4p_model", name="train")
SCORE = node(
    lambda tiles, model, evaluation: {"miou": 1},
    ["tiles", "s4p_model", "params:evaluation"],
    "evaluation",
    name="score",
)
CHAIN = Pipeline([INGEST, TRAIN, SCORE])
BASE: dict[str, Any] = {
    "seed": 0,
    "s4p": {"steps": 5, "optimizer": {"lr": 0.1}, "init": None},
    "compute": {"device": "cpu", "precision": "fp32"},
    "evaluation": {"batch_size": 4, "models": {}},
}


def write_card(folder: Path, value: int = 7) -> Path:
    for split in ("labeled", "test"):
        for kind in ("images", "masks"):
            path = folder / split / kind / "a.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([value]))  # only listed, never read
    splits = {split: {"images": f"{split}/images", "masks": f"{split}/masks"} for split in ("labeled", "test")}
    card = {"name": "tiny", "classes": ["a", "b"], "bands": ["grey"], "splits": splits}
    (folder / "dataset.yml").write_text(yaml.safe_dump(card))
    return folder / "dataset.yml"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path / "world")


def catalog_of(data: Path, parameters: Mapping[str, Any], version: str) -> DataCatalog:
    made = {
        name: JSONDataset(filepath=str(data / f"{name}.json"), version=Version(None, version))
        for name in ("tiles", "s4p_model", "evaluation")
    }
    values = {f"params:{key}": MemoryDataset(value) for key, value in parameters.items()}
    return DataCatalog({**made, **values, "parameters": MemoryDataset(dict(parameters))})


class World:
    """Runs pipelines the way that a session does."""

    def __init__(self, data: Path, card: Path) -> None:
        self.data, self.card, self.count = data, card, 0

    def run(self, pipeline: Pipeline = CHAIN, *, only_missing: bool = False, **changed: Any) -> DataCatalog:
        self.count += 1
        parameters = {"dataset": str(self.card), **BASE, **changed}
        catalog = catalog_of(self.data, parameters, f"v{self.count}")
        hooks = _create_hook_manager()
        hooks.register(FingerprintHooks())
        settings = {"only_missing_outputs": only_missing, "runtime_params": changed}
        hooks.hook.before_pipeline_run(run_params=settings, pipeline=pipeline, catalog=catalog)
        SequentialRunner().run(pipeline, catalog, hooks, only_missing_outputs=only_missing)
        return catalog

    def versions(self, name: str) -> list[str]:
        return sorted(path.parent.name for path in (self.data / f"{name}.json").glob(f"*/{name}.json"))


@pytest.fixture
def world(tmp_path: Path, card: Path) -> World:
    made = World(tmp_path / "data", card)
    made.run()
    return made


def test_a_fingerprint_holds_parameters_card_inputs_and_lineage(world: World) -> None:
    catalog = catalog_of(world.data, BASE, "v9")
    found = read_fingerprint(catalog["evaluation"])
    assert found is not None
    assert found.node == "score"
    assert found.parameters == {"evaluation.batch_size": 4, "evaluation.models": {}}
    assert found.card is None
    assert found.inputs["s4p_model"]["version"] == "v1"
    assert found.inputs["s4p_model"]["hash"] == read_fingerprint(catalog["s4p_model"]).hash  # type: ignore[union-attr]
    assert found.lineage["parameters"]["s4p.optimizer.lr"] == 0.1
    assert found.lineage["parameters"]["seed"] == 0
    assert found.lineage["card"]["path"] == str(world.card)
    stored = json.loads((world.data / "evaluation.json/v1/fingerprint.json").read_text())
    assert stored["hash"] == found.hash


def test_the_same_settings_are_reused(world: World) -> None:
    world.run(only_missing=True)
    assert world.versions("tiles") == ["v1"]


def test_what_is_missing_is_made_again_and_fits(world: World) -> None:
    shutil.rmtree(world.data / "s4p_model.json")
    world.run(only_missing=True)
    assert (world.versions("tiles"), world.versions("s4p_model")) == (["v1"], ["v2"])
    world.run(only_missing=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, r"tiles: ingest made it with seed = 0, this run has 1; run without --only-missing-outputs"),
        (
            {"s4p": {**BASE["s4p"], "optimizer": {"lr": 0.2}}},
            r"train made it with s4p\.optimizer\.lr = 0\.1, this run has 0\.2.*--params=s4p\.optimizer\.lr=0\.1",
        ),
        ({"s4p": {**BASE["s4p"], "tau": 0.9}}, r"s4p_model: train made it with no s4p\.tau, this run has 0\.9"),
        ({"compute": {"device": "cpu", "precision": "bf16"}}, r"compute\.precision = \"fp32\", this run has \"bf16\""),
        ({"evaluation": {"batch_size": 5, "models": {}}}, r"evaluation: score made it with evaluation\.batch_size = 4"),
    ],
)
def test_other_settings_are_refused(world: World, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.run(only_missing=True, **changed)
    assert world.versions("tiles") == ["v1"]


def test_where_it_runs_is_no_other_setting(world: World) -> None:
    world.run(only_missing=True, compute={"device": "cuda", "precision": "fp32", "read_threads": 3})


def test_how_often_a_run_is_saved_is_no_other_setting(world: World) -> None:
    world.run(only_missing=True, s4p={**BASE["s4p"], "keep": 5, "checkpoint_every": 7})


def test_a_null_of_the_command_line_is_null(world: World) -> None:
    world.run(only_missing=True, s4p={**BASE["s4p"], "init": "null"})


def test_a_changed_artefact_upstream_is_refused(world: World) -> None:
    world.run(Pipeline([INGEST, TRAIN]), s4p={**BASE["s4p"], "steps": 6})
    with pytest.raises(ValueError, match="evaluation: was made from another s4p_model than the one this run has"):
        world.run(only_missing=True, s4p={**BASE["s4p"], "steps": 6})


def test_an_artefact_without_a_fingerprint_is_refused(world: World) -> None:
    (world.data / "tiles.json/v1/fingerprint.json").unlink()
    with pytest.raises(ValueError, match="tiles: nothing records what it was made from"):
        world.run(only_missing=True)


def test_a_sliced_run_compares_card_seed_and_what_both_know(world: World, tmp_path: Path) -> None:
    evaluate = Pipeline([INGEST, SCORE])
    world.run(evaluate, evaluation={"batch_size": 9, "models": {}})
    with pytest.raises(ValueError, match="s4p_model: train made it with seed = 0, this run has 1"):
        world.run(evaluate, seed=1)
    with pytest.raises(ValueError, match=r"s4p_model: .* s4p\.steps = 5, this run has 6"):
        world.run(evaluate, s4p={**BASE["s4p"], "steps": 6})
    with pytest.raises(ValueError, match=r"dataset: s4p_model was made from .*, this run has .*other"):
        world.run(evaluate, dataset=str(write_card(tmp_path / "other", value=8)))
    with pytest.raises(ValueError, match="seed = 0, this run has 1"):
        world.run(Pipeline([SCORE]), seed=1)


def test_models_given_by_path_take_the_place_of_the_catalogs(world: World) -> None:
    world.run(Pipeline([INGEST, SCORE]), seed=1, evaluation={"batch_size": 4, "models": {"mine": "x.json"}})


def test_a_missing_input_names_the_pipeline_that_makes_it(tmp_path: Path, card: Path) -> None:
    from s5_kedro.fingerprints import check_present

    catalog = catalog_of(tmp_path / "data", {"dataset": str(card), **BASE}, "v1")
    registered = {"s4p_pretrain": Pipeline([INGEST, TRAIN]), "__default__": CHAIN}
    message = "s4p_model: there is none yet; make it with kedro run --pipelines=s4p_pretrain, or evaluate a finished"
    with pytest.raises(FileNotFoundError, match=message):
        check_present(Pipeline([INGEST, SCORE]), catalog, registered)


def test_a_file_named_by_a_parameter_counts_by_its_content(world: World, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    given = {"s4p": {**BASE["s4p"], "init": str(weights)}}
    world.run(**given)
    world.run(only_missing=True, **given)
    weights.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"s4p\.init \(content\)"):
        world.run(only_missing=True, **given)


def test_the_card_is_known_by_text_and_files_not_by_place(card: Path, tmp_path: Path) -> None:
    first = card_fingerprint(str(card))
    moved = Path(shutil.copytree(card.parent, tmp_path / "moved")) / "dataset.yml"
    there = card_fingerprint(str(moved))
    assert (there["text"], there["files"]) == (first["text"], first["files"])
    write_card(card.parent, value=9)
    assert card_fingerprint(str(card))["files"] != first["files"]
    card.write_text(card.read_text() + "\n# a remark\n")
    assert card_fingerprint(str(card))["text"] != first["text"]


def test_files_that_changed_since_are_told(world: World) -> None:
    write_card(world.card.parent, value=9)
    with pytest.raises(ValueError, match=r"dataset: tiles was made from .*, and the files that it lists changed since"):
        world.run(only_missing=True)


def test_given_names_are_flattened_the_way_that_they_are_compared(world: World) -> None:
    catalog = catalog_of(world.data, {"dataset": str(world.card), **BASE}, "v9")
    check_reused(Pipeline([SCORE]), catalog, only_missing=False, given=flatten({"s4p": {"steps": 5}}))
