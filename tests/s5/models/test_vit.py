"""S5's plain ViT against timm's ViT, against its own plain formulas, and at any input size."""

from __future__ import annotations

import pytest
import timm
import torch

from s5.models import create_encoder, create_model
from s5.models.encoders import tap_blocks
from s5.models.rvsa import RotatedWindowAttention
from s5.models.vit import Attention, PlainViT

SIZES = {"width": 24, "depth": 4, "heads": 3}


def vit(**options: object) -> PlainViT:
    torch.manual_seed(0)
    return PlainViT(**{**SIZES, "image_size": 64, **options})  # type: ignore[arg-type]


@torch.no_grad()
def test_the_blocks_are_timms() -> None:
    ours = vit().eval()
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=64,
        embed_dim=24,
        depth=4,
        num_heads=3,
        class_token=False,
        global_pool="",
        num_classes=0,
        norm_layer=torch.nn.LayerNorm,
    ).eval()
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert set(missing.missing_keys) <= {"norm.weight", "norm.bias"}
    x = torch.randn(2, 3, 64, 64)
    expected = theirs.forward_intermediates(x, indices=[0, 2, 3], norm=False, intermediates_only=True)
    for found, wanted in zip(ours(x, (0, 2, 3)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_fused_attention_is_the_product_written_out() -> None:
    attention = Attention(24, 3).double()
    x = torch.randn(2, 10, 24, dtype=torch.float64)
    fused = attention(x, (2, 5))
    attention.fused = False
    torch.testing.assert_close(attention(x, (2, 5)), fused, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_positions_are_interpolated_to_the_image() -> None:
    body = vit().eval()
    wide = torch.nn.functional.interpolate(
        body.pos_embed.reshape(1, 4, 4, 24).permute(0, 3, 1, 2), (2, 7), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(body._positions((2, 7)), wide.flatten(2).transpose(1, 2))
    assert [tuple(m.shape) for m in body(torch.randn(1, 3, 32, 112), (0, 3))] == [(1, 24, 2, 7)] * 2


def test_checkpointing_changes_neither_outputs_nor_gradients() -> None:
    plain, saving = vit(drop_path=0.0).train(), vit(drop_path=0.0).train()
    saving.set_grad_checkpointing(True)
    x = torch.randn(2, 3, 64, 64)
    for body in (plain, saving):
        body(x, (3,))[0].square().mean().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_drop_path_rises_to_the_last_block() -> None:
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in vit(drop_path=0.3).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_the_papers_taps() -> None:
    assert tap_blocks(12, 768) == (3, 5, 7, 11)
    assert tap_blocks(24, 1024) == (7, 11, 15, 23)
    assert tap_blocks(32, 1280) == (15, 23, 27, 31)
    assert tap_blocks(4, 32) == (0, 1, 2, 3)
    assert tap_blocks(8, 64) == (1, 3, 5, 7)


@pytest.mark.parametrize(("name", "blocks"), [("s5_vit_b_rvsa", [2, 5, 8, 11]), ("s5_vit_l_rvsa", [5, 11, 17, 23])])
def test_rvsa_attends_to_the_whole_image_in_every_third_or_sixth_block(name: str, blocks: list[int]) -> None:
    with torch.device("meta"):
        body = create_encoder(name).body
    whole = [i for i, block in enumerate(body.blocks) if isinstance(block.attn, Attention)]  # type: ignore[arg-type]
    assert whole == blocks
    assert all(
        isinstance(block.attn, RotatedWindowAttention) and block.attn.window == 7
        for i, block in enumerate(body.blocks)  # type: ignore[arg-type]
        if i not in blocks
    )


@torch.no_grad()
def test_windows_as_large_as_the_image_start_as_attention_to_all_of_it() -> None:
    windowed = vit(window=4, global_every=100).eval()
    for block in windowed.blocks:
        torch.nn.init.zeros_(block.attn.relative_position_bias_table)
    whole = vit().eval()
    state = windowed.state_dict()
    whole.load_state_dict({k: state[k] for k in whole.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(windowed(x, (3,))[0], whole(x, (3,))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "s5_vit_bb"}, "neither S5 nor timm has a network 's5_vit_bb'; did you mean 's5_vit_b'"),
        ({"encoder": "s5_vit"}, r"encoder_options lack \['width', 'depth', 'heads'\]"),
        ({"encoder": "s5_vit", "encoder_options": {**SIZES, "heads": 5}}, "5 heads do not divide a width of 24"),
        ({"encoder": "s5_vit", "encoder_options": {**SIZES, "depth": 0}}, "depth must be a whole number of at least 1"),
        ({"encoder": "s5_vit", "encoder_options": {**SIZES, "breadth": 3}}, "unexpected keyword argument 'breadth'"),
        ({"encoder": "s5_vit", "encoder_options": {**SIZES, "taps": [0, 1, 2]}}, r"taps must be four blocks in 0\.\.3"),
        ({"encoder": "s5_vit", "encoder_options": {**SIZES, "taps": [3, 2, 1, 0]}}, "taps must rise"),
        ({"encoder": "resnet10t", "encoder_options": {"breadth": 3}}, "take it out of encoder_options"),
        ({"encoder": "resnet10t", "decoder_options": {"scales": [1]}}, "take it out of decoder_options"),
    ],
)
def test_bad_requests_say_what_to_do(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**{"classes": 3, **options})  # type: ignore[arg-type]


@torch.no_grad()
def test_pool_scales_are_an_option_of_upernet() -> None:
    model = create_model("resnet10t", classes=2, decoder_channels=4, decoder_options={"pool_scales": [1, 4]}).eval()
    assert [pool[0].output_size for pool in model.decoder.pools] == [1, 4]
    assert (
        create_model(**model.architecture).decoder.bottleneck[0].weight.shape
        == model.decoder.bottleneck[0].weight.shape
    )


def test_checkpointing_reaches_timms_networks_or_is_refused() -> None:
    model = create_model("vit_tiny_patch16_224", classes=2, decoder_channels=4, checkpointing=True)
    assert model.encoder.body.grad_checkpointing
    with pytest.raises(ValueError, match="set checkpointing to false"):
        create_model("hrnet_w18_small", classes=2, decoder_channels=4, checkpointing=True)
