import logging
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_similarity

from s5.selection import diversity
from s5.selection.diversity import (
    assign_clusters,
    fit_prototypes,
    largest_remainder,
    quota_weights,
    unit_rows,
)


def blobs(num: int, width: int, per_blob: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(num), per_blob)
    points = np.eye(width)[truth] + spread * rng.normal(size=(len(truth), width))
    return points * rng.uniform(0.1, 10, size=(len(truth), 1)), truth


def test_finds_separated_directions_whatever_their_length():
    points, truth = blobs(4, 6, 25, 0.1, seed=0)
    prototypes = fit_prototypes(points, 4, seed=0)
    found, similarity = assign_clusters(points, prototypes.centers)
    assert adjusted_rand_score(truth, found) == 1.0
    assert prototypes.labeled.tolist() == [25, 25, 25, 25]
    assert similarity.min() > 0.8
    np.testing.assert_allclose(np.linalg.norm(prototypes.centers, axis=1), 1, atol=1e-6)


def test_is_as_good_as_k_means_of_scikit_learn_on_the_sphere():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(300, 8))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    oracle = KMeans(6, n_init=4, random_state=0).fit(unit).cluster_centers_
    reached = cosine_similarity(unit, oracle).max(axis=1).sum()
    centers = fit_prototypes(points, 6, seed=0).centers
    assert cosine_similarity(unit, centers).max(axis=1).sum() > 0.99 * reached


def test_one_cluster_is_the_mean_direction():
    points = np.random.default_rng(1).normal(1.0, 1.0, size=(50, 4))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = unit.sum(axis=0) / np.linalg.norm(unit.sum(axis=0))
    prototypes = fit_prototypes(points, 1, seed=0)
    np.testing.assert_allclose(prototypes.centers[0], expected, atol=1e-5)
    assert prototypes.labeled.tolist() == [50]


def test_repeated_tiles_count_as_often_as_they_are_there():
    points = np.array([[1, 0]] * 5 + [[0, 1]] * 2, dtype=np.float16)
    prototypes = fit_prototypes(points, 2, seed=0)
    np.testing.assert_allclose(prototypes.centers, [[1, 0], [0, 1]], atol=1e-6)
    assert prototypes.labeled.tolist() == [5, 2]


@pytest.mark.parametrize("clusters", [3, 100])
def test_more_clusters_than_distinct_embeddings_are_reduced_with_a_warning(clusters, caplog):
    points = np.array([[1, 0]] * 5 + [[0, 1]] * 2, dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        prototypes = fit_prototypes(points, clusters, seed=0)
    assert len(prototypes.centers) == 2
    assert f"{clusters} asked for, but there are 2 distinct" in caplog.text


def test_nearly_equal_embeddings_may_leave_fewer_clusters_but_none_empty():
    # distinct as numbers, one direction as cosines
    points = np.array([[1.0, 0.0], [1.0, 2e-6], [1.0, 4e-6], [0.0, 1.0]], dtype=np.float32)
    prototypes = fit_prototypes(points, 4, seed=0)
    assert prototypes.labeled.min() > 0
    assert prototypes.labeled.sum() == 4


def test_opposite_tiles_in_one_cluster_keep_a_direction():
    prototypes = fit_prototypes(np.array([[1.0, 0.0], [-1.0, 0.0]]), 1, seed=0)
    np.testing.assert_allclose(np.abs(prototypes.centers), [[1, 0]])


def test_an_empty_cluster_is_given_the_farthest_point_that_is_not_alone():
    nearest = np.array([0, 0, 0, 1], dtype=np.int32)
    similarity = np.array([0.9, 0.5, 0.7, 0.1], dtype=np.float32)
    assert diversity._fill_empty(nearest, similarity, 4).tolist() == [0, 2, 3, 1]


def test_unusable_labelled_embeddings_are_left_out_with_a_warning(caplog):
    points = np.array([[1, 0], [0, 0], [np.nan, 1], [0, 1]], dtype=np.float32)
    with caplog.at_level(logging.WARNING):
        prototypes = fit_prototypes(points, 2, seed=0)
    assert prototypes.labeled.tolist() == [1, 1]
    assert "2 of 4 labelled embeddings" in caplog.text


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.zeros((0, 2)), np.full((2, 2), np.nan)])
def test_nothing_to_cluster_is_refused(points):
    with pytest.raises(ValueError, match="nothing to cluster"):
        fit_prototypes(points, 2, seed=0)


