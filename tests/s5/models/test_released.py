"""S5's released layouts: outputs of the original code, whole networks out of a file alone, and the way back.

The golden files were made with S5's released network code at a tiny size with random weights.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from s5.models import (
    EncoderModel,
    MultiDatasetModel,
    SegmentationModel,
    create_model,
    create_multi_model,
    export_released,
    from_released,
    load_model,
    load_multi_model,
    load_weights,
    save_model,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "s5_checkpoints"
UPERNET, ENCODER, MOE = (GOLDEN / f"tiny_vit_{n}.pth" for n in ("s4p_upernet", "s4p", "moe_mdf"))
DATASETS = {"vaihingen": 5, "potsdam": 5, "OpenEarthMap": 9, "loveda": 7}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "tiny_vit_golden.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def moe_golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "tiny_vit_moe_golden.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def assert_golden(found: Tensor, reference: Tensor) -> None:
    assert found.shape == reference.shape
    assert float((found - reference).abs().max()) <= 1e-5 * max(1.0, float(reference.abs().max()))


def released(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["model"]


@torch.no_grad()
def test_the_dense_network_gives_the_original_features_and_logits(golden: dict[str, Tensor]) -> None:
    model = from_released(UPERNET, num_heads=4, out_indices=[0, 1, 2, 3])
    assert isinstance(model, SegmentationModel)
    for level, found in enumerate(model.features(golden["image"])):
        assert_golden(found, golden[f"feature_{level}"])
    assert_golden(model(golden["image"]), golden["logits"])


@torch.no_grad()
def test_the_encoder_alone_gives_the_original_features(golden: dict[str, Tensor]) -> None:
    model = from_released(ENCODER, num_heads=4)  # four blocks: the evenly spaced taps are 0, 1, 2, 3
    assert isinstance(model, EncoderModel)
    for level, found in enumerate(model.features(golden["image"])):
        assert_golden(found, golden[f"feature_{level}"])


@torch.no_grad()
def test_experts_give_the_original_logits_for_every_data_set(moe_golden: dict[str, Tensor]) -> None:
    image = moe_golden["image"]
    whole = from_released(MOE, num_heads=4)
    assert isinstance(whole, MultiDatasetModel)
    assert whole.datasets == DATASETS
    assert list(whole.datasets) == list(DATASETS)
    for task in DATASETS:
        assert_golden(whole(image, task), moe_golden[f"logits_{task}"])
        alone = from_released(MOE, num_heads=4, task=task)
        assert isinstance(alone, SegmentationModel)
        assert_golden(alone(image), moe_golden[f"logits_{task}"])


@pytest.mark.parametrize("path", [UPERNET, ENCODER, MOE], ids=["upernet", "encoder", "moe"])
def test_what_was_read_is_written_back_tensor_for_tensor(path: Path, tmp_path: Path) -> None:
    export_released(from_released(path, num_heads=4), tmp_path / "back.pth")
    before, after = released(path), released(tmp_path / "back.pth")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def test_a_network_of_this_project_survives_their_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"width": 24, "depth": 5, "heads": 3, "taps": [1, 2, 3, 4], "mlp_ratio": 2.0}
    ours = create_model("s5_vit", classes=3, bands=4, decoder_channels=8, image_size=48, encoder_options=options).eval()
    export_released(ours, tmp_path / "ours.pth")
    names = released(tmp_path / "ours.pth").keys()
    original = {n.replace("layers.3", "layers.4") for n in released(UPERNET)} | set(released(UPERNET))
    assert set(names) == original  # what S5's strict loading wants to find, unused tensors among it
    again = from_released(tmp_path / "ours.pth", num_heads=3, out_indices=[1, 2, 3, 4])
    x = torch.randn(1, 4, 48, 48)
    torch.testing.assert_close(again(x), ours(x), rtol=0, atol=0)
    # the same from a file of this project, through its own format
    save_model(again, tmp_path / "again.safetensors", metadata={})
    torch.testing.assert_close(load_model(tmp_path / "again.safetensors")[0](x), ours(x), rtol=0, atol=0)


@torch.no_grad()
def test_several_data_sets_survive_this_projects_format(moe_golden: dict[str, Tensor], tmp_path: Path) -> None:
    whole = from_released(MOE, num_heads=4)
    assert isinstance(whole, MultiDatasetModel)
    save_model(whole, tmp_path / "multi.safetensors", metadata={})
    again, _ = load_multi_model(tmp_path / "multi.safetensors")
    dense, _ = load_model(tmp_path / "multi.safetensors", task="loveda")
    image = moe_golden["image"]
    torch.testing.assert_close(again(image, "loveda"), whole(image, "loveda"), rtol=0, atol=0)
    assert_golden(dense(image), moe_golden["logits_loveda"])
    with pytest.raises(ValueError, match=r"for the data sets \['vaihingen', .*; say which with task="):
        load_model(tmp_path / "multi.safetensors")


@torch.no_grad()
def test_other_image_sizes_than_the_trained_one(golden: dict[str, Tensor]) -> None:
    model = from_released(UPERNET, num_heads=4)
    assert isinstance(model, SegmentationModel)
    for size in [(40, 72), (128, 64), (16, 16)]:
        assert model(torch.randn(1, 3, *size)).shape == (1, 16, *size)


def test_heads_are_the_papers_by_width_and_must_be_given_otherwise() -> None:
    with pytest.raises(
        ValueError, match=r"a width of 32 is none of the papers' \(\[768, 1024, 1280\]\), so give num_heads"
    ):
        from_released(UPERNET)


@torch.no_grad()
def test_the_papers_sizes_need_the_file_alone(tmp_path: Path) -> None:
    # One block of ViT-B's width stands for the whole: 768 has 12 heads. The reference is torch's own attention.
    torch.manual_seed(0)
    ours = create_model(
        "s5_vit", classes=2, decoder_channels=4, image_size=32, encoder_options={"width": 768, "depth": 4, "heads": 12}
    ).eval()
    export_released(ours, tmp_path / "b.pth")
    model = from_released(tmp_path / "b.pth")
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model(x), ours(x), rtol=0, atol=0)
    attention = torch.nn.MultiheadAttention(768, 12, batch_first=True)
    state = {k.removeprefix("module.encoder.layers.0.attn.attn."): v for k, v in released(tmp_path / "b.pth").items()}
    attention.load_state_dict({k: v for k, v in state.items() if k in attention.state_dict()})
    tokens = torch.randn(1, 4, 768)
    torch.testing.assert_close(
        model.encoder.body.blocks[0].attn(tokens, (2, 2)), attention(tokens, tokens, tokens)[0], rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_load_weights_into_networks_of_create_model(golden: dict[str, Tensor], moe_golden: dict[str, Tensor]) -> None:
    sizes = {"width": 32, "depth": 4, "heads": 4}
    model = create_model("s5_vit", classes=16, decoder_channels=16, image_size=64, encoder_options=sizes).eval()
    report = load_weights(model, UPERNET)
    assert_golden(model(golden["image"]), golden["logits"])
    assert report.loaded == {
        "encoder": 3 + 4 * 12,  # patch weight and bias, positions; 4 tensors each of norms, attention, feed-forward
        "neck": 8,
        "decoder": 12 * 6,  # 12 convolutions, each with a norm of 5
        "head": 2,
    }
    assert report.left == {("others", "no network of this project has a place for them"): 3}
    assert str(report).splitlines()[0] == f"{UPERNET}: S5's release, one data set"

    other = create_model("s5_vit", classes=5, decoder_channels=16, image_size=64, encoder_options=sizes).eval()
    before = {k: v.clone() for k, v in other.head.state_dict().items()}
    report = load_weights(other, UPERNET)
    assert all(torch.equal(v, before[k]) for k, v in other.head.state_dict().items())
    assert report.left["head", "1.weight is of another shape"] == 2
    assert report.untouched == ["head"]

    load_weights(other, MOE, task="potsdam")
    assert_golden(other(moe_golden["image"]), moe_golden["logits_potsdam"])
    with pytest.raises(
        ValueError, match=r"the file holds the data sets \['vaihingen', .*say which with task=.*got None"
    ):
        load_weights(other, MOE)


@torch.no_grad()
def test_load_weights_into_a_network_of_several_data_sets(
    golden: dict[str, Tensor], moe_golden: dict[str, Tensor]
) -> None:
    options = {"decoder_channels": 16, "image_size": 64, "encoder_options": {"width": 32, "depth": 4, "heads": 4}}
    # Fewer of them and in another order: experts go by name.
    some = create_multi_model("s5_vit", datasets={"loveda": 7, "potsdam": 5}, part_features=8, **options).eval()
    report = load_weights(some, MOE)
    for task in ("loveda", "potsdam"):
        assert_golden(some(moe_golden["image"], task), moe_golden[f"logits_{task}"])
    assert {what for what, _ in report.left} >= {"data set vaihingen", "data set OpenEarthMap"}
    # A dense file starts every data set.
    fresh = create_multi_model("s5_vit", datasets={"town": 16, "fields": 16}, part_features=8, **options).eval()
    load_weights(fresh, UPERNET)
    for task in ("town", "fields"):
        assert_golden(fresh(golden["image"], task), golden["logits"])
    with pytest.raises(ValueError, match=r"no expert for the data sets \['town', 'fields'\], only for \['vaihingen'"):
        load_weights(fresh, MOE)


@torch.no_grad()
def test_positions_of_another_image_size_are_resampled() -> None:
    sizes = {"width": 32, "depth": 4, "heads": 4}
    model = create_model("s5_vit", classes=16, decoder_channels=16, image_size=96, encoder_options=sizes)
    load_weights(model, UPERNET)
    theirs = released(UPERNET)["module.encoder.pos_embed"].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(theirs, (6, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(model.encoder.body.pos_embed, expected.permute(0, 2, 3, 1).reshape(1, 36, 32))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this code ran",)


def test_files_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.pth").write_bytes(UPERNET.read_bytes()[:200_000])
    with pytest.raises(ValueError, match=r"cut\.pth: "):
        from_released(tmp_path / "cut.pth", num_heads=4)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pth: the file holds more than tensors.* could run code"):
        from_released(tmp_path / "evil.pth", num_heads=4)
    torch.save({"model": released(UPERNET), "more": Evil()}, tmp_path / "evil2.pth")
    with pytest.raises(ValueError, match="could run code"):
        from_released(tmp_path / "evil2.pth", num_heads=4)
    assert "this code ran" not in capsys.readouterr().out

    state = released(UPERNET)
    broken = {**state, "module.encoder.layers.2.ln1.bias": torch.full((32,), torch.nan)}
    torch.save({"model": broken}, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"nan\.pth: module\.encoder\.layers\.2\.ln1\.bias holds NaN"):
        from_released(tmp_path / "nan.pth", num_heads=4)

    wrong = {**state, "module.encoder.layers.2.ln1.bias": torch.zeros(31)}
    torch.save({"model": wrong}, tmp_path / "wrong.pth")
    with pytest.raises(
        ValueError, match=r"wrong\.pth: .*1 of another shape \(e\.g\. blocks\.2\.norm1\.bias \(31,\) for \(32,\)"
    ):
        from_released(tmp_path / "wrong.pth", num_heads=4)

    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match="expected one of S5's released layouts, found an encoder"):
        from_released(tmp_path / "linear.pth", num_heads=4)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 32"):
        from_released(UPERNET, num_heads=5)
    with pytest.raises(ValueError, match=r"taps must be four blocks in 0\.\.3, got \[0, 1, 2, 4\]"):
        from_released(UPERNET, num_heads=4, out_indices=[0, 1, 2, 4])
    with pytest.raises(ValueError, match="got task 'isprs'"):
        from_released(MOE, num_heads=4, task="isprs")
    with pytest.raises(ValueError, match="holds an encoder alone"):
        from_released(ENCODER, num_heads=4, task="potsdam")


def test_only_s5s_network_has_names_in_their_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="S5's layout has no name for encoder"):
        export_released(create_model("resnet10t", classes=2, decoder_channels=4), tmp_path / "no.pth")
    assert not (tmp_path / "no.pth").exists()
