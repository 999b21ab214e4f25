"""Encoder weights from local files: what fits is loaded exactly, what does not is refused with counts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from s5.models import create_encoder, create_model, save_model


def timm_weights(name: str, seed: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False).state_dict()


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_timms_own_files_fit(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(7)
    whole = timm.create_model(name, pretrained=False).eval()
    safetensors.torch.save_file(whole.state_dict(), path)
    encoder = create_encoder(name, weights=path).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        deepest = encoder(x)[-1]
        # timm's own features of the whole network are the oracle.
        expected = whole.forward_intermediates(x, indices=1, norm=False, intermediates_only=True)[-1]
    torch.testing.assert_close(deepest, expected)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3}]
)
def test_pth_files_and_wrapped_ones(wrap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = timm_weights("resnet10t")
    torch.save(wrap(state), tmp_path / "weights.pth")
    encoder = create_encoder("resnet10t", weights=str(tmp_path / "weights.pth"))
    for name, value in encoder.body.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_this_projects_models_give_their_encoder(tmp_path: Path) -> None:
    model = create_model("convnext_atto", "light", classes=2, decoder_channels=4)
    save_model(model, tmp_path / "model.safetensors", metadata={})
    encoder = create_encoder("convnext_atto", weights=tmp_path / "model.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name


def test_a_three_band_stem_is_adapted(tmp_path: Path) -> None:
    state = timm_weights("resnet10t")
    torch.save(state, tmp_path / "weights.pth")
    encoder = create_encoder("resnet10t", bands=1, weights=tmp_path / "weights.pth")
    torch.testing.assert_close(
        encoder.body.state_dict()["conv1.0.weight"], state["conv1.0.weight"].sum(1, keepdim=True)
    )


def test_another_networks_file_is_refused_with_counts(tmp_path: Path) -> None:
    torch.save(timm_weights("resnet18"), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=r"r18\.pth: not the weights of encoder 'resnet10t': \d+ of \d+ tensors fit"):
        create_encoder("resnet10t", weights=tmp_path / "r18.pth")


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        create_encoder("resnet10t", weights=tmp_path / "none.pth")
    state = timm_weights("resnet10t")
    state["bn1.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"nan\.pth: bn1\.bias holds NaN"):
        create_encoder("resnet10t", weights=tmp_path / "nan.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "nan.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pth: "):
        create_encoder("resnet10t", weights=tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a whole safetensors file"):
        create_encoder("resnet10t", weights=tmp_path / "cut.safetensors")
    torch.save({"epoch": 3, "model": [1, 2]}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="expected a state dict of tensors, found none"):
        create_encoder("resnet10t", weights=tmp_path / "empty.pth")


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was_run"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(ValueError, match=rf"{name}: the file holds more than tensors"):
            create_encoder("resnet10t", weights=tmp_path / name)
    assert not (tmp_path / "was_run").exists()
