"""A network of this project as a grounder: its probabilities, by the names of its classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s5.engine import ComputeConfig, resolve_compute
from s5.files import sha256_of
from s5.models import create_model, save_model
from s5.purification.network import NetworkGrounder

CPU = resolve_compute(ComputeConfig(device="cpu", precision="fp32", threads=1))
KNOWN = ["water", "roof", "tree", "road"]
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)


def stored(folder: Path, bands: int = 3) -> Path:
    torch.manual_seed(0)
    names = ["red", "green", "blue", "nir"][:bands]
    statistics = {"bands": names, "low": [0.0] * bands, "high": [255.0] * bands}
    statistics |= {"mean": [*MEAN, 0.5][:bands], "std": [*STD, 0.2][:bands]}
    model = create_model("resnet10t", "light", classes=4, bands=bands, decoder_channels=4)
    path = folder / f"{bands}.safetensors"
    save_model(model, path, metadata={"classes": KNOWN, "statistics": statistics})
    return path


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_classes_go_by_name_and_what_is_not_asked_for_is_unknown(tmp_path: Path, images: torch.Tensor) -> None:
    weights = stored(tmp_path)
    evidence = NetworkGrounder(weights, ["tree", "snow", "building"], CPU, {"building": "roof"}).ground(images)
    torch.manual_seed(0)
    model = create_model("resnet10t", "light", classes=4, bands=3, decoder_channels=4).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        shares = model((images / 255 - mean) / std).softmax(1)
    assert evidence.shape == (2, 4, 32, 48) and evidence.dtype == torch.float32
    for channel, expected in enumerate((shares[:, 2], torch.zeros(2, 32, 48), shares[:, 1], shares[:, [0, 3]].sum(1))):
        torch.testing.assert_close(evidence[:, channel], expected, atol=1e-5, rtol=1e-4)


def test_the_key_is_of_the_weights_and_of_what_is_asked(tmp_path: Path) -> None:
    weights = stored(tmp_path)
    key = NetworkGrounder(weights, ["tree", "road"], CPU).key
    assert key["weights"] == sha256_of(weights)
    assert key == NetworkGrounder(weights, ["tree", "road"], CPU).key
    assert key != NetworkGrounder(weights, ["road", "tree"], CPU).key
    assert key != NetworkGrounder(weights, ["tree", "road"], CPU, {"tree": "water"}).key


def test_a_network_that_cannot_be_asked_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grounders see red, green and blue; this network is of \('red', .*'nir'\)"):
        NetworkGrounder(stored(tmp_path, bands=4), ["tree"], CPU)
    with pytest.raises(ValueError, match=r"this network knows \['water', .*\], none of \['snow'\]"):
        NetworkGrounder(stored(tmp_path), ["snow"], CPU)
