"""The confusion matrix and its scores, with torchmetrics and scikit-learn as oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
)

from s5.metrics import ConfusionMatrix, segmentation_scores

NAMES = ["field", "water", "road", "roof"]


def draw(seed: int, present: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, present, (2, 6, 7), generator=g)
    guess = torch.randint(0, present, (2, 6, 7), generator=g)
    pred = torch.where(torch.rand(2, 6, 7, generator=g) < 0.5, target, guess)
    target[torch.rand(2, 6, 7, generator=g) < 0.2] = 255
    return pred, target


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), present=st.integers(1, 4))
def test_counts_equal_torchmetrics_and_sklearn(seed: int, present: int) -> None:
    pred, target = draw(seed, present)
    ours = ConfusionMatrix(4, 255)
    ours.update(pred.to(torch.uint8), target.to(torch.uint8))
    assert ours.matrix.dtype == torch.int64
    assert torch.equal(ours.matrix, multiclass_confusion_matrix(pred, target, 4, ignore_index=255))
    keep = (target != 255).numpy()
    expected = sklearn_confusion_matrix(target.numpy()[keep], pred.numpy()[keep], labels=range(4))
    np.testing.assert_array_equal(ours.matrix.numpy(), expected)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), present=st.integers(1, 4))
def test_scores_equal_torchmetrics(seed: int, present: int) -> None:
    pred, target = draw(seed, present)
    matrix = ConfusionMatrix(4)
    matrix.update(pred, target)
    scores = segmentation_scores(matrix.matrix, NAMES)
    options = {"num_classes": 4, "ignore_index": 255}
    oracle = {
        "miou": multiclass_jaccard_index(pred, target, average="macro", **options),
        "macc": multiclass_accuracy(pred, target, average="macro", **options),
        "mf1": multiclass_f1_score(pred, target, average="macro", **options),
        "oa": multiclass_accuracy(pred, target, average="micro", **options),
        "fwiou": multiclass_jaccard_index(pred, target, average="weighted", **options),
    }
    for key, value in oracle.items():
        assert scores[key] == pytest.approx(100 * value.item(), rel=1e-5), key
    per_class = multiclass_jaccard_index(pred, target, average="none", **options)
    for name, value in zip(NAMES[:present], per_class[:present], strict=True):
        assert scores["per_class_iou"][name] == pytest.approx(100 * value.item(), rel=1e-5)
    f1 = multiclass_f1_score(pred, target, average="none", **options)
    for name, value in zip(NAMES[:present], f1[:present], strict=True):
        assert scores["per_class_f1"][name] == pytest.approx(100 * value.item(), rel=1e-5)
    assert scores["n_pixels"] == int((target != 255).sum())


def test_scores_by_hand_with_an_absent_class() -> None:
    # water: 3 hits, 1 called field; field: 4 hits, 2 called water; road is nowhere; roof is predicted once, never true.
    matrix = torch.tensor([[4, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    matrix[0, 3] = 1
    scores = segmentation_scores(matrix, NAMES)
    assert scores["per_class_iou"] == pytest.approx({"field": 50.0, "water": 50.0, "road": None, "roof": 0.0})
    assert scores["miou"] == pytest.approx(100 / 3)
    assert scores["macc"] == pytest.approx(100 * (4 / 7 + 3 / 4 + 0) / 3)
    assert scores["mf1"] == pytest.approx(100 * (8 / 12 + 6 / 9 + 0) / 3)
    assert scores["oa"] == pytest.approx(100 * 7 / 11)
    assert scores["n_pixels"] == 11


def test_a_class_that_is_left_out_counts_in_no_mean_but_against_the_others() -> None:
    matrix = torch.tensor([[4, 2, 0, 0], [1, 3, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]])
    scores = segmentation_scores(matrix, NAMES, leave_out=["field"])
    assert scores["miou"] == pytest.approx((50.0 + 100.0) / 2)  # water keeps the errors with field
    assert scores["mf1"] == pytest.approx(100 * (6 / 9 + 1) / 2)
    assert scores["oa"] == pytest.approx(100 * 12 / 15)
    assert scores["per_class_iou"]["field"] == pytest.approx(100 * 4 / 7)
    with pytest.raises(ValueError, match="leave_out: 'sea' is not one of the classes"):
        segmentation_scores(matrix, NAMES, leave_out=["sea"])


def test_nothing_counted_is_none_not_nan() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 255, dtype=torch.uint8))
    assert segmentation_scores(matrix.matrix, ["a", "b"]) == {
        "miou": None,
        "macc": None,
        "mf1": None,
        "oa": None,
        "fwiou": None,
        "per_class_iou": {"a": None, "b": None},
        "per_class_f1": {"a": None, "b": None},
        "n_pixels": 0,
    }


def test_counts_beyond_float32_stay_exact() -> None:
    matrix = ConfusionMatrix(2)
    matrix.matrix[0, 0] = 2**40
    matrix.update(torch.zeros(1, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert int(matrix.matrix[0, 0]) == 2**40 + 1
    assert segmentation_scores(matrix.matrix, ["a", "b"])["n_pixels"] == 2**40 + 1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), split=st.integers(0, 2))
def test_parts_merge_to_the_whole(seed: int, split: int) -> None:
    pred, target = draw(seed)
    whole, one, two = ConfusionMatrix(4), ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(pred, target)
    one.update(pred[:split], target[:split])
    two.update(pred[split:], target[split:])
    one.merge(two)
    assert torch.equal(one.matrix, whole.matrix)


def test_what_does_not_fit_is_named() -> None:
    matrix, zeros = ConfusionMatrix(3), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"truth holds values 7\.\.7, expected classes 0\.\.2"):
        matrix.update(zeros, zeros + 7)
    with pytest.raises(ValueError, match=r"prediction holds values 3\.\.3"):
        matrix.update(zeros + 3, zeros)
    with pytest.raises(ValueError, match=r"one shape, got \(1, 3, 2, 2\) and \(1, 2, 2\); take the argmax"):
        matrix.update(torch.zeros(1, 3, 2, 2), zeros)
    with pytest.raises(ValueError, match="cannot merge"):
        matrix.merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="expected 2 x 2 counts"):
        segmentation_scores(matrix.matrix, ["a", "b"])
    with pytest.raises(ValueError, match="num_classes"):
        ConfusionMatrix(0)
