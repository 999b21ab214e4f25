"""The pipeline `noisy_pretrain` on two sensors of a generated card, and fine-tuning on one of them alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

BANDS = ["red", "green", "blue", "nir"]
SENSORS = {"optical": BANDS[:3], "infrared": ["nir"]}
LOOKS = np.array([[900, 1500, 600, 4000], [300, 600, 1400, 200], [1800, 900, 800, 1200]])
COUNTS = {"labeled": 3, "noisy": 4, "val": 2, "test": 2}
FUSED = {"fusion": "mid", "sensors": "optical+infrared", "selection": {"enabled": True}}


def write_card(folder: Path, bands: list[str], **keys: Any) -> Path:
    """GeoTIFFs of uint16 with some of the four bands; the same places whatever the bands."""
    generator = np.random.default_rng(0)
    places = [BANDS.index(band) for band in bands]
    splits = {split: {"images": f"{split}/images", "masks": f"{split}/masks"} for split in COUNTS}
    for number, (split, tile) in enumerate((split, tile) for split, count in COUNTS.items() for tile in range(count)):
        mask = np.kron(generator.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
        image = (LOOKS[mask] + generator.normal(0, 60, (64, 64, 4))).clip(1, None).astype(np.uint16)
        transform = rasterio.Affine(10.0, 0.0, 500_000 + number * 2000, 0.0, -10.0, 5_300_000)
        for kind, values in (("images", np.moveaxis(image, 2, 0)[places]), ("masks", mask[None])):
            path = folder / split / kind / f"t{tile}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            profile = {"driver": "GTiff", "dtype": values.dtype, "crs": "EPSG:32632", "transform": transform}
            with rasterio.open(path, "w", count=len(values), height=64, width=64, **profile) as file:
                file.write(values)
    card = {"name": folder.name, "classes": ["field", "water", "town"], "bands": bands, "splits": splits, **keys}
    (folder / "dataset.yml").write_text(yaml.safe_dump(card))
    return folder / "dataset.yml"


def newest(project: Path, layer: str, name: str) -> Path:
    return sorted((project / "data" / layer / name).glob(f"*/{name}"))[-1]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, make_project: Any, run_kedro: Any) -> Path:
    folder = tmp_path_factory.mktemp("sensors")
    project = make_project(folder / "project")
    card = write_card(folder / "both", BANDS, sensors=SENSORS)
    run_kedro(project, params={"dataset": str(card), "noisy": FUSED}, pipeline_names=["noisy_pretrain"])
    return project


def test_the_model_of_one_sensor_is_fine_tuned_on_a_card_of_its_bands(pretrained: Path, run_kedro: Any) -> None:
    from s5.models import load_model

    pointer = json.loads(newest(pretrained, "06_models", "noisy_model.json").read_text())
    model, metadata = load_model(pretrained / pointer["path"])
    assert model.bands == 3 and metadata["statistics"]["bands"] == SENSORS["optical"]
    assert pointer["config"]["noisy_model"]["fusion"] == "mid" and pointer["selected_on"] == "val"
    history = pd.read_parquet(newest(pretrained, "08_reporting", "noisy_history.parquet"))
    assert history[["loss", "loss_consistency", "label_weight"]].notna().all().all()

    optical = write_card(pretrained.parent / "optical", SENSORS["optical"])
    given = {"dataset": str(optical), "finetune": {"init": "noisy_model"}}
    run_kedro(pretrained, params=given, node_names=["ingest_tiles", "finetune_model"])
    tuned = json.loads(newest(pretrained, "06_models", "finetuned_model.json").read_text())
    assert tuned["steps_total"] == 3 + pointer["steps_total"] == 6
    assert load_model(pretrained / tuned["path"])[0].bands == 3


@pytest.mark.parametrize(
    ("noisy", "said"),
    [
        (
            {**FUSED, "sensors": "optical+radar"},
            r"noisy.sensors: the dataset card has no sensor 'radar' \(it has infrared, opt",
        ),
        (
            {**FUSED, "sensors": "optical+optical"},
            r"noisy.sensors: expected two different sensors, got 'optical' twice",
        ),
        ({"fusion": "late"}, r"noisy.sensors: fusion=late takes two of the dataset card's sensors"),
    ],
)
def test_sensors_that_cannot_be_are_refused_before_anything_runs(
    pretrained: Path, run_kedro: Any, noisy: dict[str, Any], said: str
) -> None:
    before = sorted(pretrained.glob("data/02_intermediate/*/*"))
    given = {"dataset": str(pretrained.parent / "both" / "dataset.yml"), "noisy": noisy}
    with pytest.raises(ValueError, match=said):
        run_kedro(pretrained, params=given, pipeline_names=["noisy_pretrain"])
    assert sorted(pretrained.glob("data/02_intermediate/*/*")) == before
