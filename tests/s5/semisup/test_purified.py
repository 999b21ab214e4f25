"""S4P with a purifier: every method takes it, the published rule changes nothing, the truth makes all labels right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig, TrainResult
from s5.engine.jobs import read_job, write_job
from s5.models import ModelConfig
from s5.purification import Calibrated, PriorConfig, SemiEarth, ground_tiles
from s5.purification.purifiers import excess_of
from s5.semisup import S4PConfig, pretrain_s4p
from s5.semisup.s4p import S4P
from s5.types import Purified, Purifier, Purify

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8, dropout=0.0)
POOL = [f"unlabeled_{i}" for i in range(6)]
TRUTH = tuple(tuple(3.0 if v == k else 0.001 for k in range(3)) for v in range(3))


class Oracle:
    """Evidence from the colours of the tiles, which tell the class: right nearly everywhere."""

    def __init__(self) -> None:
        self.key = {"model": "oracle"}

    def ground(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        colours = torch.tensor([[200, 60, 50], [60, 180, 70], [50, 70, 190]])
        distance = (images_BCHW[:, None].long() - colours[None, :, :, None, None]).square().sum(2)
        said = torch.nn.functional.one_hot(distance.argmin(1), 4).permute(0, 3, 1, 2)
        return said.float()


@pytest.fixture(scope="module")
def priors(tiny_data: SegmentationData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiles, folder = tiny_data.tiles(POOL), tmp_path_factory.mktemp("priors")
    classes = tiny_data.labels.classes
    return ground_tiles(tiles, Oracle(), tiny_data.statistics, folder, PriorConfig(), classes=classes).file


def trusting(priors: Path) -> Calibrated:
    return Calibrated(priors, evidence_temperature=1.0, strength=8.0, excess=excess_of(TRUTH, [1.0] * 3))


def train(
    data: SegmentationData,
    project: Path,
    purifier: Purifier | None,
    *,
    compute: ComputeConfig = CPU,
    **config: Any,
) -> TrainResult:
    options: dict[str, Any] = {"steps": 4, "optimizer": {"lr": 1e-3}, "augmentation": {"crop": 24}, **config}
    s4p = S4PConfig(batch_size=2, unlabeled_batch_size=4, **options)
    return pretrain_s4p(data, POOL, MODEL, s4p, compute, name="s4p", project=project, seed=3, purifier=purifier)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"teacher": "self"},
        {"method": "mean_teacher"},
        {"method": "unimatch_v2"},
        {"pseudo_labels": {"threshold": "per_class"}},
        {"pseudo_labels": {"threshold": "share"}},
        {"pseudo_labels": {"threshold": "freematch"}},
        {"pseudo_labels": {"threshold": "softmatch", "uniform_alignment": True}},
    ],
    ids=str,
)
def test_every_method_learns_from_purified_labels(
    tiny_data: SegmentationData, priors: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    result = train(tiny_data, tmp_path, trusting(priors), steps=2, **config)
    for row in result.history:
        assert row["purified_accuracy"] > 0.97 > row["teacher_accuracy"]
        assert row["purified_relabelled"] > 0.3
        assert row["confident_share"] > 0.9
        assert row["loss_unlabeled"] > 0


def test_the_published_rule_trains_the_very_same_weights(
    tiny_data: SegmentationData, priors: Path, tmp_path: Path
) -> None:
    plain = train(tiny_data, tmp_path / "plain", None)
    published = train(tiny_data, tmp_path / "published", SemiEarth(priors))
    calibrated = train(tiny_data, tmp_path / "calibrated", trusting(priors))
    assert published.pointer["sha256"] == plain.pointer["sha256"] != calibrated.pointer["sha256"]
    assert not any(key.startswith("purified") for key in plain.history[0])
    for name in ("loss", "loss_unlabeled", "confident_share"):
        assert [row[name] for row in published.history] == [row[name] for row in plain.history]


def test_a_batch_in_parts_is_purified_like_a_whole_one(
    tiny_data: SegmentationData, priors: Path, tmp_path: Path
) -> None:
    whole = train(tiny_data, tmp_path / "whole", trusting(priors), steps=1, method="fixmatch")
    parts = train(
        tiny_data, tmp_path / "parts", trusting(priors), steps=1, compute=replace(CPU, accumulate=2), method="fixmatch"
    )
    for name in ("purified_accuracy", "purified_relabelled", "teacher_accuracy"):
        assert parts.history[0][name] == pytest.approx(whole.history[0][name], abs=0.02)


def test_a_killed_run_ends_with_the_same_weights(
    tiny_data: SegmentationData, priors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"steps": 4, "checkpoint_every": 2, "log_every": 1}
    whole = train(tiny_data, tmp_path / "whole", trusting(priors), **config)
    real = S4P.step

    def dies(self: S4P, step: int, batches: Any) -> Any:
        if step == 3:
            raise RuntimeError("killed")
        return real(self, step, batches)

    monkeypatch.setattr(S4P, "step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train(tiny_data, tmp_path / "killed", trusting(priors), **config)
    monkeypatch.setattr(S4P, "step", real)
    resumed = train(tiny_data, tmp_path / "killed", trusting(priors), **config)
    assert resumed.pointer["resumed_from"] == [2]
    assert resumed.pointer["sha256"] == whole.pointer["sha256"]


def test_a_pool_without_evidence_is_refused(tiny_data: SegmentationData, priors: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 tiles have no prior \(first: 'unlabeled_9'\)"):
        trusting(priors).maps(["unlabeled_1", "unlabeled_9"])


def test_a_purifier_reaches_other_processes(priors: Path, tmp_path: Path) -> None:
    for number, purifier in enumerate((trusting(priors), SemiEarth(priors))):
        write_job(tmp_path / str(number), pretrain_s4p, {"purifier": purifier})
        _, arguments = read_job(tmp_path / str(number))
        assert arguments["purifier"] == purifier and arguments["purifier"].key == purifier.key


class Doubled:
    """A purifier of nobody's: S4P knows the protocol alone."""

    key = "doubled"

    def maps(self, tile_ids: Sequence[str]) -> Doubled:
        return self

    def read_maps(self, index: int) -> np.ndarray:
        return np.full((1, 2, 2), 255, np.uint8)

    def rule(self, device: torch.device) -> Purify:
        def purify(logits: torch.Tensor, evidence: torch.Tensor) -> Purified:
            assert evidence.shape == (4, 1, 24, 24) and (evidence > 0.999).all()
            probabilities = (2 * logits).softmax(1)
            return Purified(probabilities, *probabilities.max(1))

        return purify


def test_any_purifier_will_do(tiny_data: SegmentationData, tmp_path: Path) -> None:
    result = train(tiny_data, tmp_path, Doubled(), steps=1)
    assert result.history[0]["purified_raised"] > 0.5
    assert result.history[0]["purified_relabelled"] == 0


@pytest.mark.slow
@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(tiny_data: SegmentationData, priors: Path, tmp_path: Path) -> None:
    one = train(tiny_data, tmp_path / "one", trusting(priors))
    two = train(tiny_data, tmp_path / "two", trusting(priors), compute=replace(CPU, devices=2))
    for row, other in zip(one.history, two.history, strict=True):
        for name in ("loss", "purified_accuracy", "purified_relabelled"):
            assert other[name] == pytest.approx(row[name], rel=1e-3, abs=1e-3)
