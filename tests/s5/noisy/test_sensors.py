"""Two sensors on the same noisy labels: the network, what it learns, what is kept, and what is refused."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from s5.data.loader import SegmentationData
from s5.data.transforms import Normalizer
from s5.engine import (
    ComputeConfig,
    Interrupted,
    OptimizerConfig,
    build_optimizer,
    evaluate_model,
    resolve_compute,
    start_model,
)
from s5.finetuning import FinetuneConfig, finetune
from s5.geo.raster import write_geotiff
from s5.metrics import segmentation_scores
from s5.models import ModelConfig, create_model, load_model, open_pointer, read_metadata
from s5.noisy import CleaningConfig, NoisyConfig, TwoSensorNetwork, clean_labels, kept_data, noisy_loss, pretrain_noisy
from s5.noisy.sensors import TwoSensorPretraining
from s5.types import BandStatistics, LabelSpace

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8, dropout=0.0)
BANDS = ("red", "green", "blue", "nir")
SENSORS = {"optical": ("red", "green", "blue"), "infrared": ("nir", "red")}  # bands may be shared, in any order
LOOKS = np.array([[5000, 1500, 1250, 2000], [1500, 4500, 1750, 8000], [1250, 1750, 4750, 500]])
LABELS = LabelSpace(("roof", "tree", "lake"))


def config(fusion: str = "mid", **values: Any) -> NoisyConfig:
    few = {
        "steps": 4, "batch_size": 4, "validate_every": 0, "checkpoint_every": 0, "augmentation": {"crop": 32},
        "fusion": fusion, "sensors": "optical+infrared", "selection": {"enabled": True},
    }  # fmt: skip
    return NoisyConfig(**{**few, **values})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    """Four bands of uint16, of which red, green and blue tell the class, and near infrared does too."""
    folder, rng = tmp_path_factory.mktemp("sensors"), np.random.default_rng(0)
    rows = []
    for split, count in {"noisy": 6, "labeled": 4, "val": 3}.items():
        for i in range(count):
            name = f"{split}_{i}"
            mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((8, 8))).astype(np.uint8)
            image = LOOKS[mask].transpose(2, 0, 1) + rng.normal(0, 300, (4, 32, 32))
            write_geotiff(folder / f"{name}.tif", image.clip(1, 10_000).astype(np.uint16))
            if split == "noisy":
                mask[rng.random(mask.shape) < 0.2] = rng.integers(0, 3)
            write_geotiff(folder / f"{name}_mask.tif", mask)
            rows.append((name, split, str(folder / f"{name}.tif"), str(folder / f"{name}_mask.tif"), 0, 0, 32, 32))
    manifest = pd.DataFrame(rows, columns=["tile_id", "split", "image", "mask", "row", "col", "height", "width"])
    statistics = BandStatistics(
        BANDS, (0, 10, 20, 30), (10_000, 9_000, 8_000, 10_000), (0.3, 0.25, 0.35, 0.4), (0.2, 0.15, 0.25, 0.3)
    )
    return SegmentationData(manifest, statistics, LABELS, tile_size=32, sensors=SENSORS)


def without_labels(data: SegmentationData) -> SegmentationData:
    return replace(data, manifest=data.manifest.assign(mask=None))


# --- the bands of a sensor


def test_a_sensor_is_its_bands_of_the_same_tiles(data: SegmentationData) -> None:
    infrared = data.of_sensor("infrared")
    assert infrared.statistics == BandStatistics(("nir", "red"), (30, 0), (10_000, 10_000), (0.4, 0.3), (0.3, 0.2))
    (image, mask, valid), (own, own_mask, own_valid) = data.split("val").read(1), infrared.split("val").read(1)
    assert np.array_equal(own, image[[3, 0]]) and np.array_equal(own_mask, mask) and np.array_equal(own_valid, valid)
    assert infrared.fingerprint() != data.fingerprint()
    assert np.array_equal(infrared.of_sensor("infrared").split("val").read(1)[0], own)
    with pytest.raises(ValueError, match=r"no sensor 'radar' \(it has optical, infrared\); name it and its bands"):
        data.of_sensor("radar")
    with pytest.raises(ValueError, match=r"no sensor 'optical' \(it has none\)"):
        replace(data, sensors={}).of_sensor("optical")


# --- the network


def networks(fusion: str) -> TwoSensorNetwork:
    torch.manual_seed(0)
    own, other = (create_model(**asdict(MODEL), classes=3, bands=bands) for bands in (3, 2))
    return TwoSensorNetwork(own, other, fusion)


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize("size", [(32, 32), (40, 25)])
def test_either_sensor_gives_logits_without_the_other(fusion: str, size: tuple[int, int]) -> None:
    network = networks(fusion).eval()
    one, other = torch.randn(2, 3, *size), torch.randn(2, 2, *size)
    found = network(one, other)
    assert [tuple(logits.shape) for logits in found] == [(2, 3, *size)] * 2
    torch.testing.assert_close(found[0], network.network(one), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(one + 1, other)[1], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(one, other + 1)[0], found[0], rtol=1e-4, atol=1e-5)


def test_what_the_fusions_share() -> None:
    mid, late = networks("mid"), networks("late")
    heads = [name for name, module in mid.named_modules() if isinstance(module, nn.Conv2d) and name.endswith("head.1")]
    assert heads == ["network.head.1"]
    encoders = sum(p.numel() for p in mid.encoder.parameters()) + sum(
        p.numel() for p in mid.network.encoder.parameters()
    )
    decoder = sum(p.numel() for p in mid.network.parameters()) - sum(
        p.numel() for p in mid.network.encoder.parameters()
    )
    assert sum(p.numel() for p in mid.parameters()) == encoders + decoder
    assert sum(p.numel() for p in late.parameters()) == encoders + 2 * decoder


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize("trained", [0, 1])
def test_the_loss_of_one_sensor_reaches_its_branch_alone(fusion: str, trained: int) -> None:
    network = networks(fusion).train()
    logits = network(torch.randn(2, 3, 32, 32), torch.randn(2, 2, 32, 32))
    noisy_loss(logits[trained], torch.randint(0, 3, (2, 32, 32))).backward()
    encoders = [network.network.encoder, network.encoder if fusion == "mid" else network.other.encoder]
    reached = [any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters()) for encoder in encoders]
    assert reached == [place == trained for place in (0, 1)]


def test_both_encoders_learn_at_the_rate_of_encoders() -> None:
    for fusion in ("mid", "late"):
        network = networks(fusion)
        optimizer = build_optimizer(network, OptimizerConfig(lr=1e-3, head_lr_scale=10))
        rates = {id(p): g["peak_lr"] for g in optimizer.param_groups for p in g["params"]}
        for name, parameter in network.named_parameters():
            assert rates[id(parameter)] == pytest.approx(1e-3 if "encoder." in name else 1e-2), name


# --- a step


def step_of(data: SegmentationData, setting: NoisyConfig, *, accumulate: int = 1) -> tuple[TwoSensorPretraining, Any]:
    compute = resolve_compute(replace(CPU, accumulate=accumulate))
    kept = kept_data(data, setting)
    model = start_model(MODEL, kept, seed=0, project=Path())
    method = TwoSensorPretraining(model, data, MODEL, setting, compute, seed=0, stream="noisy")
    return method, method.step(0, method.read(0))


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_the_loss_of_a_step_is_that_of_its_terms(data: SegmentationData, fusion: str) -> None:
    """No pixel is changed and none selected: two cross entropies, and half the consistency."""
    setting = config(
        fusion, selection={}, photometry=0.0, consistency=0.5, batch_size=6,
        augmentation={"crop": 32, "scale": (1.0, 1.0), "hflip": 0.0, "vflip": 0.0, "rotate90": 0.0},
    )  # fmt: skip
    _, row = step_of(data, setting)
    kept = kept_data(data, setting)
    again = TwoSensorPretraining(
        start_model(MODEL, kept, seed=0, project=Path()),
        data,
        MODEL,
        setting,
        resolve_compute(CPU),
        seed=0,
        stream="noisy",
    )
    batch = again.read(0)[0]
    images = [
        Normalizer(data.of_sensor(name).statistics)(batch.images[:, [BANDS.index(band) for band in SENSORS[name]]])
        for name in ("optical", "infrared")
    ]
    with torch.no_grad():
        logits = again.learner.model.train()(*images)
    log_p, masks = [one.log_softmax(1) for one in logits], batch.masks.long()
    entropies = [nn.functional.nll_loss(one, masks) for one in log_p]
    consistency = sum(-(log_p[n].exp() * log_p[m]).sum(1).mean() for m, n in ((0, 1), (1, 0)))
    assert float(row["loss_consistency"]) == pytest.approx(float(consistency), rel=1e-4)
    assert float(row["loss"]) == pytest.approx(float(sum(entropies) + 0.5 * consistency), rel=1e-4)
    assert set(row) == {"loss", "loss_consistency", "lr"}


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_tiles_without_any_label_teach_consistency_alone(data: SegmentationData, fusion: str) -> None:
    method, row = step_of(without_labels(data), config(fusion, loss={"name": "ce_dice"}))
    assert all(bool(value.isfinite()) for value in row.values())
    assert float(row["loss"]) == pytest.approx(float(row["loss_consistency"])) and float(row["loss"]) > 0
    assert float(row["label_weight"]) == 0
    assert all(bool(p.isfinite().all()) for p in method.learner.model.parameters())
    _, nothing = step_of(without_labels(data), config(fusion, consistency=0.0))
    assert float(nothing["loss"]) == 0


# --- training


def weights(result: Any, project: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(project / result.pointer["path"])


@pytest.mark.parametrize(("fusion", "keep"), [("mid", None), ("late", "infrared")])
def test_the_network_of_one_sensor_is_kept_and_fine_tuned(
    data: SegmentationData, tmp_path: Path, fusion: str, keep: str | None
) -> None:
    setting = config(fusion, keep_sensor=keep, steps=6, validate_every=2, loss={"name": "ce_dice"})
    result = pretrain_noisy(data, MODEL, setting, CPU, name="noisy_model", project=tmp_path, seed=0)
    own = data.of_sensor(keep or "optical")
    path = open_pointer(result.pointer, tmp_path)
    model, metadata = load_model(path)
    assert BandStatistics.from_dict(metadata["statistics"]) == own.statistics
    assert model.bands == len(own.statistics.bands) and result.pointer["labeled_seen"] == 0
    assert result.pointer["selected_on"] == "val"
    matrix = evaluate_model(
        model, own.split("val"), own.statistics, LABELS, batch_size=3, compute=resolve_compute(CPU)
    ).matrix
    assert segmentation_scores(matrix, LABELS.classes)["miou"] == pytest.approx(result.pointer["val_miou"])
    assert all({"loss", "loss_consistency", "label_weight", "lr"} <= set(row) for row in result.history)
    tuned = finetune(
        own, MODEL, FinetuneConfig(steps=2, batch_size=2, augmentation={"crop": 32}), CPU, name="finetuned_model",
        project=tmp_path, seed=0, init=result.pointer,
    )  # fmt: skip
    assert read_metadata(tmp_path / tuned.pointer["path"])["architecture"]["bands"] == model.bands
    assert tuned.pointer["steps_total"] == 8


def test_parts_of_a_batch_are_taken_one_after_another(data: SegmentationData) -> None:
    """Batch norm sees a part at a time; but for that they would be the whole."""
    _, whole = step_of(data, config(selection={}))
    _, parts = step_of(data, config(selection={}), accumulate=2)
    assert float(parts["loss"]) == pytest.approx(float(whole["loss"]), rel=0.1)


def test_a_run_that_is_stopped_goes_on_bit_for_bit(data: SegmentationData, tmp_path: Path) -> None:
    setting = config("mid", steps=6, checkpoint_every=2, log_every=1)
    kwargs: dict[str, Any] = {
        "data": data, "model": replace(MODEL, dropout=0.2), "config": setting, "compute": CPU, "name": "noisy",
        "seed": 1,
    }  # fmt: skip
    whole = pretrain_noisy(**kwargs, project=tmp_path / "whole")

    def stop(metrics: Any, step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        pretrain_noisy(**kwargs, project=tmp_path / "stopped", log=stop)
    resumed = pretrain_noisy(**kwargs, project=tmp_path / "stopped")
    assert resumed.pointer["resumed_from"] and resumed.pointer["sha256"] == whole.pointer["sha256"]
    assert resumed.history == whole.history


@pytest.mark.slow
def test_two_processes_with_half_the_batch_each_are_one_with_all(data: SegmentationData, tmp_path: Path) -> None:
    """Without selection, whose quantiles are those of the images at hand."""
    kwargs: dict[str, Any] = {
        "data": data, "model": MODEL, "config": config("mid", selection={}, loss={"name": "ce_dice"}), "name": "noisy",
        "seed": 1,
    }  # fmt: skip
    one = pretrain_noisy(**kwargs, compute=CPU, project=tmp_path / "one")
    two = pretrain_noisy(**kwargs, compute=replace(CPU, devices=2), project=tmp_path / "two")
    for key in ("loss", "loss_consistency"):
        assert [r[key] for r in two.history] == pytest.approx([r[key] for r in one.history], abs=1e-4)
    theirs = weights(two, tmp_path / "two")
    for name, value in weights(one, tmp_path / "one").items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=2e-3, msg=name)


def test_a_run_of_other_bands_is_another_run(data: SegmentationData, tmp_path: Path) -> None:
    other = replace(data, sensors={**SENSORS, "infrared": ("nir",)})
    paths = {
        pretrain_noisy(
            one, MODEL, config(steps=1), CPU, name="noisy", project=tmp_path, seed=0
        ).pointer["path"]
        for one in (data, other)
    }  # fmt: skip
    assert len(paths) == 2


def test_labels_are_cleaned_by_the_network_that_is_kept(data: SegmentationData, tmp_path: Path) -> None:
    cleaned = clean_labels(
        data, MODEL, config(steps=2, batch_size=2), CleaningConfig(), CPU, folder=tmp_path / "maps", project=tmp_path,
        seed=0,
    )  # fmt: skip
    assert len(cleaned) == 6 and set(cleaned["fold"]) == {0, 1}


# --- what is refused


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fusion": "early"}, r"fusion: expected one of none, mid, late, got 'early'"),
        ({"sensors": None}, r"sensors: fusion=mid takes two of the dataset card's sensors, .* got None"),
        ({"sensors": "optical"}, r"sensors: fusion=mid takes two .* got 'optical'"),
        ({"sensors": "a+b+c"}, r"sensors: fusion=mid takes two .* got 'a\+b\+c'"),
        ({"sensors": "optical+ optical"}, r"sensors: expected two different sensors, got 'optical' twice"),
        ({"keep_sensor": "radar"}, r"keep_sensor: expected 'optical' or 'infrared', got 'radar'"),
        ({"consistency": -1.0}, r"consistency: expected a weight of at least 0, got -1.0"),
        ({"consistency": float("nan")}, r"consistency: expected a weight of at least 0, got nan"),
        ({"fusion": "none"}, r"sensors: 'optical\+infrared' is given and fusion is none"),
        ({"tune": {"what": "head"}}, r"tune.what: two sensors are pretrained whole, got 'head'"),
        ({"optimizer": {"layer_decay": 0.9}}, r"optimizer.layer_decay: two encoders' layers learn alike, got 0.9"),
    ],
)
def test_bad_settings(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**values)


def test_a_sensor_that_the_card_has_not(data: SegmentationData, tmp_path: Path) -> None:
    for sensors in ("optical+radar", "radar+optical"):
        with pytest.raises(ValueError, match=r"no sensor 'radar' \(it has optical, infrared\)"):
            pretrain_noisy(data, MODEL, config(sensors=sensors), CPU, name="noisy", project=tmp_path, seed=0)


def test_sharded_weights_are_refused(data: SegmentationData) -> None:
    setting = config()
    model = start_model(MODEL, kept_data(data, setting), seed=0, project=Path())
    sharded = replace(resolve_compute(CPU), sharding="fsdp")
    object.__setattr__(sharded, "group", replace(sharded.group, size=2))
    with pytest.raises(ValueError, match=r"compute.sharding: two sensors are pretrained with ddp alone"):
        TwoSensorPretraining(copy.deepcopy(model), data, MODEL, setting, sharded, seed=0, stream="noisy")
