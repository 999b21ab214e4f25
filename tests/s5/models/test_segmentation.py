"""One tester that every encoder x decoder pair of a representative list passes."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from s5.models import SegmentationModel, create_model
from s5.models.segmentation import pad_to_multiple

ENCODERS = ["resnet10t", "resnet18", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224"]
PAIRS = [(encoder, decoder) for encoder in ENCODERS for decoder in ("upernet", "light")]


def build(encoder: str, decoder: str = "light", *, seed: int = 0, **options: int | float) -> SegmentationModel:
    torch.manual_seed(seed)
    options = {"classes": 4, "decoder_channels": 8, **options}
    return create_model(encoder, decoder, **options)


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_every_pair_learns_at_odd_sizes_with_one_image(encoder: str, decoder: str) -> None:
    model = build(encoder, decoder, bands=5).train()
    logits = model(images(1, 5, 37, 50))
    assert logits.shape == (1, 4, 37, 50)
    logits.square().mean().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert untouched == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_every_pair_is_rebuilt_from_its_architecture(encoder: str, decoder: str) -> None:
    model = build(encoder, decoder).eval()
    again = create_model(**json.loads(json.dumps(model.architecture))).eval()
    again.load_state_dict(model.state_dict())
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("encoder", [*ENCODERS, "hrnet_w18_small"])
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


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_any_number_of_bands(bands: int) -> None:
    model = build("convnext_atto", bands=bands).eval()
    with torch.no_grad():
        assert model(images(1, bands, 32, 32)).shape == (1, 4, 32, 32)


@pytest.mark.parametrize("encoder", ["resnet10t", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (33, 16)])
def test_tiny_and_narrow_images(encoder: str, size: tuple[int, int]) -> None:
    model = build(encoder, "upernet").eval()
    with torch.no_grad():
        logits = model(images(1, 3, *size))
    assert logits.shape == (1, 4, *size)
    assert bool(torch.isfinite(logits).all())


def test_a_batch_of_one_trains_on_a_map_of_one_pixel() -> None:
    model = build("convnext_atto", "upernet").train()
    before = model.decoder.pools[0][1][1].running_mean.clone()
    model(images(1, 3, 32, 32)).sum().backward()
    assert torch.equal(model.decoder.pools[0][1][1].running_mean, before)


def test_position_embeddings_follow_the_image() -> None:
    model = build("vit_tiny_patch16_224", image_size=64).eval()
    assert model.encoder.body.pos_embed.shape == (1, 1 + 4 * 4, 192)
    with torch.no_grad():
        assert model(images(1, 3, 96, 80)).shape == (1, 4, 96, 80)


def test_channels_last_and_bf16() -> None:
    model = build("resnet10t", "upernet").eval()
    x = images(2, 3, 50, 64)
    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low, embedding = model.forward_with_embedding(x)
    assert embedding.dtype == torch.float32
    assert (low.float() - expected).abs().max() < 0.1 * expected.abs().max()


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


def test_swin_maps_come_channels_first() -> None:
    # The one family of timm whose maps are channels-last.
    model = build("swin_tiny_patch4_window7_224").eval()
    with torch.no_grad():
        assert [m.shape[1] for m in model.features(images(1, 3, 64, 64))] == [96, 192, 384, 768]


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
