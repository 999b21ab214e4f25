import math

import numpy as np
import pytest
import torch
from torch import nn

from s5.models import create_model
from s5.selection import ScoringConfig, embed_tiles, score_tiles, tile_statistics
from s5.types import BandStatistics, LabelSpace

LABELS = LabelSpace(("field", "forest", "water"), background="water")
STATISTICS = BandStatistics(("red", "nir"), (0.0, 0.0), (255.0, 255.0), (0.5, 0.4), (0.2, 0.3))
COLUMNS = ["tile_id", "entropy", "confidence", "valid_share", "share_field", "share_forest", "share_water"]


class Tiles:
    """Random tiles; every third has a stripe without data, and tile 4 has no data at all."""

    def __init__(self, num: int, dtype: type = np.uint8) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, size=(num, 2, 16, 16)).astype(dtype)
        self.valid = np.ones((num, 16, 16), dtype=bool)
        self.valid[::3, :4] = False
        self.valid[4:5] = False
        self.tile_ids = [f"scene:{i}" for i in range(num)]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.images[index], np.full((16, 16), 255, dtype=np.uint8), self.valid[index]


class TinyNet(nn.Module):
    """A linear head on each pixel, and the mean of the normalised bands as embedding."""

    def __init__(self, classes: int = 3, factor: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, classes, 1)
        self.dropout = nn.Dropout(0.5)
        self.factor = factor
        self.passes = 0
        self.sizes: list[int] = []
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, 2, 1, 1, generator=torch.Generator().manual_seed(0)))

    def forward_with_embedding(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.passes += 1
        self.sizes.append(len(x))
        return self.head(self.dropout(x)), self.embed(x)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=(2, 3)) * self.factor


def normalised(tiles: Tiles) -> torch.Tensor:
    mean, std = np.array(STATISTICS.mean)[:, None, None], np.array(STATISTICS.std)[:, None, None]
    return torch.from_numpy((tiles.images / 255.0 - mean) / std).float()


def config(**changes) -> ScoringConfig:
    return ScoringConfig(**{"batch_size": 4, "device": "cpu", "precision": "fp32", **changes})


@pytest.mark.parametrize("classes", ["all", "foreground", "foreground_renormalised"])
def test_scores_are_those_of_one_tile_after_the_other(classes):
    tiles, model = Tiles(10), TinyNet()
    scores, embeddings = score_tiles(model, tiles, STATISTICS, LABELS, config(classes=classes))
    assert list(scores) == COLUMNS
    assert scores["tile_id"].tolist() == tiles.tile_ids
    assert (scores.dtypes.iloc[1:] == np.float32).all()
    images = normalised(tiles)
    for index in range(10):
        logits = nn.functional.conv2d(images[index : index + 1], model.head.weight, model.head.bias)
        valid = torch.from_numpy(tiles.valid[index : index + 1])
        expected = tile_statistics(logits, valid, classes=classes, background_index=2)
        row = scores.iloc[index]
        assert row["entropy"] == pytest.approx(float(expected.entropy), abs=1e-5, nan_ok=True)
        assert row["confidence"] == pytest.approx(float(expected.confidence), abs=1e-5, nan_ok=True)
        assert row["valid_share"] == tiles.valid[index].mean()
        np.testing.assert_allclose(row.iloc[4:].to_numpy(dtype=float), expected.shares[0].detach(), atol=5e-3)
    assert math.isnan(scores["entropy"][4])
    assert embeddings.dtype == np.float16
    np.testing.assert_allclose(embeddings, images.mean(dim=(2, 3)).numpy(), atol=2e-3)


def test_one_forward_pass_a_batch_and_batches_cut_by_index():
    model = TinyNet()
    score_tiles(model, Tiles(10), STATISTICS, LABELS, config())
    assert model.sizes == [4, 4, 2]


def test_the_network_is_left_as_it_was():
    model = TinyNet().train()
    first, _ = score_tiles(model, Tiles(5), STATISTICS, LABELS, config())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    again, _ = score_tiles(model.eval(), Tiles(5), STATISTICS, LABELS, config())
    assert not model.training
    assert first.equals(again)  # dropout was off


def test_labelled_tiles_are_embedded_like_unlabelled_ones():
    _, embeddings = score_tiles(TinyNet(), Tiles(7), STATISTICS, LABELS, config())
    np.testing.assert_array_equal(embed_tiles(TinyNet(), Tiles(7), STATISTICS, config()), embeddings)


def test_no_tiles_give_empty_tables():
    scores, embeddings = score_tiles(TinyNet(), Tiles(0), STATISTICS, LABELS, config())
    assert list(scores) == COLUMNS
    assert len(scores) == len(embeddings) == len(embed_tiles(TinyNet(), Tiles(0), STATISTICS, config())) == 0


def test_an_embedding_too_large_for_float16_keeps_its_direction():
    tiles = Tiles(3)
    plain, huge = (embed_tiles(TinyNet(factor=f), tiles, STATISTICS, config()) for f in (1.0, 1e7))
    assert np.isfinite(huge).all()
    plain, huge = plain.astype(np.float64), huge.astype(np.float64)
    cosines = (plain * huge).sum(axis=1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(huge, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_real_network(precision, dtype):
    torch.manual_seed(0)
    model = create_model("resnet10t", "light", classes=3, bands=2, decoder_channels=16)
    tiles = Tiles(5, dtype)
    scores, embeddings = score_tiles(model, tiles, STATISTICS, LABELS, config(precision=precision))
    with torch.inference_mode():
        logits, embedding = model.eval().forward_with_embedding(normalised(tiles))
    expected = tile_statistics(logits, torch.from_numpy(tiles.valid))
    tolerance = 1e-4 if precision == "fp32" else 0.02
    np.testing.assert_allclose(scores["entropy"], expected.entropy, atol=tolerance)
    cosines = torch.cosine_similarity(torch.from_numpy(embeddings).float(), embedding)
    np.testing.assert_allclose(cosines, 1, atol=tolerance)


def test_a_network_with_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"the network has 5 classes but the dataset has 3"):
        score_tiles(TinyNet(classes=5), Tiles(2), STATISTICS, LABELS, config())


def test_a_foreground_needs_a_background_before_anything_is_read():
    model = TinyNet()
    with pytest.raises(ValueError, match="'background' in the dataset card"):
        score_tiles(model, Tiles(2), STATISTICS, LabelSpace(("a", "b", "c")), config(classes="foreground"))
    assert model.passes == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("classes", "fg"),
        ("device", "tpu"),
        ("precision", "fp8"),
        ("threads", -1),
    ],
)
def test_settings_out_of_range_name_the_key(key, value):
    with pytest.raises(ValueError, match=key):
        ScoringConfig(**{key: value})
