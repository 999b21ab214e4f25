"""What is taken over, frozen and trained, for every decoder and kinds of encoders: told from the weights alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig, start_model
from s5.finetuning import FinetuneConfig, SupervisedConfig, TransferConfig, finetune, train_supervised, transfer_weights
from s5.models import ModelConfig, SegmentationModel, create_model, load_model, open_pointer, save_model
from s5.types import LabelSpace

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "s5_vit": {"image_size": 32, "encoder_options": {"width": 24, "depth": 4, "heads": 3}},
    "vit_tiny_patch16_224": {"image_size": 32, "encoder_options": {"depth": 4, "embed_dim": 24, "num_heads": 3}},
}
# What the network computes first, by hand: decoder -> names of each of its five blocks, deepest level first.
BLOCKS = {
    "upernet": [
        r"decoder\.(pools|bottleneck)\.|neck\.fpn4",
        r"decoder\.(laterals|fpn_convs)\.2\.|neck\.fpn3",
        r"decoder\.(laterals|fpn_convs)\.1\.|neck\.fpn2",
        r"decoder\.(laterals|fpn_convs)\.0\.|neck\.fpn1",
        r"decoder\.fusion\.",
    ],
    "dpt": [rf"decoder\.(laterals|fusions)\.{i}\.|neck\.(projections|resamplings)\.{i}\." for i in (3, 2, 1, 0)]
    + [r"decoder\.smooth\."],
    "light": [rf"decoder\.laterals\.{i}\.|neck\.fpn{i + 1}\." for i in (3, 2, 1, 0)] + [r"decoder\.smooth\."],
}
CLASSES = ("roof", "tree", "lake")


def network(seed: int, encoder: str = "resnet10t", decoder: str = "light", classes: int = 3) -> SegmentationModel:
    torch.manual_seed(seed)
    model = create_model(encoder, decoder, classes=classes, decoder_channels=8, **ENCODERS[encoder])
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape))  # norms and zeros too: no two networks share a value
    return model


def stored(model: SegmentationModel, path: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    save_model(model, path, metadata={"classes": list(classes)})
    return path


def encoder_layer(name: str, encoder: str) -> int:
    """The layer of a tensor of the three encoders, counted by hand."""
    if encoder == "resnet10t":  # one block a stage
        found = re.search(r"layer(\d)\.", name)
    else:
        found = re.search(r"blocks\.(\d)\.", name)
        if found:
            return int(found[1]) + 1
        return 4 if name.startswith("encoder.body.norm.") else 0
    return int(found[1]) if found else 0


def taken(model: SegmentationModel, source: SegmentationModel) -> set[str]:
    own, other = model.state_dict(), source.state_dict()
    return {n for n in own if n in other and own[n].shape == other[n].shape and torch.equal(own[n], other[n])}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", BLOCKS)
@pytest.mark.parametrize("blocks", [0, 2, None])
def test_the_encoder_and_the_first_blocks_of_the_decoder(
    tmp_path: Path, encoder: str, decoder: str, blocks: int | None
) -> None:
    source, model = network(0, encoder, decoder), network(1, encoder, decoder)
    before = taken(model, source)  # counters alone
    config = TransferConfig(decoder_blocks=blocks, head="retrained", encoder="frozen")
    report = transfer_weights(model, stored(source, tmp_path / "a.safetensors"), config, classes=CLASSES)
    patterns = "|".join(BLOCKS[decoder][:blocks])
    expected = {n for n in source.state_dict() if n.startswith("encoder.") or (patterns and re.match(patterns, n))}
    assert taken(model, source) - before == expected - before
    assert sum(report.loaded.values()) == len(expected)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("encoder.")}
    assert not any(module.training for module in model.train().encoder.modules())
    assert model.decoder.training


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("mode", ["tuned", "frozen"])
def test_the_first_layers_of_the_encoder(tmp_path: Path, encoder: str, mode: str) -> None:
    source, model = network(0, encoder), network(1, encoder)
    before = taken(model, source)
    config = TransferConfig(encoder=mode, encoder_layers=2, decoder="retrained", head="retrained")
    transfer_weights(model, stored(source, tmp_path / "a.safetensors"), config, classes=CLASSES)
    within = {n for n in model.state_dict() if n.startswith("encoder.") and encoder_layer(n, encoder) <= 2}
    assert taken(model, source) - before == within - before
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    parameters = {name for name, _ in model.named_parameters()}
    assert frozen == (within & parameters if mode == "frozen" else set())
    norms = {n for n, m in model.train().named_modules() if isinstance(m, torch.nn.BatchNorm2d) and not m.training}
    assert norms == {
        n for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and f"{n}.weight" in frozen
    }


def test_other_decoders_and_other_classes_take_the_encoder(tmp_path: Path) -> None:
    path = stored(network(0, decoder="upernet", classes=5), tmp_path / "a.safetensors", tuple("abcde"))
    model = network(1, decoder="dpt")
    encoder_only = TransferConfig(decoder="retrained", head="retrained")
    report = transfer_weights(model, path, encoder_only, classes=CLASSES)
    assert set(report.loaded) == {"encoder"}
    assert {what for what, _ in report.left} == {"decoder", "head"}
    assert str(report).count("not asked for") == 2
    with pytest.raises(ValueError, match=r"decoder does not fit.*set transfer\.decoder"):
        transfer_weights(network(1, decoder="dpt"), path, replace(encoder_only, decoder="tuned"), classes=CLASSES)
    with pytest.raises(ValueError, match=r"head is for the classes .*'a'.*set transfer\.head"):
        transfer_weights(network(1, decoder="upernet"), path, TransferConfig(), classes=CLASSES)
    other = stored(network(0), tmp_path / "b.safetensors", ("lake", "roof", "tree"))
    with pytest.raises(ValueError, match="head is for the classes"):  # as many, in another order
        transfer_weights(network(1), other, TransferConfig(), classes=CLASSES)


def test_nothing_is_changed_where_something_does_not_fit(tmp_path: Path) -> None:
    path, model = stored(network(0, decoder="upernet"), tmp_path / "a.safetensors"), network(1, decoder="light")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit"):
        transfer_weights(model, path, TransferConfig(), classes=CLASSES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"encoder": "freeze"}, "encoder"),
        ({"head": "none"}, "head"),
        ({"decoder_blocks": 6}, "decoder_blocks"),
        ({"decoder_blocks": True}, "decoder_blocks"),
        ({"encoder_layers": -1}, "encoder_layers"),
        ({"encoder_layers": 2, "encoder": "retrained"}, "encoder_layers"),
    ],
)
def test_settings_that_mean_nothing_name_the_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"transfer\.{key}"):
        TransferConfig(**values)


def test_more_layers_than_there_are(tmp_path: Path) -> None:
    path = stored(network(0), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has 4 layers, got 9"):
        transfer_weights(network(1), path, TransferConfig(encoder_layers=9), classes=CLASSES)


MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)
QUICK: dict[str, Any] = {
    "steps": 2,
    "batch_size": 2,
    "validate_every": 0,
    "optimizer": {"lr": 3e-3, "weight_decay": 0.1},
    "augmentation": {"crop": 32, "scale": (1, 1)},
}


def test_fine_tuning_to_other_classes_and_another_decoder(tiny_data: SegmentationData, tmp_path: Path) -> None:
    start = train_supervised(
        tiny_data, MODEL, SupervisedConfig(**QUICK), CPU, name="start", project=tmp_path, seed=0
    ).pointer
    source, _ = load_model(open_pointer(start, tmp_path))
    model = replace(MODEL, decoder="upernet")
    other = replace(tiny_data, labels=LabelSpace(("one", "two", "three", "four")))
    transfer = {"encoder": "frozen", "encoder_layers": 3, "decoder": "retrained", "head": "retrained"}
    config = FinetuneConfig(**QUICK, transfer=transfer)
    pointer = finetune(other, model, config, CPU, name="tuned", project=tmp_path, seed=0, init=start).pointer
    tuned, metadata = load_model(open_pointer(pointer, tmp_path))
    assert metadata["classes"] == ["one", "two", "three", "four"]
    encoder = {n for n in source.state_dict() if n.startswith("encoder.") and not n.endswith("num_batches_tracked")}
    assert taken(tuned, source) & encoder == {n for n in encoder if encoder_layer(n, "resnet10t") <= 3}
    fresh = start_model(model, other, seed=0, project=tmp_path)
    assert not torch.equal(fresh.state_dict()["head.1.weight"], tuned.state_dict()["head.1.weight"])
    assert pointer["config"]["tuned"]["transfer"] == {**transfer, "decoder_blocks": None}
    assert (pointer["steps_total"], pointer["labeled_seen"]) == (4, 8)


def test_taking_all_over_is_training_on(tiny_data: SegmentationData, tmp_path: Path) -> None:
    start = train_supervised(
        tiny_data, MODEL, SupervisedConfig(**QUICK), CPU, name="start", project=tmp_path, seed=0
    ).pointer
    on = train_supervised(
        tiny_data, MODEL, SupervisedConfig(**QUICK), CPU, name="on", project=tmp_path / ".", seed=0, init=start
    ).pointer
    again = finetune(tiny_data, MODEL, FinetuneConfig(**QUICK), CPU, name="on", project=tmp_path, seed=0, init=start)
    assert again.pointer["sha256"] == on["sha256"]
