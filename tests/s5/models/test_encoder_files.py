"""Encoder weights from local files: what fits is loaded exactly, what does not is refused with counts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from s5.models import create_encoder, create_model, load_weights, save_model
from s5.models.vit import PlainViT


def timm_weights(name: str, seed: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False).state_dict()


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_timms_own_files_fit(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(7)
    whole = timm.create_model(name, pretrained=False).eval()
    safetensors.torch.save_file(whole.state_dict(), path)
    encoder = create_encoder(name, weights=path).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        deepest = encoder(x)[-1]
        # timm's own features of the whole network are the oracle.
        expected = whole.forward_intermediates(x, indices=1, norm=False, intermediates_only=True)[-1]
    torch.testing.assert_close(deepest, expected)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3}]
)
def test_pth_files_and_wrapped_ones(wrap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = timm_weights("resnet10t")
    torch.save(wrap(state), tmp_path / "weights.pth")
    encoder = create_encoder("resnet10t", weights=str(tmp_path / "weights.pth"))
    for name, value in encoder.body.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_this_projects_models_give_their_encoder(tmp_path: Path) -> None:
    model = create_model("convnext_atto", "light", classes=2, decoder_channels=4)
    save_model(model, tmp_path / "model.safetensors", metadata={})
    encoder = create_encoder("convnext_atto", weights=tmp_path / "model.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name


def test_a_three_band_stem_is_adapted(tmp_path: Path) -> None:
    state = timm_weights("resnet10t")
    torch.save(state, tmp_path / "weights.pth")
    encoder = create_encoder("resnet10t", bands=1, weights=tmp_path / "weights.pth")
    torch.testing.assert_close(
        encoder.body.state_dict()["conv1.0.weight"], state["conv1.0.weight"].sum(1, keepdim=True)
    )


def test_another_networks_file_is_refused_with_counts(tmp_path: Path) -> None:
    torch.save(timm_weights("resnet18"), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match=r"r18\.pth: not the weights of encoder 'resnet10t': an encoder; \d+ of \d+ "):
        create_encoder("resnet10t", weights=tmp_path / "r18.pth")


VIT = {"width": 24, "depth": 4, "heads": 3}
TIMM_VIT = {"embed_dim": 24, "depth": 4, "num_heads": 3, "img_size": 64}


def plain_vit(**options: int) -> PlainViT:
    body = create_encoder("s5_vit", options=VIT, image_size=64, **options).body
    assert isinstance(body, PlainViT)
    return body


@torch.no_grad()
def test_a_masked_autoencoder_starts_s5s_vit(tmp_path: Path) -> None:
    # MAE's layout is timm's ViT with a class token, beside a decoder that is left out. The oracle is timm's own ViT
    # whose class token is cut off by a network without one.
    torch.manual_seed(0)
    whole = timm.models.vision_transformer.VisionTransformer(
        **TIMM_VIT, class_token=False, global_pool="", norm_layer=torch.nn.LayerNorm
    )
    state = whole.state_dict()
    grid = state.pop("pos_embed")
    file = {
        **{k: v for k, v in state.items() if not k.startswith("head.")},
        "pos_embed": torch.cat([torch.randn(1, 1, 24), grid], dim=1),
        "cls_token": torch.randn(1, 1, 24),
        "mask_token": torch.randn(1, 1, 8),
        "decoder_embed.weight": torch.randn(8, 24),
        "decoder_blocks.0.norm1.weight": torch.randn(8),
    }
    torch.save({"model": file, "epoch": 1599}, tmp_path / "mae.pth")
    model = create_model("s5_vit", classes=2, decoder_channels=4, image_size=64, encoder_options=VIT).eval()
    report = load_weights(model, tmp_path / "mae.pth")
    assert report.layout == "a masked autoencoder"
    assert report.loaded == {"encoder": 3 + 4 * 12}
    assert report.left == {
        ("class token", "S5's network has none"): 1,
        ("encoder", "heads and others that the encoder does not have"): 6,  # class, mask, 2 of the norm, 2 of a decoder
    }
    assert report.untouched == ["neck", "decoder", "head"]
    x = torch.randn(1, 3, 64, 64)
    expected = whole.eval().forward_intermediates(x, indices=[0, 1, 2, 3], norm=False, intermediates_only=True)
    for ours, theirs in zip(model.encoder(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_dinov2_starts_s5s_vit_with_its_layer_scales_folded_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.models.vision_transformer.VisionTransformer(
        **TIMM_VIT, class_token=False, global_pool="", init_values=0.3, norm_layer=torch.nn.LayerNorm
    )
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in whole.state_dict().items()}
    whole.load_state_dict(state)
    torch.save({**state, "mask_token": torch.zeros(1, 24)}, tmp_path / "dinov2.pth")
    model = create_model("s5_vit", classes=2, decoder_channels=4, image_size=64, encoder_options=VIT).eval()
    assert load_weights(model, tmp_path / "dinov2.pth").layout == "DINOv2"
    x = torch.randn(1, 3, 64, 64)
    expected = whole.eval().forward_intermediates(x, indices=[3], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(model.encoder(x)[-1], expected, rtol=1e-4, atol=1e-4)


def test_patches_and_positions_of_another_size_are_resampled(tmp_path: Path) -> None:
    # Patches of one value stay of one value times the same sum over the patch for a flat image.
    whole = timm.models.vision_transformer.VisionTransformer(
        **{**TIMM_VIT, "img_size": 56}, patch_size=14, class_token=False, global_pool=""
    )
    torch.save(whole.state_dict(), tmp_path / "14.pth")
    body = create_encoder("s5_vit", options=VIT, image_size=64, weights=tmp_path / "14.pth").body
    with torch.no_grad():
        flat14, flat16 = (
            whole.patch_embed.proj(torch.ones(1, 3, 14, 14)),
            body.patch_embed.proj(torch.ones(1, 3, 16, 16)),
        )
    torch.testing.assert_close(flat14, flat16, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_dinov3_and_clip_go_into_timms_networks(tmp_path: Path) -> None:
    # Meta's and OpenAI's own names, written here from timm's networks: timm's filters read them back.
    torch.manual_seed(0)
    name = "vit_small_patch16_dinov3"
    state = timm.create_model(name, pretrained=False).state_dict()
    renamed = {
        k.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("reg_token", "storage_tokens"): v
        for k, v in state.items()
    }
    renamed["rope_embed.periods"] = torch.zeros(16)
    renamed["mask_token"] = torch.zeros(1, 384)
    torch.save(renamed, tmp_path / "dinov3.pth")
    body = create_encoder(name, weights=tmp_path / "dinov3.pth").body.state_dict()
    for key in ("cls_token", "reg_token", "blocks.11.gamma_1", "blocks.0.attn.qkv.weight"):
        assert torch.equal(body[key], state[key]), key

    name = "vit_base_patch32_clip_224"
    state = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    clip = {f"visual.{clip_name(k)}": v for k, v in state.items() if not k.startswith("head.")}
    clip["visual.class_embedding"] = state["cls_token"][0, 0]
    clip["visual.positional_embedding"] = state["pos_embed"][0]
    clip["token_embedding.weight"] = torch.zeros(4, 4)
    clip["visual.proj"] = torch.zeros(768, 512)
    torch.save(clip, tmp_path / "clip.pt")
    body = create_encoder(name, weights=tmp_path / "clip.pt").body.state_dict()
    for key in ("cls_token", "pos_embed", "norm_pre.weight", "blocks.11.mlp.fc2.bias", "blocks.0.attn.qkv.weight"):
        assert torch.equal(body[key], state[key]), key


def clip_name(name: str) -> str:
    for ours, theirs in {
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "norm.": "ln_post.",
        "blocks.": "transformer.resblocks.",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }.items():
        name = name.replace(ours, theirs)
    return name


@torch.no_grad()
def test_efficientnet_pytorchs_own_names(tmp_path: Path) -> None:
    # Its blocks are numbered through: _blocks.0._depthwise_conv, _bn1, _project_conv, _bn2, _blocks.1._expand_conv, ...
    torch.manual_seed(0)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    inner = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
    theirs, flat = {}, {}
    for name, tensor in whole.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            number = flat.setdefault((parts[1], parts[2]), len(flat))
            norm = f"_{parts[3][:2]}{int(parts[3][2]) - (number > 0)}" if parts[3].startswith("bn") else ""
            theirs[f"_blocks.{number}.{inner.get(parts[3], norm)}.{parts[4]}"] = tensor
        else:
            theirs[".".join([names[parts[0]], *parts[1:]])] = tensor
    torch.save(theirs, tmp_path / "lite0.pth")
    x = torch.randn(1, 3, 64, 64)
    encoder = create_encoder("tf_efficientnet_lite0", weights=tmp_path / "lite0.pth").eval()
    expected = whole.forward_intermediates(x, indices=[-1], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(encoder(x)[-1], expected)
    with pytest.raises(ValueError, match=r"EfficientNet-PyTorch; .*of another shape"):
        create_encoder("tf_efficientnet_lite1", weights=tmp_path / "lite0.pth")


def test_a_hub_id_is_fetched_and_a_typo_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(repo: str, name: str) -> str:
        asked.append((repo, name))
        if name != "weights.pth":
            raise OSError("offline")
        torch.save(timm_weights("resnet10t"), tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    create_encoder("resnet10t", weights="org/net:weights.pth")
    with pytest.raises(FileNotFoundError, match=r"org/net: nothing could be fetched .*model\.safetensors: OSError"):
        create_encoder("resnet10t", weights="org/net")
    assert asked[0] == ("org/net", "weights.pth")
    assert [name for _, name in asked[1:]] == ["model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin"]
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        create_encoder("resnet10t", weights="folder/file.pth")  # a path that is missing is not asked for anywhere
    assert len(asked) == 4


def test_s5s_vit_refuses_what_it_cannot_be(tmp_path: Path) -> None:
    torch.save(
        timm.create_model("vit_small_patch16_dinov3", pretrained=False).state_dict()
        | {"rope_embed.periods": torch.zeros(1)},
        tmp_path / "v3.pth",
    )
    with pytest.raises(ValueError, match=r"not the weights of encoder 's5_vit': DINOv3; .*missing"):
        create_encoder("s5_vit", options=VIT, weights=tmp_path / "v3.pth")


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        create_encoder("resnet10t", weights=tmp_path / "none.pth")
    state = timm_weights("resnet10t")
    state["bn1.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"nan\.pth: bn1\.bias holds NaN"):
        create_encoder("resnet10t", weights=tmp_path / "nan.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "nan.pth").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pth: "):
        create_encoder("resnet10t", weights=tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a whole safetensors file"):
        create_encoder("resnet10t", weights=tmp_path / "cut.safetensors")
    torch.save({"epoch": 3, "model": [1, 2]}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="expected a state dict of tensors, found none"):
        create_encoder("resnet10t", weights=tmp_path / "empty.pth")


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was_run"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pth", "old.pth"):
        with pytest.raises(ValueError, match=rf"{name}: the file holds more than tensors"):
            create_encoder("resnet10t", weights=tmp_path / name)
    assert not (tmp_path / "was_run").exists()
