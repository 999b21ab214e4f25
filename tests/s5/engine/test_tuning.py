"""What is trained moves, and nothing else does: weights, batch statistics, dropout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import (
    ComputeConfig,
    Learner,
    OptimizerConfig,
    TrainingConfig,
    TuneConfig,
    apply_tuning,
    resolve_compute,
    start_model,
)
from s5.finetuning import SupervisedConfig, train_supervised
from s5.finetuning.supervised import Supervised
from s5.models import ModelConfig, SegmentationModel, create_model, load_model, open_pointer
from s5.semisup import S4PConfig, pretrain_s4p

CPU = ComputeConfig(device="cpu", precision="fp32")
RESNET = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=16)
VIT = ModelConfig(
    encoder="s5_vit",
    decoder="light",
    decoder_channels=16,
    drop_path=0.2,
    image_size=32,
    encoder_options={"width": 24, "depth": 4, "heads": 3},
)
QUICK: dict[str, Any] = {
    "steps": 3,
    "batch_size": 2,
    "validate_every": 0,
    "optimizer": {"lr": 3e-3, "weight_decay": 0.1, "layer_decay": 0.8},
    "augmentation": {"crop": 32, "scale": (1, 1)},
}
# the LoRA adapters' count of a block of width 24 at rank 2: qkv 2 x 24 and 72 x 2, proj 2 x 24 and 24 x 2
ADAPTERS = 4 * (2 * 24 + 72 * 2 + 2 * 24 + 24 * 2)


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def expected(model: SegmentationModel, what: str) -> set[str]:
    names = set(model.state_dict())
    after_encoder = {n for n in names if not n.startswith("encoder.")}
    if what == "head":
        return {"head.1.weight", "head.1.bias"}
    if what == "lora":
        return after_encoder | {n for n in names if n.endswith(("attn.qkv.weight", "attn.proj.weight"))}
    return after_encoder if what == "decoder" else names


def train(data: SegmentationData, model: ModelConfig, project: Path, **tune: Any) -> Any:
    config = SupervisedConfig(**QUICK, checkpoint_every=2, tune=tune)
    return train_supervised(data, model, config, CPU, name="tuned", project=project, seed=0)


@pytest.mark.parametrize(
    ("what", "model"),
    [
        ("all", RESNET),
        ("decoder", RESNET),
        ("head", RESNET),
        ("all", VIT),
        ("decoder", VIT),
        ("head", VIT),
        ("lora", VIT),
    ],
)
def test_only_what_is_trained_moves(tiny_data: SegmentationData, tmp_path: Path, what: str, model: ModelConfig) -> None:
    before = start_model(model, tiny_data, seed=0, project=tmp_path)
    result = train(tiny_data, model, tmp_path, what=what, lora_rank=2)
    after, _ = load_model(open_pointer(result.pointer, tmp_path))  # plain weights in a plain network
    assert moved(before.state_dict(), after.state_dict()) == expected(before, what)
    assert result.pointer["config"]["tuned"]["tune"]["what"] == what


@pytest.mark.parametrize("teacher", ["self", "ema"])
def test_s4p_with_adapters(tiny_data: SegmentationData, tmp_path: Path, teacher: str) -> None:
    before = start_model(VIT, tiny_data, seed=0, project=tmp_path)
    config = S4PConfig(
        **QUICK,
        unlabeled_batch_size=2,
        pseudo_labels={"tau": 0.4},
        teacher=teacher,
        tune={"what": "lora", "lora_rank": 2},
    )
    pool = ["unlabeled_0", "unlabeled_1"]
    result = pretrain_s4p(tiny_data, pool, VIT, config, CPU, name="s4p", project=tmp_path, seed=0)
    after, _ = load_model(open_pointer(result.pointer, tmp_path))
    assert moved(before.state_dict(), after.state_dict()) == expected(before, "lora")


@pytest.mark.parametrize("what", ["head", "lora"])
def test_resumed_is_bit_identical(
    tiny_data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    whole = train(tiny_data, VIT, tmp_path / "whole", what=what, lora_rank=2)
    real = Supervised.step

    def dies(self: Supervised, step: int, batches: Any) -> Any:
        if step == 2:
            raise RuntimeError("killed")
        return real(self, step, batches)

    monkeypatch.setattr(Supervised, "step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train(tiny_data, VIT, tmp_path / "killed", what=what, lora_rank=2)
    monkeypatch.setattr(Supervised, "step", real)
    resumed = train(tiny_data, VIT, tmp_path / "killed", what=what, lora_rank=2)
    assert resumed.pointer["resumed_from"] == [2]
    assert resumed.pointer["sha256"] == whole.pointer["sha256"]
    assert resumed.history == whole.history


def test_the_validated_average_is_what_is_saved(tiny_data: SegmentationData, tmp_path: Path) -> None:
    """The score of the merged weights on disk is the score of the network with adapters."""
    from s5.engine import evaluate_model, resolve_compute
    from s5.metrics import segmentation_scores

    result = train(tiny_data, VIT, tmp_path, what="lora", lora_rank=2)
    model, _ = load_model(open_pointer(result.pointer, tmp_path))
    matrix = evaluate_model(
        model,
        tiny_data.split("val"),
        tiny_data.statistics,
        tiny_data.labels,
        batch_size=2,
        compute=resolve_compute(CPU),
    ).matrix
    miou = segmentation_scores(matrix, tiny_data.labels.classes)["miou"]
    assert miou == pytest.approx(result.pointer["val_miou"], abs=1e-3)


@pytest.mark.parametrize(("what", "count"), [("head", 16 * 3 + 3), ("lora", ADAPTERS)])
def test_the_optimizer_holds_what_is_trained(what: str, count: int) -> None:
    model = create_model("s5_vit", "light", classes=3, decoder_channels=16, encoder_options=VIT.encoder_options)
    rest = sum(p.numel() for part in (model.neck, model.decoder, model.head) for p in part.parameters())
    apply_tuning(model, TuneConfig(what, lora_rank=2))
    learner = Learner(model, OptimizerConfig(), steps=1, ema_decay=0.9, warm=True, compute=resolve_compute(CPU))
    held = sum(p.numel() for group in learner.optimizer.param_groups for p in group["params"])
    assert held == count + (rest if what == "lora" else 0)
    assert not any(p.requires_grad for p in learner.ema.average.parameters())


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    model = create_model("s5_vit", "light", classes=3, drop_path=0.5, encoder_options=VIT.encoder_options)
    apply_tuning(model, TuneConfig("head"))
    for network in (model.train(), copy.deepcopy(model).eval().train()):
        assert network.training and network.head.training
        assert not any(m.training for part in ("encoder", "neck", "decoder") for m in getattr(network, part).modules())
    assert not any(m.training for m in model.eval().modules())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.train().features(x)[0], model.eval().features(x)[0], rtol=0, atol=0)


def test_all_freezes_nothing() -> None:
    model = create_model("resnet10t", "light", classes=3)
    apply_tuning(model, TuneConfig())
    assert model.frozen == () and all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"what": "heads"},
            r"tune\.what: expected one of all, decoder, head, lora, got 'heads'; did you mean 'head'\?",
        ),
        ({"what": "lora", "lora_rank": 0}, r"tune\.lora_rank: expected a whole number of at least 1, got 0"),
        ({"lora_rank": 1.5}, r"tune\.lora_rank: expected a whole number of at least 1, got 1\.5"),
        ({"lora_alpha": 0}, r"tune\.lora_alpha: expected a positive factor, got 0"),
    ],
)
def test_ranges(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(tune=values)  # type: ignore[arg-type]


def test_adapters_need_attention(tiny_data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lora: encoder 'resnet10t' has no attention"):
        train(tiny_data, RESNET, tmp_path, what="lora")
