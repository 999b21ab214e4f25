"""Depths of parameters against the networks' own papers: so many blocks a stage, counted by hand."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from s5.models import add_lora, create_encoder, create_model, layer_depths

# encoder -> blocks a stage, and which names belong to which: (pattern of stage and block, stages counted from)
NETWORKS = {
    "resnet18": ((2, 2, 2, 2), r"layer(\d+)\.(\d+)\.", 1),
    "resnet18_slim": ((2, 2, 2, 2), r"layer(\d+)\.(\d+)\.", 1),
    "convnext_atto": ((2, 2, 6, 2), r"stages_(\d+)\.blocks\.(\d+)\.", 0),
    "swin_tiny_patch4_window7_224": ((2, 2, 6, 2), r"layers_(\d+)\.blocks\.(\d+)\.", 0),
    "mobilenetv3_small_050": ((1, 2, 3, 2, 3, 1), r"blocks\.(\d+)\.(\d+)\.", 0),
    "vit_tiny_patch16_224": ((12,), r"(blocks)\.(\d+)\.", 0),
    "hiera_tiny_224": ((12,), r"model\.(blocks)\.(\d+)\.", 0),  # a whole network under another name
}
STEMS = ("conv1.", "bn1.", "stem_", "patch_embed.", "conv_stem.", "cls_token", "pos_embed")


def depths(name: str, **options: object) -> tuple[dict[str, int], int]:
    network = nn.Module()
    with torch.device("meta"):
        network.encoder = create_encoder(name, **options)  # type: ignore[arg-type]
    found, last = layer_depths(network)
    assert set(found) == {f"encoder.{n}" for n, _ in network.encoder.named_parameters()}
    return {n.removeprefix("encoder.body."): depth for n, depth in found.items()}, last


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_is_a_block_and_the_downsampling_before_it(name: str) -> None:
    blocks, pattern, first = NETWORKS[name]
    found, last = depths(name)
    assert last == sum(blocks)
    for parameter, depth in found.items():
        block = re.match(pattern, parameter)
        if block is not None:
            stage = 0 if block[1] == "blocks" else int(block[1]) - first
            assert depth == sum(blocks[:stage]) + int(block[2]) + 1, parameter
        elif "downsample" in parameter:
            stage = int(re.match(r"\w+_(\d+)\.", parameter)[1])  # type: ignore[index]
            assert depth == sum(blocks[:stage]) + 1, parameter
        else:
            assert parameter.removeprefix("model.").startswith(STEMS) and depth == 0, parameter


def test_s5s_own_networks() -> None:
    found, last = depths("s5_vit_b_rvsa")
    assert last == 12
    assert found["pos_embed"] == found["patch_embed.proj.weight"] == 0
    assert found["blocks.0.attn.rel_pos_h"] == 1 and found["blocks.11.mlp.fc2.bias"] == 12


def test_without_a_matcher_a_layer_is_a_stage_of_the_maps() -> None:
    for name, stages in (("caformer_s18", 4), ("pit_ti_224", 3)):
        found, last = depths(name)
        assert last == stages
        for parameter, depth in found.items():
            stage = re.search(r"(?:stages_|transformers\.)(\d)\.", parameter)
            after = stages if parameter.startswith("body.norm.") else 0
            assert depth == (int(stage[1]) + 1 if stage else after), parameter


def test_what_no_matcher_knows_counts_with_the_last_layer() -> None:
    found, last = depths("densenet121")  # its last norm
    assert last == 58 and found["features_norm5.weight"] == 58  # 6 + 12 + 24 + 16 dense layers


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_an_adapter_counts_with_its_weight(name: str) -> None:
    network = nn.Module()
    with torch.device("meta"):
        network.encoder = create_encoder(name)
        before, _ = layer_depths(network)
        add_lora(network.encoder, 2, 4.0)
    after, _ = layer_depths(network)
    for parameter, depth in after.items():
        plain = re.sub(r"\.base\.|\.lora_[ab]$", lambda m: "." if "base" in m[0] else ".weight", parameter)
        assert depth == before[plain], parameter


def test_asking_draws_nothing() -> None:
    model = create_model("convnext_atto", "light", classes=2)
    state = torch.random.get_rng_state()
    found, _ = layer_depths(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(name.startswith(("neck.", "decoder.", "head.")) for name in found)


def test_options_of_the_encoder_count() -> None:
    model = create_model("vit_tiny_patch16_224", "light", classes=2, encoder_options={"depth": 8})
    assert layer_depths(model)[1] == 8


def test_a_network_without_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer_decay: Linear has no encoder.*set optimizer\.layer_decay to 1"):
        layer_depths(nn.Linear(2, 2))
