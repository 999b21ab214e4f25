import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.selection import greedy
from s5.selection.greedy import ClusterPass, fill_clusters


def brute_force(candidates, embeddings, quota, max_similarity):
    """One tile after the other, in float64."""
    taken, duplicates, originals, examined = [], [], [], 0
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for row in candidates:
        if len(taken) == quota:
            break
        examined += 1
        alike = [t for t in taken if unit[t] @ unit[row] > max_similarity + 1e-9]
        if alike:
            duplicates.append(row)
            originals.append(alike[0])
        else:
            taken.append(row)
    return taken, duplicates, originals, examined


# whole numbers up to 2 in three dimensions: no cosine of two of them lies within 1e-4 of 0.9
embedding_rows = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=40).map(
    lambda rows: np.array(rows, dtype=np.float64)
)


@settings(deadline=None, max_examples=150)
@given(embedding_rows, st.integers(0, 45), st.lists(st.integers(0, 45), max_size=3), st.sampled_from([1, 3, 1024]))
def test_equals_one_tile_after_the_other(rows, quota, stops, block):
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    state = ClusterPass(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_LARGEST_BLOCK", block)
        # stopping on the way changes nothing
        for target in [*sorted(s for s in stops if s <= quota), quota]:
            state.advance(target, rows.astype(np.float16), 0.9)
    taken, duplicates, originals, examined = brute_force(order.tolist(), rows, quota, 0.9)
    assert state.taken == taken
    assert state.duplicates == duplicates
    assert state.originals == originals
    assert state.examined == examined
    assert state.exhausted == (examined == len(order))


def test_every_tile_is_taken_once_where_similarity_does_not_matter():
    state = ClusterPass(np.array([4, 2, 9, 7]))
    state.advance(2, np.ones((10, 3)), None)
    assert (state.taken, state.exhausted) == ([4, 2], False)
    state.advance(9, np.ones((10, 3)), None)
    assert (state.taken, state.duplicates, state.exhausted) == ([4, 2, 9, 7], [], True)


def test_a_limit_of_one_takes_equal_tiles_and_a_lower_one_takes_them_once():
    embeddings = np.random.default_rng(0).normal(size=(1, 64)).repeat(6, axis=0).astype(np.float16)
    for limit, expected in ((1.0, 6), (0.999, 1)):
        state = ClusterPass(np.arange(6))
        state.advance(6, embeddings, limit)
        assert len(state.taken) == expected


def test_more_tiles_than_a_block():
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(2500, 12))
    embeddings[1250:] = embeddings[:1250]
    state = ClusterPass(np.arange(2500))
    state.advance(2500, embeddings, 0.99)
    assert state.taken == list(range(1250))
    assert state.duplicates == list(range(1250, 2500))
    assert state.originals == list(range(1250))


def test_what_short_clusters_cannot_take_goes_to_the_others_in_proportion():
    # 10 : 6 : 4 of 20; the first has only 1 tile, so its other 9 go 6 : 4 = 5.4 : 3.6 = 5 + 4
    passes = [ClusterPass(np.arange(0, 1)), ClusterPass(np.arange(1, 40)), ClusterPass(np.arange(40, 80))]
    quotas = fill_clusters(passes, np.array([10.0, 6.0, 4.0]), 20, np.ones((80, 2)), None)
    assert quotas.tolist() == [10, 6, 4]
    assert [len(state.taken) for state in passes] == [1, 11, 8]


def test_shortage_is_shared_out_again_until_the_budget_is_reached_or_nothing_is_left():
    sizes = [1, 3, 50]
    ends = np.cumsum(sizes)
    for budget, expected in ((30, [1, 3, 26]), (54, [1, 3, 50]), (0, [0, 0, 0])):
        passes = [ClusterPass(np.arange(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
        fill_clusters(passes, np.ones(3), budget, np.ones((54, 2)), None)
        assert [len(state.taken) for state in passes] == expected


def test_duplicates_make_a_cluster_short():
    embeddings = np.array([[1, 0]] * 10 + [[0, 1], [0, 2], [1, 1], [-1, 1], [0, -1]], dtype=np.float64)
    passes = [ClusterPass(np.arange(10)), ClusterPass(np.arange(10, 15))]
    quotas = fill_clusters(passes, np.array([1.0, 1.0]), 4, embeddings, 0.95)
    assert quotas.tolist() == [2, 2]
    assert [state.taken for state in passes] == [[0], [10, 12, 13]]
    assert [len(state.duplicates) for state in passes] == [9, 1]
