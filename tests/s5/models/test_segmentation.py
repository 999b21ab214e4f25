"""One tester that every encoder x decoder pair of a representative list passes."""

from __future__ import annotations

import copy
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from s5.models import SegmentationModel, create_model, load_model, save_model
from s5.models.segmentation import DECODERS, pad_to_multiple

# Encoders and their options: narrower or shallower than their names say where timm lets us, to the same layers.
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "num_heads": [1, 2, 4, 8], "depths": [2, 2, 1, 1]},
    "vit_tiny_patch16_224": {"depth": 4},
    "s5_vit": {"width": 48, "depth": 4, "heads": 3},
    "s5_vit_b_rvsa": {"width": 48, "depth": 4, "heads": 3, "window": 2, "global_every": 2},
}
PAIRS = [(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS]
# Exported in every run of the tests, the other pairs in the slow ones: each takes seconds.
EXPORTED = [
    ("resnet10t", "upernet"),
    ("convnext_atto", "dpt"),
    ("mobilenetv3_small_050", "light"),
    ("swin_tiny_patch4_window7_224", "light"),
    ("vit_tiny_patch16_224", "dpt"),
    ("s5_vit", "upernet"),
    ("s5_vit_b_rvsa", "light"),
]
# Not 32 px or less both ways: one value a channel, which the batch norm of timm's encoders refuses to train on.
SIZES = [(37, 50), (33, 29), (30, 65)]


def build(encoder: str, decoder: str = "light", *, seed: int = 0, **options: Any) -> SegmentationModel:
    torch.manual_seed(seed)
    options = {"classes": 4, "decoder_channels": 8, "encoder_options": ENCODERS.get(encoder, {}), **options}
    return create_model(encoder, decoder, **options)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Pair:
    """A network in evaluation mode after a backward pass in training mode, one image, and the logits of both passes."""

    model: SegmentationModel
    x: Tensor
    trained: Tensor
    logits: Tensor


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    """A trained pair, named by `request.param`; bands 1 to 13 and three odd sizes go round the pairs."""
    encoder, decoder = request.param
    i = PAIRS.index(request.param)
    # 5 and 13 have no common factor: 13 pairs in a row have 13 numbers of bands.
    model = build(encoder, decoder, bands=1 + 5 * i % 13).train()
    x = images(1, model.bands, *SIZES[(i + i // len(DECODERS)) % len(SIZES)])
    trained = model(x)
    trained.square().mean().backward()
    with torch.no_grad():
        logits = model.eval()(x)
    return Pair(model, x, trained.detach(), logits)


def every(pairs: list[tuple[str, str]], *, slow: Container[tuple[str, str]] = ()) -> pytest.MarkDecorator:
    marked = [pytest.param(p, marks=[pytest.mark.slow] if p in slow else [], id="-".join(p)) for p in pairs]
    return pytest.mark.parametrize("pair", marked, indirect=True)


@every(PAIRS)
def test_every_pair_learns_at_odd_sizes_with_one_image(pair: Pair) -> None:
    assert pair.trained.shape == pair.logits.shape == (1, 4, *pair.x.shape[-2:])
    untouched = [name for name, p in pair.model.named_parameters() if p.grad is None]
    assert untouched == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in pair.model.parameters() if p.grad is not None)


@every(PAIRS)
def test_every_pair_is_rebuilt_from_its_file(pair: Pair, tmp_path: Path) -> None:
    save_model(pair.model, tmp_path / "model.safetensors", metadata={})
    again, _ = load_model(tmp_path / "model.safetensors")
    assert again.architecture == pair.model.architecture
    with torch.no_grad():
        torch.testing.assert_close(again(pair.x), pair.logits, rtol=0, atol=0)


@every(PAIRS)
def test_every_pair_in_bf16_and_channels_last(pair: Pair) -> None:
    largest = float(pair.logits.abs().max())
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low, embedding = pair.model.forward_with_embedding(pair.x)
        model = copy.deepcopy(pair.model).to(memory_format=torch.channels_last)
        last = model(pair.x.to(memory_format=torch.channels_last))
    assert embedding.dtype == torch.float32
    # bf16 rounds by up to 1/256, some dozens of times in a row.
    assert (low.float() - pair.logits).abs().max() < 0.05 * largest
    torch.testing.assert_close(last, pair.logits, rtol=0, atol=1e-5 * largest)


@every(PAIRS, slow=set(PAIRS) - set(EXPORTED))
def test_an_exported_program_gives_the_same_logits(pair: Pair) -> None:
    with torch.no_grad():
        program = torch.export.export(pair.model, (pair.x,)).module()
        torch.testing.assert_close(program(pair.x), pair.logits)


def test_every_encoder_and_decoder_is_exported() -> None:
    assert [encoder for encoder, _ in EXPORTED] == list(ENCODERS)
    assert {decoder for _, decoder in EXPORTED} == set(DECODERS)


@pytest.mark.parametrize("encoder", [*ENCODERS, "resnet18", "hrnet_w18_small"])
def test_the_four_maps_have_strides_4_8_16_32(encoder: str) -> None:
    model = build(encoder).eval()
    with torch.no_grad():
        maps = model.features(images(1, 3, 64, 128))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 32), (8, 16), (4, 8), (2, 4)]


@pytest.mark.parametrize("encoder", ["resnet10t", "vit_tiny_patch16_224"])
def test_one_pass_gives_the_same_logits_and_embedding_as_two(encoder: str) -> None:
    model = build(encoder).eval()
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        logits, embedding = model.forward_with_embedding(x)
        deepest = model.encoder(x)[-1]
        torch.testing.assert_close(logits, model(x), rtol=0, atol=0)
        torch.testing.assert_close(embedding, model.embed(x), rtol=0, atol=0)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, deepest.flatten(2).double().mean(2).float())


