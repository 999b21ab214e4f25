"""Predictions for a benchmark's server: a PNG an image, values with the server's offset, and a zip of them."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from s5.data.loader import SegmentationData
from s5.data.protocol import EvaluationProtocol
from s5.engine import ComputeConfig, resolve_compute
from s5.inference.submission import SubmissionConfig, predict_images
from s5.types import BandStatistics, LabelSpace

STATISTICS = BandStatistics(("red", "green", "blue"), (0.0,) * 3, (255.0,) * 3, (0.0,) * 3, (1.0,) * 3)
WINDOWS = EvaluationProtocol(mode="window", size=8, stride=4)


def data_of(folder: Path, sizes: dict[str, tuple[int, int]]) -> tuple[SegmentationData, dict[str, np.ndarray]]:
    rows, pixels = [], {}
    for number, (name, (height, width)) in enumerate(sizes.items()):
        levels = np.tile(np.array([20, 110, 200], np.uint8), (height, width, 1))
        pixels[name] = np.random.default_rng(number).permuted(levels, axis=2)
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[name]).save(path)
        rows.append((name, "unlabeled", str(path), None, 0, 0, height, width))
    manifest = pd.DataFrame(rows, columns=["tile_id", "split", "image", "mask", "row", "col", "height", "width"])
    return SegmentationData(manifest, STATISTICS, LabelSpace(("r", "g", "b")), tile_size=16), pixels


def predict(data: SegmentationData, folder: Path, **options: int) -> dict[str, object]:
    compute = resolve_compute(ComputeConfig(device="cpu", precision="fp32"))
    config = SubmissionConfig(model="m.json", **options)
    return predict_images(torch.nn.Identity(), data, STATISTICS, folder, config, WINDOWS, ["r", "g", "b"], compute)


def test_the_strongest_band_of_every_image_with_the_offset(tmp_path: Path) -> None:
    data, pixels = data_of(tmp_path, {"4191": (16, 16), "4192": (11, 13)})
    report = predict(data, tmp_path / "out" / "loveda", offset=1, batch_size=2)
    assert report["images"] == 2 and report["zip"] == str(tmp_path / "out" / "loveda.zip")
    with zipfile.ZipFile(tmp_path / "out" / "loveda.zip") as packed:
        assert packed.namelist() == ["4191.png", "4192.png"]
        for name, values in pixels.items():
            with packed.open(f"{name}.png") as file:
                image = Image.open(file)
                assert image.mode == "L"
                np.testing.assert_array_equal(np.asarray(image), values.argmax(2) + 1)


def test_images_that_were_cut_or_share_a_name_are_refused(tmp_path: Path) -> None:
    data, _ = data_of(tmp_path, {"a/1": (8, 8), "b/1": (8, 8)})
    with pytest.raises(ValueError, match=r"1\.png: two images have this name"):
        predict(data, tmp_path / "out")
    twice = pd.concat([data.manifest.iloc[:1]] * 2, ignore_index=True)
    with pytest.raises(ValueError, match=r"was cut into tiles of 16 px, .*ingestion\.tile_size"):
        predict(replace(data, manifest=twice), tmp_path / "out")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    data, _ = data_of(tmp_path, {"1": (8, 8)})
    with pytest.raises(ValueError, match=r"knows the classes \['r', 'g', 'b'\], the card has \['x', 'y'\]"):
        predict(replace(data, labels=LabelSpace(("x", "y"))), tmp_path / "out")
