import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from s5.selection.entropy import check_entropy_classes, pixel_entropy, tile_statistics

CHOICES = ["all", "foreground", "foreground_renormalised"]


def all_valid(logits: torch.Tensor) -> torch.Tensor:
    return torch.ones(logits.shape[0], *logits.shape[2:], dtype=torch.bool)


def expected_entropy(logits: np.ndarray, valid: np.ndarray, classes: str, background: int) -> float:
    """Pixel by pixel, with scipy."""
    num_classes = logits.shape[0]
    values = []
    for row, col in zip(*np.nonzero(valid), strict=True):
        p = softmax(logits[:, row, col].astype(np.float64))
        if classes == "all":
            values.append(scipy_entropy(p) / math.log(num_classes))
        elif classes == "foreground":
            terms = [-q * math.log(q) for k, q in enumerate(p) if k != background and q > 0]
            values.append(sum(terms) / math.log(num_classes))
        else:
            foreground = softmax(np.delete(logits[:, row, col].astype(np.float64), background))
            values.append(scipy_entropy(foreground) / math.log(num_classes - 1))
    return float(np.mean(values))


@pytest.mark.parametrize("num_classes", [2, 3, 16])
def test_uniform_probabilities_have_entropy_one(num_classes):
    logits = torch.full((2, num_classes, 4, 5), 3.25)
    torch.testing.assert_close(pixel_entropy(logits, all_valid(logits)), torch.ones(2))


def test_uniform_probabilities_in_the_foreground():
    logits = torch.zeros(1, 5, 3, 3)
    # 4 of 5 equal terms are left, over log 5; among the 4 alone the distribution is uniform
    literal = pixel_entropy(logits, all_valid(logits), classes="foreground", background_index=2)
    renormalised = pixel_entropy(logits, all_valid(logits), classes="foreground_renormalised", background_index=2)
    torch.testing.assert_close(literal, torch.tensor([0.8]))
    torch.testing.assert_close(renormalised, torch.tensor([1.0]))


@pytest.mark.parametrize("height", [50.0, 1e4, 1e30])
@pytest.mark.parametrize("classes", CHOICES)
def test_certain_pixels_have_entropy_zero(height, classes):
    logits = torch.zeros(1, 4, 2, 2)
    logits[:, 1] = height
    found = pixel_entropy(logits, all_valid(logits), classes=classes, background_index=0)
    torch.testing.assert_close(found, torch.zeros(1), atol=1e-6, rtol=0)


def test_a_certain_background_is_where_the_two_foregrounds_differ():
    logits = torch.zeros(1, 4, 2, 2)
    logits[:, 0] = 1000.0
    for classes, expected in (("all", 0.0), ("foreground", 0.0), ("foreground_renormalised", 1.0)):
        statistics = tile_statistics(logits, all_valid(logits), classes=classes, background_index=0)
        torch.testing.assert_close(statistics.entropy, torch.tensor([expected]))
        torch.testing.assert_close(statistics.confidence, torch.ones(1))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(3, 7),
    spread=st.sampled_from([0.1, 1.0, 8.0, 60.0]),
    classes=st.sampled_from(CHOICES),
    channels_last=st.booleans(),
)
def test_agrees_with_scipy(seed, num_classes, spread, classes, channels_last):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.normal(size=(2, num_classes, 3, 4))).astype(np.float32)
    valid = rng.random((2, 3, 4)) < 0.7
    valid[:, 0, 0] = True
    background = int(rng.integers(num_classes))
    tensor = torch.from_numpy(logits)
    tensor = tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor
    found = tile_statistics(tensor, torch.from_numpy(valid), classes=classes, background_index=background)
    for tile in range(2):
        expected = expected_entropy(logits[tile], valid[tile], classes, background)
        assert float(found.entropy[tile]) == pytest.approx(expected, abs=2e-6)
        probabilities = softmax(logits[tile].astype(np.float64), axis=0)
        assert float(found.confidence[tile]) == pytest.approx(probabilities.max(axis=0)[valid[tile]].mean(), abs=2e-6)
        votes = np.bincount(logits[tile].argmax(axis=0)[valid[tile]], minlength=num_classes)
        np.testing.assert_allclose(found.shares[tile].numpy(), votes / votes.sum(), atol=1e-6)
        assert float(found.valid_share[tile]) == pytest.approx(valid[tile].mean())


