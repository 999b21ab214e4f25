"""Training on a dataset that can be learnt: scores, pointers, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig, OptimizerConfig, evaluate_model, resolve_compute
from s5.finetuning import SupervisedConfig, train_supervised
from s5.models import ModelConfig, create_model, load_model, open_pointer
from s5.semisup import S4PConfig, pretrain_s4p
from s5.types import LabelSpace

MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=16)
CPU = ComputeConfig(device="cpu", precision="fp32")
QUICK = {
    "batch_size": 4,
    "photometry": 0.0,  # colour tells the class here
    "log_every": 5,
    "validate_every": 15,
    "optimizer": {"lr": 3e-3},
    "augmentation": {"crop": 32, "scale": (1, 1)},
}


@pytest.fixture(scope="module")
def seed_run(tiny_data: SegmentationData, tmp_path_factory: pytest.TempPathFactory):
    project = tmp_path_factory.mktemp("project")
    config = SupervisedConfig(steps=30, **QUICK)
    return project, train_supervised(tiny_data, MODEL, config, CPU, name="seed_model", project=project, seed=0)


def test_a_small_network_learns_colours(seed_run, tiny_data: SegmentationData) -> None:
    project, result = seed_run
    pointer = result.pointer
    assert pointer["val_miou"] > 35  # one class everywhere scores 11
    assert pointer["labeled_seen"] == 120 and pointer["steps_total"] == 30 and pointer["selected_on"] == "val"
    assert pointer["path"].startswith("data/06_models/seed_model/")
    assert json.loads(json.dumps(pointer)) == pointer
    model, metadata = load_model(open_pointer(pointer, project))
    assert metadata["classes"] == ["roof", "tree", "lake"]
    matrix = evaluate_model(
        model,
        tiny_data.split("val"),
        tiny_data.statistics,
        tiny_data.labels,
        batch_size=2,
        compute=resolve_compute(CPU),
    ).matrix
    assert int(matrix.sum()) == 3 * 32 * 32
    iou = matrix.diag() / (matrix.sum(0) + matrix.sum(1) - matrix.diag())
    assert float(iou.mean()) * 100 == pytest.approx(pointer["val_miou"], abs=1e-3)
    assert not (project / pointer["path"]).with_name("checkpoints").exists()


def test_a_seed_gives_the_same_weights(seed_run, tiny_data: SegmentationData, tmp_path: Path) -> None:
    config = SupervisedConfig(steps=30, **QUICK)
    again = train_supervised(tiny_data, MODEL, config, CPU, name="seed_model", project=tmp_path, seed=0)
    assert again.pointer["sha256"] == seed_run[1].pointer["sha256"]
    assert again.history == seed_run[1].history
    other = train_supervised(tiny_data, MODEL, config, CPU, name="seed_model", project=tmp_path, seed=1)
    assert other.pointer["sha256"] != again.pointer["sha256"]


@pytest.mark.parametrize("teacher", ["self", "ema"])
@pytest.mark.parametrize("threshold", ["fixed", "per_class"])
def test_s4p_goes_on_from_the_seed_model(seed_run, tiny_data, teacher: str, threshold: str) -> None:
    project, seed_result = seed_run
    config = S4PConfig(
        steps=10,
        unlabeled_batch_size=4,
        teacher=teacher,
        pseudo_labels={"tau": 0.6, "threshold": threshold},
        **{**QUICK, "validate_every": 5, "optimizer": {"lr": 1e-3}},
    )
    pool = [f"unlabeled_{i}" for i in (4, 0, 2)]
    result = pretrain_s4p(
        tiny_data, pool, MODEL, config, CPU, name="s4p_model", project=project, seed=0, init=seed_result.pointer
    )
    assert result.pointer["steps_total"] == 40 and result.pointer["labeled_seen"] == 160
    rows = result.history
    assert [r["step"] for r in rows] == list(range(10))
    assert all(0 <= r["confident_share"] <= 1 for r in rows)
    assert rows[-1]["confident_share"] > 0.2
    assert sum(r["pseudo_accuracy"] for r in rows) / len(rows) > 0.8
    for row in rows:
        assert row["loss"] == pytest.approx((row["loss_labeled"] + row["loss_unlabeled"]) / 2, rel=1e-4)
        assert sum(row[f"share_{c}"] for c in tiny_data.labels.classes) == pytest.approx(1, abs=1e-3)


def test_truth_of_unlabelled_tiles_never_reaches_the_weights(seed_run, tiny_data: SegmentationData) -> None:
    project, seed_result = seed_run
    config = S4PConfig(steps=4, unlabeled_batch_size=2, pseudo_labels={"tau": 0.5}, **QUICK)
    blind = tiny_data.manifest.copy()
    blind.loc[blind["split"] == "unlabeled", "mask"] = None
    runs = [
        pretrain_s4p(
            data,
            ["unlabeled_0", "unlabeled_1"],
            MODEL,
            config,
            CPU,
            name="s4p_model",
            project=project,
            seed=0,
            init=seed_result.pointer,
        )
        for data in (tiny_data, replace(tiny_data, manifest=blind))
    ]
    assert runs[0].pointer["sha256"] == runs[1].pointer["sha256"]
    assert all(r["pseudo_accuracy"] != r["pseudo_accuracy"] for r in runs[1].history)


def test_an_empty_pool_is_an_error(tiny_data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pool of unlabelled tiles is empty"):
        pretrain_s4p(tiny_data, [], MODEL, S4PConfig(), CPU, name="s4p_model", project=tmp_path, seed=0)


def test_a_pool_of_other_data_is_an_error(tiny_data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 2 selected tiles are not in the manifest"):
        pretrain_s4p(
            tiny_data, ["unlabeled_0", "gone"], MODEL, S4PConfig(), CPU, name="s4p_model", project=tmp_path, seed=0
        )


def test_a_split_that_is_missing_is_named(tiny_data: SegmentationData) -> None:
    with pytest.raises(ValueError, match="split 'noisy' has no tiles"):
        tiny_data.split("noisy")


@pytest.mark.parametrize("change", ["classes", "network"])
def test_weights_of_another_network_are_refused(seed_run, tiny_data: SegmentationData, change: str) -> None:
    project, result = seed_run
    data, model = tiny_data, MODEL
    if change == "classes":
        data = replace(tiny_data, labels=LabelSpace(("roof", "tree", "sea")))
    else:
        model = replace(MODEL, decoder_channels=8)
    with pytest.raises(ValueError, match=f"of another {change}"):
        train_supervised(
            data,
            model,
            SupervisedConfig(steps=1),
            CPU,
            name="finetuned_model",
            project=project,
            seed=0,
            init=result.pointer,
        )


def test_without_val_the_last_weights_are_kept(tiny_data: SegmentationData, tmp_path: Path) -> None:
    data = replace(tiny_data, manifest=tiny_data.manifest[tiny_data.manifest["split"] != "val"])
    result = train_supervised(
        data, MODEL, SupervisedConfig(steps=2, **QUICK), CPU, name="supervised", project=tmp_path, seed=0
    )
    assert result.pointer["selected_on"] == "last" and result.pointer["val_miou"] is None
    assert result.pointer["step"] == 2


def test_evaluation_leaves_the_mode_as_it_was(tiny_data: SegmentationData) -> None:
    model = create_model("resnet10t", "light", classes=3, decoder_channels=8).train()
    evaluate_model(
        model,
        tiny_data.split("test"),
        tiny_data.statistics,
        tiny_data.labels,
        batch_size=8,
        compute=resolve_compute(CPU),
    )
    assert model.training


def test_gradient_clipping_and_strong_labels_run(tiny_data: SegmentationData, tmp_path: Path) -> None:
    config = SupervisedConfig(
        steps=2, batch_size=2, photometry=1.0, optimizer=OptimizerConfig(clip_norm=0.1), augmentation={"crop": 32}
    )
    result = train_supervised(tiny_data, MODEL, config, CPU, name="supervised", project=tmp_path, seed=0)
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in result.history)