def test_the_seed_alone_decides_the_start() -> None:
    one, same, other = (build("resnet10t", "upernet", seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("encoder", ["resnet10t", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (33, 16)])
def test_tiny_and_narrow_images(encoder: str, size: tuple[int, int]) -> None:
    model = build(encoder, "upernet").eval()
    with torch.no_grad():
        logits = model(images(1, 3, *size))
    assert logits.shape == (1, 4, *size)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("encoder", ["convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_of_one_trains_on_a_map_of_one_pixel(encoder: str, decoder: str) -> None:
    model = build(encoder, decoder).train()
    model(images(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_a_map_of_one_pixel_leaves_the_statistics() -> None:
    model = build("convnext_atto", "upernet").train()
    before = model.decoder.pools[0][1][1].running_mean.clone()
    model(images(1, 3, 32, 32)).sum().backward()
    assert torch.equal(model.decoder.pools[0][1][1].running_mean, before)


def test_position_embeddings_follow_the_image() -> None:
    model = build("vit_tiny_patch16_224", image_size=64).eval()
    assert model.encoder.body.pos_embed.shape == (1, 1 + 4 * 4, 192)
    with torch.no_grad():
        assert model(images(1, 3, 96, 80)).shape == (1, 4, 96, 80)


@pytest.mark.parametrize("encoder", ["gcvit_xxtiny", "pit_ti_224"])
def test_fixed_size_networks_take_the_size_they_are_built_for(encoder: str) -> None:
    with torch.no_grad():
        assert build(encoder, image_size=64).eval()(images(1, 3, 64, 64)).shape == (1, 4, 64, 64)
        with pytest.raises(ValueError, match=r"does not take an input of 64 x 64 px .*give the tile size as"):
            build(encoder).eval()(images(1, 3, 64, 64))


def test_drop_path_reaches_the_encoder() -> None:
    model = build("convnext_atto", drop_path=0.3)
    rates = {m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"}
    assert max(rates) == pytest.approx(0.3)


SWIN = "swin_tiny_patch4_window7_224"


def test_swin_maps_come_channels_first() -> None:
    # The one family of timm whose maps are channels-last.
    model = build(SWIN).eval()
    with torch.no_grad():
        assert [m.shape[1] for m in model.features(images(1, 3, 64, 64))] == [24, 48, 96, 192]


@pytest.mark.parametrize("image_size", [None, 64])
def test_swin_takes_any_size(image_size: int | None) -> None:
    model = build(SWIN, image_size=image_size).eval()
    with torch.no_grad():
        for size in [(1, 1), (64, 64), (33, 97), (130, 70)]:
            assert model(images(1, 3, *size)).shape == (1, 4, *size)


def test_swin_of_any_size_is_swin_at_its_own_size() -> None:
    # timm makes the masks of shifted windows at each call then, and once and for all in a network of one size.
    encoder = build(SWIN, image_size=96).eval().encoder
    fixed = timm.create_model(SWIN, features_only=True, img_size=96, strict_img_size=True, **ENCODERS[SWIN]).eval()
    fixed.load_state_dict(encoder.body.state_dict())
    x = images(1, 3, 96, 96)
    with torch.no_grad():
        for ours, theirs in zip(encoder(x), fixed(x), strict=True):
            torch.testing.assert_close(ours, theirs.permute(0, 3, 1, 2))


def test_swin_of_an_older_timm_takes_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def older(name: str, **options: Any) -> torch.nn.Module:
        options.pop("dynamic_img_size", None)  # timm 1.0.20's Swin ignores what it does not know
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", older)
    with torch.no_grad():
        assert build(SWIN).eval()(images(1, 3, 33, 97)).shape == (1, 4, 33, 97)


def test_padding_reflects_and_repeats_the_edge_of_a_small_image() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    # 3 columns are enough for one reflected one (column 1); 2 rows are not enough for 2 more.
    torch.testing.assert_close(pad_to_multiple(x[..., :2, :], 2), torch.tensor([[[[0.0, 1, 2, 1], [3, 4, 5, 4]]]]))
    assert pad_to_multiple(x, 4)[0, 0, :, 0].tolist() == [0.0, 3.0, 3.0, 3.0]
    square = torch.zeros(1, 1, 8, 8)
    assert pad_to_multiple(square, 4) is square


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet81"}, "did you mean 'resnet18'"),
        ({"encoder": "convnext_attto"}, "convnext_atto"),
        ({"decoder": "upernett"}, "did you mean 'upernet'"),
        ({"classes": 1}, "at least 2 classes, got 1"),
        ({"bands": 0}, "bands: expected a positive number, got 0"),
        ({"decoder_channels": -8}, "decoder_channels"),
        ({"image_size": 0}, "image_size"),
        ({"dropout": 1.0}, r"dropout: expected a rate in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, "drop_path"),
        ({"encoder": "vgg11", "drop_path": 0.1}, "set drop_path to 0"),
        ({"encoder": "mixer_s32_224", "image_size": None}, "choose"),
    ],
)
def test_bad_requests_say_what_to_do(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**{"encoder": "resnet10t", "classes": 3, **options})(torch.zeros(1, 3, 64, 64))


def test_the_wrong_number_of_bands_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\], got shape \(1, 4, 32, 32\)"):
        build("resnet10t")(torch.zeros(1, 4, 32, 32))
