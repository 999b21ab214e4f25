"""What several data sets start from: a pointer of any project, weights, or a model of the catalog."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from s5.files import sha256_of
from s5.models import create_model, from_dense, make_pointer, open_pointer, save_model
from s5_kedro.pipelines.multi_finetune.study import start_pointer


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    dense = create_model("resnet10t", "light", classes=2, decoder_channels=4)
    path = tmp_path / "other" / "data" / "06_models" / "m" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_model(from_dense(dense, {"town": 2, "coast": 3}, part_features=0), path, metadata={})
    save_model(dense, path.with_name("dense.safetensors"), metadata={})
    return path


def test_a_pointer_of_another_project_opens_in_this_one(weights: Path, tmp_path: Path) -> None:
    pointer = make_pointer(weights, root=tmp_path / "other", step=7, config={}, datasets=["town", "coast"])
    file = tmp_path / "other" / "data" / "pointer.json"
    file.write_text(json.dumps(pointer))
    found = start_pointer("multi_finetune.init", str(file))
    assert open_pointer(found, tmp_path / "mine") == weights
    assert {**found, "path": pointer["path"]} == pointer


def test_weights_alone_say_which_data_sets_they_are_of(weights: Path) -> None:
    for file, datasets in ((weights, ["town", "coast"]), (weights.with_name("dense.safetensors"), [])):
        found = start_pointer("multi_finetune.init", str(file))
        assert found == {"path": str(file), "sha256": sha256_of(file), "datasets": datasets}


def test_a_model_of_the_catalog_is_found_by_its_name(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "other"
    monkeypatch.setattr("s5_kedro.project._root", [root])
    for step in (1, 2):
        file = root / "data" / "06_models" / "seed_model.json" / f"version_{step}" / "seed_model.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(make_pointer(weights, root=root, step=step, config={})))
    assert start_pointer("multi_finetune.init", "seed_model")["step"] == 2


def test_the_parameter_is_named_where_there_is_nothing() -> None:
    with pytest.raises(FileNotFoundError, match=r"multi_finetune\.like: there is no file gone\.json"):
        start_pointer("multi_finetune.like", "gone.json")