def test_a_flat_array_is_refused():
    with pytest.raises(ValueError, match=r"expected \[tiles, width\]"):
        fit_prototypes(np.ones(4), 2, seed=0)


def test_prototypes_depend_on_the_seed_alone_and_not_on_the_order_of_rows():
    points = np.random.default_rng(5).normal(size=(80, 5)).astype(np.float16)
    first = fit_prototypes(points, 7, seed=11)
    again = fit_prototypes(points[np.random.default_rng(6).permutation(80)], 7, seed=11)
    np.testing.assert_array_equal(first.centers, again.centers)
    np.testing.assert_array_equal(first.labeled, again.labeled)


def test_assignment_agrees_with_scikit_learn_block_by_block(monkeypatch, tmp_path):
    monkeypatch.setattr(diversity, "_BLOCK_ROWS", 1)  # 256 rows at least
    rng = np.random.default_rng(0)
    stored = np.memmap(tmp_path / "e.bin", dtype=np.float16, mode="w+", shape=(1000, 6))
    stored[:] = rng.normal(size=(1000, 6))
    centers, _ = unit_rows(rng.normal(size=(9, 6)))
    expected = cosine_similarity(np.asarray(stored, dtype=np.float64), centers)
    found, similarity = assign_clusters(stored, centers)
    np.testing.assert_array_equal(found, expected.argmax(axis=1))
    np.testing.assert_allclose(similarity, expected.max(axis=1), atol=1e-6)
    assert found.dtype == np.int32


def test_tiles_without_a_direction_belong_nowhere_and_ties_go_to_the_first():
    tiles = np.array([[0, 0], [np.inf, 1], [1, 1], [-1, 0]], dtype=np.float16)
    centers = np.array([[1, 0], [0, 1]], dtype=np.float32)
    found, similarity = assign_clusters(tiles, centers)
    assert found.tolist() == [-1, -1, 0, 1]
    np.testing.assert_allclose(similarity, [0, 0, np.sqrt(0.5), 0], atol=1e-6)


def test_quota_weights_of_each_mode():
    labeled = np.array([16, 4, 1])
    np.testing.assert_allclose(quota_weights(labeled, "labeled_share"), [16, 4, 1])
    np.testing.assert_allclose(quota_weights(labeled, "uniform"), [1, 1, 1])
    tempered = quota_weights(labeled, "tempered", 2.0)
    np.testing.assert_allclose(tempered / tempered.sum(), np.array([4, 2, 1]) / 7)
    cold = quota_weights(labeled, "tempered", 1.0)
    np.testing.assert_allclose(cold / cold.sum(), labeled / 21)
    with pytest.raises(ValueError, match="expected one of"):
        quota_weights(labeled, "random")


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 10_000))
def test_largest_remainder_sums_exactly_and_stays_within_one_of_the_share(weights, total):
    found = largest_remainder(np.array(weights, dtype=np.float64), total)
    assert found.sum() == total
    shares = weights if sum(weights) else [1] * len(weights)
    ideal = [Fraction(w * total, sum(shares)) for w in shares]
    assert all(abs(f - i) < 1 for f, i in zip(found.tolist(), ideal, strict=True))
    # whoever was rounded up had a remainder at least as large as whoever was not
    up = [i - i.numerator // i.denominator for f, i in zip(found.tolist(), ideal, strict=True) if f > i]
    down = [i - i.numerator // i.denominator for f, i in zip(found.tolist(), ideal, strict=True) if f < i]
    assert not up or not down or min(up) >= max(down)


def test_equal_remainders_go_to_the_first():
    assert largest_remainder(np.ones(3), 5).tolist() == [2, 2, 1]
    assert largest_remainder(np.array([1e-9, 1e-9]), 3).tolist() == [2, 1]
    assert largest_remainder(np.array([]), 3).tolist() == []
