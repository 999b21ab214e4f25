"""Where fine-tuning starts: the catalog's model, a pointer anywhere, or a weight file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from s5.files import sha256_of
from s5.models import create_model, make_pointer, open_pointer, save_model
from s5_kedro.pipelines.finetune.start import start_pointer


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights = tmp_path / "other" / "data" / "06_models" / "m" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    save_model(create_model("resnet10t", "light", classes=2, decoder_channels=4), weights, metadata={})
    pointer = make_pointer(weights, root=tmp_path / "other", step=7, config={}, steps_total=7, labeled_seen=14)
    (tmp_path / "other" / "data" / "pointer.json").write_text(json.dumps(pointer))
    return weights


def test_a_pointer_of_another_project_keeps_what_was_seen(elsewhere: Path, tmp_path: Path) -> None:
    found = start_pointer(str(tmp_path / "other" / "data" / "pointer.json"), {"path": "x"})
    assert open_pointer(found, tmp_path / "mine") == elsewhere
    assert (found["steps_total"], found["labeled_seen"]) == (7, 14)


def test_weights_and_the_catalogs_model(elsewhere: Path, tmp_path: Path) -> None:
    assert start_pointer(str(elsewhere), None) == {"path": str(elsewhere), "sha256": sha256_of(elsewhere)}
    assert start_pointer(None, {"path": "a", "sha256": "b"}) == {"path": "a", "sha256": "b"}


def test_what_is_no_start_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"s4p_pretrain, or start from another model with .*finetune\.init"):
        start_pointer(None, None)
    with pytest.raises(FileNotFoundError, match=r"finetune\.init: there is no file .*gone\.json"):
        start_pointer("gone.json", None)
    for name, text, said in (
        (
            "notes.txt",
            "x",
            r"expected a model pointer \(\.json\) or weights \(\.safetensors, \.pth, \.pt\), got notes\.txt",
        ),
        ("list.json", "[]", r".*list\.json is no model pointer"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"finetune\.init: {said}"):
            start_pointer(str(tmp_path / name), None)
