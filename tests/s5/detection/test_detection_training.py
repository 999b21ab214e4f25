"""From a card with boxes to a trained detector and its detections."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from s5.data.card import CardError, load_card
from s5.data.transforms import Normalizer
from s5.detection import (
    DetectionData,
    DetectorConfig,
    PredictConfig,
    create_detector,
    create_multi_detector,
    detect_scene,
    train_detector,
)
from s5.detection.augmentation import BoxGeometryConfig
from s5.detection.boxes import to_corners
from s5.detection.config import DetectionConfig
from s5.detection.results import detect_scenes, detection_table, detections_of, judge_datasets, judge_detections
from s5.detection.scenes import (
    CORNERS,
    classes_of,
    collect_dataset,
    collect_scenes,
    from_tables,
    join_datasets,
    to_tables,
)
from s5.engine import ComputeConfig, Interrupted, resolve_compute
from s5.engine.optimizer import OptimizerConfig
from s5.models import ModelConfig
from s5.models.store import load_network
from s5.types import BandStatistics

STATISTICS = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
SMALL = ModelConfig(encoder="resnet10t")
SHORT = DetectorConfig(
    channels=8, head_convs=1, magnify=1.0, steps=6, batch_size=2, window=64, overlap=16, validate_every=3,
    checkpoint_every=2, log_every=1, augmentation=BoxGeometryConfig(crop=64), optimizer=OptimizerConfig(lr=1e-3),
)  # fmt: skip
LOOK = PredictConfig(window=64, overlap=16)


def paint(folder: Path, name: str, rng: np.random.Generator, size: int = 96, objects: int = 5) -> None:
    """White bars on grey, and their labelTxt."""
    from s5.geo.raster import write_geotiff

    image = rng.integers(70, 110, (3, size, size))
    yy, xx = np.mgrid[0:size, 0:size] + 0.5
    lines = []
    for number in range(objects):
        cx, cy, angle = 15 + 30 * (number % 3), 20 + 45 * (number // 3), rng.uniform(-1.5, 1.5)
        along = (xx - cx) * np.cos(angle) + (yy - cy) * np.sin(angle)
        across = (yy - cy) * np.cos(angle) - (xx - cx) * np.sin(angle)
        image[:, (np.abs(along) <= 10) & (np.abs(across) <= 4)] = 230
        corners = to_corners(torch.tensor([cx, cy, 20.0, 8.0, angle])).ravel().tolist()
        lines.append(" ".join(f"{v:.2f}" for v in corners) + " bar 0")
    place = {"transform": (0.5, 0, 500_000, 0, -0.5, 5_300_000), "crs": "EPSG:32632"}
    write_geotiff(folder / "images" / f"{name}.tif", image.astype(np.uint8), **place)
    (folder / "boxes").mkdir(exist_ok=True)
    (folder / "boxes" / f"{name}.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    splits = {}
    for split, count in {"labeled": 2, "unlabeled": 2, "val": 1, "test": 1}.items():
        for number in range(count):
            paint(folder / split, f"{split}{number}", rng)
        splits[split] = {"images": f"{split}/images", "masks": f"{split}/images", "boxes": f"{split}/boxes"}
    values = {"name": "bars", "classes": ["a", "b"], "bands": ["red", "green", "blue"], "splits": splits}
    (folder / "dataset.yml").write_text(yaml.safe_dump(values))
    return load_card(folder / "dataset.yml")


def images_of(card):
    return [(str(p), s) for s in card.splits for p in sorted((card.folder / s / "images").glob("*.tif"))]


@pytest.fixture(scope="module")
def data(card):
    scenes, bad = collect_scenes(card, images_of(card))
    assert bad == []
    return DetectionData(*to_tables(scenes), classes_of(scenes), STATISTICS)


def train(data, folder, config=SHORT, **options):
    return train_detector(
        {"bars": data}, SMALL, config, LOOK, CPU, name="detector_model", project=folder, seed=0, **options
    )


def test_scenes_come_back_from_their_tables(data) -> None:
    assert [s.split for s in data.scenes] == ["labeled"] * 2 + ["test", "unlabeled", "unlabeled", "val"]
    assert data.classes == ("bar",)
    again = from_tables(*to_tables(data.scenes))
    assert all(
        np.array_equal(a.annotations.corners, b.annotations.corners) for a, b in zip(data.scenes, again, strict=True)
    )
    assert len(data.training()) == 4


def test_an_image_of_two_splits_is_judged_on_and_not_learnt(card) -> None:
    image = str(card.folder / "labeled" / "images" / "labeled0.tif")
    scenes, _ = collect_scenes(card, [*images_of(card), (image, "noisy"), (image, "test")])
    assert [s.split for s in scenes if s.image == image] in (["test"], [])
    scenes, _ = collect_scenes(card, [*images_of(card), (image, "noisy")])
    assert [s.split for s in scenes if s.image == image] == ["labeled"]
    scenes, bad = collect_scenes(card, images_of(card), held_out={image, images_of(card)[-1][0]})
    assert image not in [s.image for s in scenes] and len(scenes) == 5
    assert [one.kind for one in bad] == ["held_out"]


def test_unusable_boxes_are_named_and_left_out(card, tmp_path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(card.folder, folder)
    own = load_card(folder / "dataset.yml")
    boxes = folder / "labeled" / "boxes"
    (boxes / "labeled0.txt").write_text("1 1 1 1 1 1 1 1 bar 0\n5 5 25 5 25 9 5 9 cow 0\n5 5 25 5 25 9 5 9 bar 0\n")
    (boxes / "labeled1.txt").unlink()
    (folder / "val" / "boxes" / "val0.txt").write_text("")
    scenes, bad = collect_scenes(own, images_of(own), classes=["bar"])
    assert sorted(one.kind for one in bad) == ["no_labels", "unknown_class", "zero_area"]
    found = {Path(s.image).stem: len(s.annotations) for s in scenes}
    assert found == {"labeled0": 1, "test0": 5, "unlabeled0": 5, "unlabeled1": 5, "val0": 0}
    for split in ("labeled", "unlabeled", "test", "val"):
        for path in (folder / split / "boxes").glob("*.txt"):
            path.write_text("nonsense\n")
    with pytest.raises(CardError, match=r"no usable box is left \(5 malformed_line, 1 no_labels\)"):
        collect_scenes(own, images_of(own))


def test_a_stopped_training_ends_as_one_that_was_not(data, tmp_path) -> None:
    whole = train(data, tmp_path / "a")
    assert whole.history[2]["val_map50"] == whole.history[2]["val_map50"]
    assert {"loss", "score_loss", "box_loss", "lr"} <= set(whole.history[0])

    def stop(metrics, step):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(data, tmp_path / "b", log=stop)
    resumed = train(data, tmp_path / "b")
    assert resumed.pointer["resumed_from"] != []
    assert resumed.pointer["sha256"] == whole.pointer["sha256"]
    assert resumed.history == whole.history


def test_every_place_is_in_the_middle_of_one_window(data) -> None:
    from s5.detection.prediction import _in_middle, _middles
    from s5.detection.scenes import scene_windows

    windows = scene_windows(replace(data.scenes[0], height=150, width=203), size=64, overlap=24)
    rows, cols = (_middles(sorted({getattr(w, axis) for w in windows}), 64) for axis in ("row", "col"))
    places = torch.rand(500, 5, dtype=torch.float64) * 220 - 5
    counts = sum(_in_middle(places, window, rows, cols).int() for window in windows)
    assert torch.equal(counts, torch.ones_like(counts))
    for window in windows:
        (top, bottom), (left, right) = rows[window.row], cols[window.col]
        assert min(bottom, 150) <= window.row + window.height and max(top, 0) >= window.row
        assert min(right, 203) <= window.col + window.width and max(left, 0) >= window.col


def test_detections_are_finite_and_the_best_first(data) -> None:
    torch.manual_seed(0)
    model = create_detector("resnet10t", classes=1, channels=8, head_convs=1).eval()
    torch.nn.init.normal_(model.heads[0].scores.weight, std=0.3)
    scene, normalizer, compute = data.scenes[0], Normalizer(STATISTICS), resolve_compute(CPU)
    common = (model, scene, data.classes, normalizer)
    whole = detect_scene(*common, PredictConfig(window=96, overlap=0), compute, magnify=2.0, bands=3, dataset="objects")
    tiled = detect_scene(
        *common, PredictConfig(window=64, overlap=32), compute, magnify=1.0, bands=3, dataset="objects"
    )
    assert len(whole) > 0 and len(tiled) > 0
    for found in (whole, tiled):
        assert np.isfinite(found.corners).all()
        assert found.scores.tolist() == sorted(found.scores, reverse=True)


TINY_VIT = ModelConfig(
    encoder="s5_vit", image_size=64, encoder_options={"width": 24, "depth": 4, "heads": 2, "patch": 8}
)


@pytest.fixture(scope="module")
def two(data):
    """The bars, and the same scenes as another data set, whose bars have another name and whose bands other values."""
    boxes = data.box_table.assign(**{"class": "rod"})
    statistics = replace(STATISTICS, mean=(0.3,) * 3)
    return {"bars": data, "rods": DetectionData(data.scene_table, boxes, ("pole", "rod"), statistics)}


@pytest.mark.parametrize(("head", "mosaic"), [("rotated_fcos", 0.5), ("oriented_rcnn", 0.0)])
def test_two_data_sets_are_learnt_jointly(two, tmp_path, head, mosaic) -> None:
    config = replace(SHORT, head=head, mosaic=mosaic, hidden=16, proposals=20, part_features=8, steps=4)
    arguments = {"name": "detector_model", "seed": 0}

    def stop(metrics, step):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    whole = train_detector(two, TINY_VIT, config, LOOK, CPU, project=tmp_path / "a", **arguments)
    with pytest.raises(Interrupted):
        train_detector(two, TINY_VIT, config, LOOK, CPU, project=tmp_path / "b", log=stop, **arguments)
    again = train_detector(two, TINY_VIT, config, LOOK, CPU, project=tmp_path / "b", **arguments)
    assert again.pointer["sha256"] == whole.pointer["sha256"] and again.pointer["resumed_from"]
    row = whole.history[0]
    assert row["loss"] == pytest.approx(row["bars.loss"] + row["rods.loss"], rel=1e-5)
    weights = tmp_path / "a" / whole.pointer["path"]
    model, metadata = load_network(weights, create_multi_detector)
    assert list(metadata["datasets"]) == ["bars", "rods"] and model.has_experts
    experts = model.encoder.body.blocks[0].mlp.experts
    assert not torch.equal(experts[0].weight, experts[1].weight)
    scenes = two["rods"].split("test")
    found = detect_scenes(weights, scenes, replace(LOOK, score=1e-6, most=20), CPU, dataset="rods")
    assert {name for one in found.values() for name in one.names} <= {"pole", "rod"}
    scores = judge_datasets(
        found, {"bars": data_scenes(two, "bars"), "rods": scenes}, {"bars": ["bar"], "rods": ["pole", "rod"]}, "area"
    )
    assert set(scores["others"]) == {"rods"} and scores["others"]["rods"]["objects"] == {"pole": 0, "rod": 5}


def data_scenes(two, name):
    return two[name].split("test")


@pytest.mark.parametrize("head", ["rotated_fcos", "oriented_rcnn"])
@pytest.mark.parametrize("kind", ["empty", "difficult", "thin"])
def test_scenes_without_an_object_to_learn_stop_no_training(data, tmp_path, head, kind) -> None:
    boxes = data.box_table.copy()
    if kind == "empty":
        boxes = boxes.iloc[:0]
    elif kind == "difficult":
        boxes["difficult"] = True
    else:  # as narrow as no pixel
        boxes[["x3", "y3"]], boxes[["x4", "y4"]] = boxes[["x2", "y2"]] + 0.001, boxes[["x1", "y1"]] + 0.001
    poor = DetectionData(data.scene_table, boxes.astype(data.box_table.dtypes.to_dict()), ("bar",), STATISTICS)
    config = replace(SHORT, head=head, hidden=16, proposals=20, steps=2, mosaic=0.5)
    result = train(poor, tmp_path, config)
    assert all(np.isfinite(row["loss"]) for row in result.history)


def test_data_sets_of_other_bands_do_not_train_jointly(two, tmp_path) -> None:
    other = replace(two["rods"], statistics=BandStatistics(("nir",), (0,), (255,), (0.4,), (0.25,)))
    with pytest.raises(ValueError, match=r"as many bands each, got \{'bars': 3, 'rods': 1\}"):
        train_detector(
            {**two, "rods": other}, TINY_VIT, SHORT, LOOK, CPU, name="detector_model", project=tmp_path, seed=0
        )


def test_names_and_images_stand_in_one_data_set_alone(card) -> None:
    images = pd.DataFrame(images_of(card), columns=["image", "split"])
    nothing = pd.DataFrame({"path": [], "kind": []})
    one = collect_dataset("bars", card, images, nothing, STATISTICS)
    assert one.datasets["bars"]["classes"] == ["bar"] and set(one.scenes["dataset"]) == {"bars"}
    with pytest.raises(ValueError, match="a data set's name stands twice"):
        join_datasets([one, one])
    other = collect_dataset("rods", card, images, nothing, STATISTICS)
    with pytest.raises(ValueError, match="stands in two data sets"):
        join_datasets([one, other])


@pytest.mark.slow
@pytest.mark.slow
def test_two_processes_learn_what_one_does(two, tmp_path) -> None:
    config = replace(SHORT, mosaic=0.5, part_features=8, steps=3, validate_every=0)
    arguments = {"name": "detector_model", "seed": 0}
    one = train_detector(two, TINY_VIT, config, LOOK, CPU, project=tmp_path / "a", **arguments)
    both = train_detector(two, TINY_VIT, config, LOOK, replace(CPU, devices=2), project=tmp_path / "b", **arguments)
    for first, second in zip(one.history, both.history, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)


@pytest.mark.slow
def test_bars_are_learnt(data, tmp_path) -> None:
    config = replace(SHORT, steps=250, batch_size=4, channels=32, validate_every=0, checkpoint_every=0,
                     magnify=1.0, optimizer=OptimizerConfig(lr=2e-3))  # fmt: skip
    result = train(data, tmp_path, config)
    scenes = data.split("test")
    found = detect_scenes(tmp_path / result.pointer["path"], scenes, LOOK, CPU)
    assert judge_detections(found, scenes, data.classes, "area")["map50"] > 90


def test_detections_lie_on_earth(data, tmp_path) -> None:
    from s5.geo.objects import located_objects
    from s5.geo.vector import write_polygons

    result = train(data, tmp_path, replace(SHORT, steps=1))
    scene = data.split("test")[0]
    found = detect_scenes(tmp_path / result.pointer["path"], [scene], replace(LOOK, score=0.001), CPU)
    table = detection_table(found)
    back = detections_of(table)
    assert all(np.array_equal(back[i].corners, found[i].corners) for i in back)
    truth = detection_table({scene.image: _as_found(scene.annotations)})
    placed = located_objects(truth, CORNERS)
    assert placed.crs == "EPSG:32632" and list(placed.columns) == ["image", "class", "score", "geometry"]
    assert placed.geometry.area.to_numpy() == pytest.approx(160 * 0.25, rel=0.01)
    x, y = scene.annotations.corners[0, 0]
    assert placed.geometry[0].exterior.coords[0] == pytest.approx((500_000 + 0.5 * x, 5_300_000 - 0.5 * y))
    nowhere = located_objects(truth.iloc[:0], CORNERS)
    assert len(nowhere) == 0 and nowhere.crs == "EPSG:4326"
    write_polygons(tmp_path / "none.gpkg", [], {"class": []}, "EPSG:4326")
    scores = judge_detections({scene.image: _as_found(scene.annotations)}, [scene], data.classes, "area")
    assert (scores["map50"], scores["map75"], scores["map"]) == pytest.approx((100, 100, 100))
    assert scores["objects"] == {"bar": 5}


def _as_found(annotations):
    from s5.detection import Detections

    return Detections(annotations.corners, annotations.names, np.linspace(0.9, 0.5, len(annotations)))


def test_the_encoder_of_a_segmentation_network_is_a_start(data, tmp_path) -> None:
    from s5.detection.training import start_detector
    from s5.models import create_model, save_model

    torch.manual_seed(1)
    trained = create_model("resnet10t", "light", classes=2, decoder_channels=8)
    save_model(trained, tmp_path / "seg.safetensors", metadata={})
    network = start_detector({"bars": data}, SMALL, SHORT, seed=0, init=tmp_path / "seg.safetensors")
    for name, value in trained.encoder.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], value)
    with pytest.raises(ValueError, match="does not fit 'resnet18'"):
        start_detector(
            {"bars": data}, ModelConfig(encoder="resnet18"), SHORT, seed=0, init=tmp_path / "seg.safetensors"
        )
    with pytest.raises(ValueError, match=r"seg\.safetensors"):
        detect_scenes(tmp_path / "seg.safetensors", data.split("test"), LOOK, CPU)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DetectorConfig(overlap=192), r"overlap: expected 0..window - 1"),
        (lambda: DetectorConfig(magnify=0), "magnify"),
        (lambda: DetectorConfig(object_share=2), "object_share"),
        (lambda: PredictConfig(score=0), r"predict\.score"),
        (lambda: DetectionConfig(classes=("a", "a")), "stands twice"),
    ],
)
def test_settings_out_of_range_are_named(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
