"""Models on disk: round trips, equal bytes for equal weights, pointers, and files that are refused."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from s5.models import (
    SegmentationModel,
    create_model,
    load_model,
    make_pointer,
    open_pointer,
    read_metadata,
    save_model,
)

METADATA = {
    "classes": ["field", "water", "road"],
    "ignore_index": 255,
    "background": None,
    "statistics": {"mean": [0.5]},
}


def build(seed: int = 0) -> SegmentationModel:
    torch.manual_seed(seed)
    return create_model("resnet10t", "light", classes=3, bands=2, decoder_channels=8)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "model.safetensors"
    save_model(build(), path, metadata=METADATA)
    return path


def test_a_loaded_model_gives_the_same_numbers(stored: Path) -> None:
    model = build().eval()
    loaded, metadata = load_model(stored)
    assert not loaded.training
    assert metadata == {**METADATA, "architecture": model.architecture}
    assert read_metadata(stored) == metadata
    x = torch.randn(1, 2, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "convnext_atto"])
def test_round_trip_of_other_networks(encoder: str, tmp_path: Path) -> None:
    model = create_model(encoder, "upernet", classes=2, decoder_channels=4, drop_path=0.1, image_size=64)
    save_model(model, tmp_path / "m.safetensors", metadata={})
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert loaded.architecture == model.architecture
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_equal_weights_are_equal_files(stored: Path, tmp_path: Path) -> None:
    twin, other = tmp_path / "twin.safetensors", tmp_path / "other.safetensors"
    model = build().to(memory_format=torch.channels_last)
    save_model(model, twin, metadata=dict(reversed(METADATA.items())))
    save_model(build(seed=1), other, metadata=METADATA)
    assert twin.read_bytes() == stored.read_bytes()
    assert other.read_bytes() != stored.read_bytes()


def test_loading_leaves_the_random_state(stored: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(stored)
    assert torch.equal(torch.rand(3), expected)


def test_the_header_holds_no_path(tmp_path: Path) -> None:
    weights = tmp_path / "secret_place" / "encoder.pth"
    weights.parent.mkdir()
    torch.save(build().encoder.body.state_dict(), weights)
    model = create_model("resnet10t", "light", classes=3, bands=2, decoder_channels=8, encoder_weights=weights)
    save_model(model, tmp_path / "m.safetensors", metadata={})
    assert b"secret_place" not in (tmp_path / "m.safetensors").read_bytes()
    weights.unlink()
    load_model(tmp_path / "m.safetensors")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such model file; train it first"):
        load_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_a_truncated_file(stored: Path, keep: int) -> None:
    stored.write_bytes(stored.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file .*copy it again"):
        load_model(stored)


@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"s5": "not json"}, {"s5": "{}"}])
def test_a_foreign_file(tmp_path: Path, header: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, metadata=header)
    with pytest.raises(ValueError, match=r"foreign\.safetensors: no model of this project"):
        load_model(path)


def test_weights_of_another_network(stored: Path, tmp_path: Path) -> None:
    with safe_open(stored, framework="pt") as file:
        header = json.loads(file.metadata()["s5"])
    header["architecture"]["classes"] = 7
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(stored), path, metadata={"s5": json.dumps(header)})
    with pytest.raises(ValueError, match=r"other\.safetensors: its weights do not fit"):
        load_model(path)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, poison: float) -> None:
    model = build()
    with torch.no_grad():
        model.head[1].bias[1] = poison
    save_model(model, tmp_path / "m.safetensors", metadata={})
    with pytest.raises(ValueError, match=r"m\.safetensors: head\.1\.bias holds NaN or infinite"):
        load_model(tmp_path / "m.safetensors")


def test_a_full_disk_leaves_the_earlier_model(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored.read_bytes()

    def fail(tensors: object, filename: Path, metadata: object) -> None:
        Path(filename).write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: (os error {errno.ENOSPC})")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match=r"model\.safetensors: the model could not be written .*free some space"):
        save_model(build(seed=2), stored, metadata=METADATA)
    assert stored.read_bytes() == before
    assert list(stored.parent.iterdir()) == [stored]


def test_a_pointer_finds_its_model(stored: Path, tmp_path: Path) -> None:
    pointer = make_pointer(stored, root=tmp_path, step=12, config={"lr": 1e-3}, seed=0, resumed_from=[4])
    assert json.loads(json.dumps(pointer)) == {
        "path": "models/model.safetensors",
        "sha256": hashlib.sha256(stored.read_bytes()).hexdigest(),
        "step": 12,
        "config": {"lr": 1e-3},
        "seed": 0,
        "resumed_from": [4],
    }
    assert open_pointer(pointer, tmp_path) == stored


def test_pointers_that_do_not_hold(stored: Path, tmp_path: Path) -> None:
    pointer = make_pointer(stored, root=tmp_path, step=1, config={})
    with pytest.raises(ValueError, match="must lie in the project's folder"):
        make_pointer(stored, root=tmp_path / "elsewhere", step=1, config={})
    with pytest.raises(ValueError, match=r"\['sha256'\] missing"):
        open_pointer({"path": "x"}, tmp_path)
    stored.write_bytes(stored.read_bytes() + b" ")
    with pytest.raises(ValueError, match="have changed since the pointer was made"):
        open_pointer(pointer, tmp_path)
    stored.unlink()
    with pytest.raises(FileNotFoundError, match="weights of the model pointer are gone"):
        open_pointer(pointer, tmp_path)
