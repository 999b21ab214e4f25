"""Arrays in, maps out; and a program that gives the same."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s5.inference import SceneModel, serving
from s5.inference.serving import ArrayMapper, export_onnx, export_program, raw_dtype
from s5.models import create_model, save_model
from s5.types import BandStatistics


def test_an_array_is_mapped(scene_model: SceneModel) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 17, 23)).astype(np.uint8)
    found = ArrayMapper(scene_model.network, scene_model.statistics)(images)
    with torch.inference_mode():
        logits = scene_model.network((torch.from_numpy(images) / 255 - 0.5) / 0.2)
    np.testing.assert_allclose(found["probabilities"], logits.softmax(1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["classes"], found["probabilities"].argmax(1))
    wide = ArrayMapper(scene_model.network, scene_model.statistics)(images.astype(np.uint16))
    np.testing.assert_array_equal(wide["classes"], found["classes"])
    with pytest.raises(ValueError, match=r"images: expected \[B, 3, H, W\], got an array of shape \(2, 17, 23\)"):
        ArrayMapper(scene_model.network, scene_model.statistics)(images[:, 0])


def test_an_exported_program_agrees(tmp_path: Path, scene_model: SceneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("resnet10t", "light", classes=3, decoder_channels=8).eval()
    path = tmp_path / "model.pt2"
    assert export_program(model, scene_model.statistics, path, size=32) < 1e-5
    images = torch.rand(2, 3, 32, 32) * 255
    found = torch.export.load(path).module()(images).detach().numpy()
    expected = ArrayMapper(model, scene_model.statistics)(images.numpy())["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    monkeypatch.setattr(serving, "_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match=r"other\.pt2: what was exported differs from the network"):
        export_program(nn.Conv2d(3, 2, 1), scene_model.statistics, tmp_path / "other.pt2", size=8)
    with pytest.raises(ValueError, match=r"ends in \.pt2"):
        export_program(model, scene_model.statistics, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


# Of the exporter and of onnxscript, about themselves.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_onnx_model_agrees(tmp_path: Path, scene_model: SceneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = create_model("resnet10t", "light", classes=3, decoder_channels=8).eval()
    path = tmp_path / "model.onnx"
    assert export_onnx(model, scene_model.statistics, path, size=32) < 1e-4
    session = onnxruntime.InferenceSession(path)
    images = np.random.default_rng(0).uniform(0, 255, (5, 3, 32, 32)).astype(np.float32)
    (found,) = session.run(None, {"images": images})
    expected = ArrayMapper(model, scene_model.statistics)(images)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert session.get_outputs()[0].name == "probabilities"
    monkeypatch.setattr(serving, "_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match=r"other\.onnx: what was exported differs from the network"):
        export_onnx(nn.Conv2d(3, 2, 1), scene_model.statistics, tmp_path / "other.onnx", size=8)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_what_onnx_cannot_do_is_told(tmp_path: Path, scene_model: SceneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export_onnx(network, scene_model.statistics, tmp_path / "model.pt2")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"ONNX needs the extra s5\[onnx\].*pip install 's5\[onnx\]'"):
        export_onnx(network, scene_model.statistics, tmp_path / "model.onnx")
    monkeypatch.setattr(serving, "_MOST_BYTES_OF_ONNX", 31)  # 3 x 2 weights and 2 biases are 32 bytes
    with pytest.raises(ValueError, match=r"model\.onnx: has 0\.0 GB of weights, and one ONNX file holds 2 GB"):
        export_onnx(network, scene_model.statistics, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_serves_by_itself(tmp_path: Path, scene_model: SceneModel) -> None:
    model = create_model("resnet10t", "light", classes=3, decoder_channels=8).eval()
    save_model(model, tmp_path / "m.safetensors", metadata={"statistics": scene_model.statistics.to_dict()})
    images = np.random.default_rng(0).integers(0, 255, (1, 3, 32, 40)).astype(np.uint8)
    served, direct = ArrayMapper.load(tmp_path / "m.safetensors"), ArrayMapper(model, scene_model.statistics)
    np.testing.assert_array_equal(served(images)["probabilities"], direct(images)["probabilities"])


@pytest.mark.parametrize(
    ("high", "dtype"), [(1.0, "float32"), (255.0, "uint8"), (10_000.0, "uint16"), (1e6, "float32")]
)
def test_the_dtype_of_raw_values(high: float, dtype: str) -> None:
    assert raw_dtype(BandStatistics(("a",), (0.0,), (high,), (0.5,), (0.2,))) == dtype
