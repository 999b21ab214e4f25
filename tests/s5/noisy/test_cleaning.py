"""Confident learning by hand, folds that share no image, and maps that a GIS can open."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig
from s5.models import ModelConfig
from s5.noisy import (
    ClassThresholds,
    CleaningConfig,
    CorruptionConfig,
    NoisyConfig,
    NoisyLabelsConfig,
    agreement,
    clean_labels,
    confident_labels,
    noisy_tiles,
)
from s5.noisy.cleaning import _groups, cleaning_report, fold_of
from s5.noisy.confident import ChangeTrust, only_allowed

IGNORE = 255


def test_thresholds_and_corrections_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    prob = torch.rand(2, 3, 6, 7, generator=generator).softmax(1)
    prob = (prob * 8).softmax(1)
    labels = torch.randint(0, 3, (2, 6, 7), generator=generator).to(torch.uint8)
    labels[0, 0] = IGNORE
    thresholds = ClassThresholds(3)
    for one in range(2):
        thresholds.add(prob[one : one + 1], labels[one : one + 1], IGNORE)
    expected = [float(prob[:, k][labels == k].double().mean()) for k in range(3)]
    assert thresholds.values().tolist() == pytest.approx(expected, rel=1e-6)
    for margin in (0.0, 0.3):
        corrected, confidence = confident_labels(prob, labels, thresholds.values(), margin=margin)
        for b, i, j in np.ndindex(2, 6, 7):
            y, p = int(labels[b, i, j]), prob[b, :, i, j].tolist()
            if y == IGNORE:
                assert (int(corrected[b, i, j]), float(confidence[b, i, j])) == (IGNORE, 0.0)
                continue
            confident = [k for k in range(3) if p[k] >= expected[k]]
            best = max(confident, key=lambda k: p[k]) if confident else y
            assert int(corrected[b, i, j]) == (best if best != y and p[best] - p[y] >= margin else y)
            other = max(p[k] for k in range(3) if k != y)
            assert float(confidence[b, i, j]) == pytest.approx(p[y] / (p[y] + other), rel=1e-5)


def test_a_class_that_no_label_has_is_never_proposed() -> None:
    thresholds = ClassThresholds(3)
    labels = torch.zeros(1, 2, 2, dtype=torch.uint8)
    prob = torch.tensor([0.1, 0.0, 0.9])[None, :, None, None].expand(1, 3, 2, 2)
    thresholds.add(prob, labels, IGNORE)
    assert torch.equal(confident_labels(prob, labels, thresholds.values())[0], labels)


def test_only_changes_that_surely_put_more_right_than_wrong_are_trusted() -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (12, 9, 8)
    labels, truth = (torch.randint(0, 3, shape, generator=generator).to(torch.uint8) for _ in range(2))
    guessed = torch.randint(0, 3, shape, generator=generator).to(torch.uint8)
    proposed = torch.where(torch.rand(shape, generator=generator) < 0.2, truth, guessed)
    labels[0, 0], truth[1, 2:4] = IGNORE, IGNORE
    trust = ChangeTrust(3)
    for part in (slice(0, 5), slice(5, 12)):
        trust.add(labels[part], proposed[part], truth[part], IGNORE)
    gains = np.zeros((12, 3, 3), dtype=int)
    for b, i, j in np.ndindex(*shape):
        old, new, right = (int(values[b, i, j]) for values in (labels, proposed, truth))
        if IGNORE not in (old, right) and old != new:
            gains[b, old, new] += (new == right) - (old == right)
    expected = gains.sum(0) > 2 * np.sqrt((gains**2).sum(0))
    assert trust.allowed().tolist() == expected.tolist() and 0 < expected.sum() < 6
    kept = only_allowed(labels, proposed, trust.allowed(), IGNORE)
    for b, i, j in np.ndindex(*shape):
        old, new = int(labels[b, i, j]), int(proposed[b, i, j])
        assert int(kept[b, i, j]) == (new if old != IGNORE and expected[old, new] else old)


def test_folds_keep_images_together_and_are_alike_in_size() -> None:
    names = [f"scene {n % 7}" for n in range(70)]
    folds = fold_of(names, 3, 0)
    assert all(len({int(f) for f, n in zip(folds, names, strict=True) if n == name}) == 1 for name in set(names))
    assert sorted(np.bincount(folds)) == [20, 20, 30]
    assert folds.tolist() == fold_of(names, 3, 0).tolist()
    with pytest.raises(ValueError, match="found 1; ask for fewer folds"):
        fold_of(["one"] * 5, 2, 0)


def test_noisy_tiles_are_cleaned_on_their_own_grid(tiny_data: SegmentationData, tmp_path: Path) -> None:
    config = NoisyLabelsConfig(source="corrupt", corruption=CorruptionConfig(rate=0.2))
    rows = noisy_tiles(tiny_data.manifest, config, tmp_path / "masks", seed=0, labels=tiny_data.labels)
    noisy = replace(tiny_data, manifest=rows)
    found = agreement(noisy, tiny_data)
    assert found is not None and found["agreement"] == pytest.approx(
        80, abs=3
    )  # of 4,096 pixels: five standard deviations
    training = NoisyConfig(
        steps=3, batch_size=2, validate_every=0, checkpoint_every=0,
        augmentation={"crop": 32}, loss={"name": "gce"}, selection={"enabled": True, "ramp": 0.0},
    )  # fmt: skip
    cleaned = clean_labels(
        noisy, ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8), training, CleaningConfig(),
        ComputeConfig(device="cpu", precision="fp32"), folder=tmp_path / "maps", project=tmp_path, seed=0,
    )  # fmt: skip
    report = cleaning_report(cleaned, tiny_data, folder=tmp_path / "maps")
    assert cleaned["tile_id"].tolist() == rows["tile_id"].tolist() and set(cleaned["fold"]) == {0, 1}
    assert report["before"]["agreement"] == pytest.approx(found["agreement"])
    assert report["after"]["pixels"] == report["before"]["pixels"] == found["pixels"]
    assert report["changed"] == pytest.approx(100 * cleaned["changed"].mean(), abs=0.01)
    for row in cleaned.itertuples():
        with rasterio.open(row.image) as image, rasterio.open(row.mask) as labels:
            assert (labels.crs, labels.transform, labels.shape) == (image.crs, image.transform, image.shape)
        with rasterio.open(row.confidence) as percent, rasterio.open(row.noisy_mask) as before:
            assert np.array_equal(percent.read(1) == 0, before.read(1) == IGNORE) and percent.read(1).max() <= 100


def test_trust_is_counted_on_clean_tiles_that_the_report_leaves_out(
    tiny_data: SegmentationData, tmp_path: Path
) -> None:
    config = NoisyLabelsConfig(source="corrupt", corruption=CorruptionConfig(rate=0.2))
    rows = noisy_tiles(tiny_data.manifest, config, tmp_path / "masks", seed=0, labels=tiny_data.labels)
    training = NoisyConfig(steps=2, batch_size=2, validate_every=0, checkpoint_every=0, augmentation={"crop": 32})
    model = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)
    clean = tiny_data.manifest[tiny_data.manifest["split"] == "labeled"]
    held_out = clean["image"].iloc[0]
    hidden = clean.assign(split=["unlabeled" if image == held_out else "labeled" for image in clean["image"]])
    data = replace(tiny_data, manifest=pd.concat([hidden, rows], ignore_index=True))

    def cleaned(trust: str | None) -> pd.DataFrame:
        return clean_labels(
            data, model, training, CleaningConfig(trust=trust), ComputeConfig(device="cpu", precision="fp32"),
            folder=tmp_path / f"maps_{trust}", project=tmp_path, seed=0,
        )  # fmt: skip

    freely, trusted = cleaned(None), cleaned("labeled")
    assert freely["changed"].sum() > trusted["changed"].sum()
    report = cleaning_report(trusted, replace(data, manifest=hidden), folder=tmp_path / "maps")
    assert report["tiles"] == len(rows) and report["before"]["tiles"] == (rows["image"] == held_out).sum() > 0
    counted = replace(data, manifest=hidden[hidden["split"] == "labeled"])
    before, after = (agreement(replace(data, manifest=manifest), counted) for manifest in (rows, trusted))
    assert before is not None and after is not None and after["agreement"] >= before["agreement"]
    with pytest.raises(ValueError, match=r"label_cleaning.trust: no tile of the split 'val' has noisy labels too"):
        cleaned("val")


def test_an_image_that_lies_in_several_groups_stays_in_one_fold() -> None:
    table = pd.DataFrame({"image": [*"aabbccdd"], "group": ["1", "2", "3", "3", "3", "3", "", ""]})
    assert _groups(table) == ["a", "a", "3", "3", "3", "3", "d", "d"]


@pytest.mark.parametrize("options", [{"folds": 1}, {"margin": 1.0}, {"batch_size": 0}, {"trust": "test"}])
def test_bad_settings(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"label_cleaning.{next(iter(options))}: expected"):
        CleaningConfig(**options)


def test_nothing_noisy_to_take(tiny_data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source 'card' finds no tiles in the split 'noisy'"):
        noisy_tiles(tiny_data.manifest, NoisyLabelsConfig(), tmp_path, seed=0, labels=tiny_data.labels)
    config = NoisyLabelsConfig(source="land_cover", land_cover="x.tif")
    with pytest.raises(ValueError, match="legend: a land-cover raster needs"):
        noisy_tiles(tiny_data.manifest, config, tmp_path, seed=0, labels=tiny_data.labels)
    with pytest.raises(ValueError, match=r"noisy_labels.land_cover: expected the path"):
        NoisyLabelsConfig(source="land_cover")
