"""Adapters: nothing changes at the start, merging changes nothing, and the numbers are those of the paper's formula."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from s5.models import SegmentationModel, add_lora, create_encoder, create_model, load_model, merge_lora, save_model
from s5.models.lora import LoRALinear

S5_VIT = {"width": 24, "depth": 4, "heads": 3}
NETWORKS = {
    "s5_vit": S5_VIT,
    "s5_vit_rvsa": {**S5_VIT, "window": 3, "global_every": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    "swinv2_tiny_window8_256": {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    "beit_base_patch16_224": {"embed_dim": 24, "depth": 4, "num_heads": 2},
}


def network(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    encoder = "s5_vit" if name.startswith("s5_vit") else name
    model = create_model(encoder, "light", classes=3, decoder_channels=8, image_size=64, encoder_options=NETWORKS[name])
    with torch.no_grad():
        for parameter in model.parameters():  # Swin V2's residuals start at zero, and would hide its attention
            parameter += torch.randn_like(parameter) * 0.1
    return model.double().eval()


def shake(model: SegmentationModel) -> None:
    """Adapters as training leaves them: no longer zero."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_b, std=0.1)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_at_the_start_and_after_merging(name: str) -> None:
    model, x = network(name), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    keys, before = list(model.state_dict()), model(x)
    count = add_lora(model.encoder, 2, 6.0)
    assert count == 8  # qkv and proj of four blocks
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    shake(model)
    trained = model(x)
    assert (trained - before).abs().max() > 1e-4
    merge_lora(model)
    torch.testing.assert_close(model(x), trained, rtol=0, atol=1e-12)
    assert list(model.state_dict()) == keys


def test_the_formula_by_hand() -> None:
    base = nn.Linear(2, 2, bias=True).double()
    layer = LoRALinear(base, rank=1, alpha=3.0)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        base.bias.copy_(torch.tensor([0.5, 0.0]))
        layer.lora_a.copy_(torch.tensor([[1.0, -1.0]]))
        layer.lora_b.copy_(torch.tensor([[2.0], [1.0]]))
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    # W x + b = (7.5, 15); A x = -2; B A x = (-4, -2); times 3 / 1
    expected = torch.tensor([[-4.5, 9.0]], dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), expected)
    assert not base.weight.requires_grad and layer.lora_a.requires_grad
    assert (layer.in_features, layer.out_features) == (2, 2)


def test_the_number_of_adapter_weights() -> None:
    with torch.device("meta"):
        encoder = create_encoder("vit_tiny_patch16_224").requires_grad_(False)
        add_lora(encoder, 8, 16.0)
    # a block: qkv 8 x 192 and 576 x 8, proj 8 x 192 and 192 x 8
    by_hand = 12 * (8 * 192 + 576 * 8 + 8 * 192 + 192 * 8)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == by_hand == 110592


def test_merging_a_copy_leaves_the_original(tmp_path: Path) -> None:
    model = network("s5_vit").float()
    add_lora(model.encoder, 2, 4.0)
    shake(model)
    merged = copy.deepcopy(model)
    merge_lora(merged)
    assert any(isinstance(m, LoRALinear) for m in model.modules())
    save_model(merged, tmp_path / "model.safetensors", metadata={})
    loaded, _ = load_model(tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)


def test_merging_a_plain_network_changes_nothing() -> None:
    model = network("s5_vit")
    before = copy.deepcopy(model.state_dict())
    merge_lora(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_encoders_without_attention_are_refused(name: str) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name)
    with pytest.raises(ValueError, match=rf"lora: encoder '{name}' has no attention.*take one of S5's.*ViT.*Swin"):
        add_lora(encoder, 8, 16.0)