def test_stays_in_the_unit_interval_for_the_literal_foreground_of_few_classes():
    grid = torch.linspace(-6, 6, 241)
    for num_classes in (2, 3):
        logits = torch.zeros(1, num_classes, 1, 241)
        logits[:, 0] = grid
        found = tile_statistics(
            logits.movedim(3, 0).reshape(241, num_classes, 1, 1),
            torch.ones(241, 1, 1, dtype=torch.bool),
            classes="foreground",
            background_index=0,
        ).entropy
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1


def test_pixels_without_data_do_not_count():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0, 0] = 100.0
    valid = all_valid(logits)
    assert float(pixel_entropy(logits, valid)) == pytest.approx(0.5)
    valid[0, 1] = False
    assert float(pixel_entropy(logits, valid)) == pytest.approx(0.0)
    logits[0, :, 1] = math.nan
    assert float(pixel_entropy(logits, valid)) == pytest.approx(0.0)


def test_a_tile_without_a_valid_pixel_is_nan_and_leaves_the_others_alone():
    logits = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    valid = all_valid(logits)
    valid[1] = False
    found = tile_statistics(logits, valid)
    assert found.entropy.isnan().tolist() == [False, True, False]
    assert found.confidence.isnan().tolist() == [False, True, False]
    assert found.shares.isnan().all(dim=1).tolist() == [False, True, False]
    assert found.valid_share.tolist() == [1.0, 0.0, 1.0]


def test_a_network_that_diverged_gives_nan():
    logits = torch.zeros(3, 3, 2, 2)
    logits[0, 1, 0, 0] = math.nan
    logits[1, 1, 0, 0] = math.inf
    assert pixel_entropy(logits, all_valid(logits)).isnan().tolist() == [True, True, False]


def test_an_impossible_class_adds_nothing():
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 2] = -math.inf
    assert float(pixel_entropy(logits, all_valid(logits))) == pytest.approx(math.log(2) / math.log(3))


def test_of_equal_logits_the_first_class_has_the_vote():
    logits = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    assert tile_statistics(logits, all_valid(logits)).shares.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("classes", CHOICES)
def test_half_precision_logits_are_computed_in_float32(classes):
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = pixel_entropy(logits, all_valid(logits), classes=classes, background_index=0)
    same = pixel_entropy(logits.float(), all_valid(logits), classes=classes, background_index=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, same)


def test_a_tile_does_not_depend_on_its_batch():
    logits = torch.randn(4, 5, 6, 6, generator=torch.Generator().manual_seed(3))
    before = logits.clone()
    together = pixel_entropy(logits, all_valid(logits))
    apart = torch.cat([pixel_entropy(tile[None], all_valid(tile[None])) for tile in logits])
    assert torch.equal(together, apart)
    assert torch.equal(logits, before)


def test_an_empty_batch_has_empty_statistics():
    found = tile_statistics(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4, dtype=torch.bool))
    assert found.entropy.shape == (0,)
    assert found.shares.shape == (0, 3)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected logits \[B, K, H, W\]"):
        pixel_entropy(torch.zeros(1, 3, 4, 4), torch.ones(1, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ("classes", "num_classes", "background", "message"),
    [
        ("some", 3, 0, "expected one of"),
        ("foreground", 3, None, "'background' in the dataset card"),
        ("foreground_renormalised", 3, None, "'background' in the dataset card"),
        ("foreground", 3, 3, r"expected a class in 0\.\.2"),
        ("foreground_renormalised", 2, 0, "two foreground classes"),
    ],
)
def test_choices_that_cannot_be_answered_are_refused(classes, num_classes, background, message):
    with pytest.raises(ValueError, match=message):
        check_entropy_classes(classes, num_classes, background)
