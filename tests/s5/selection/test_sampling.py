import logging
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.selection import SamplingConfig, Selection, fit_prototypes, sample_diverse

POOL_COLUMNS = ["tile_id", "cluster", "entropy", "entropy_rank", "reason"]
CLUSTER_COLUMNS = ["cluster", "quota", "filled", "labeled", "candidates", "duplicates"]
DROPPED_COLUMNS = ["tile_id", "cluster", "entropy", "reason"]

AXES = np.eye(4, dtype=np.float16)


def table(entropies, ids=None) -> pd.DataFrame:
    ids = [f"t{i:03d}" for i in range(len(entropies))] if ids is None else ids
    return pd.DataFrame({"tile_id": ids, "entropy": np.array(entropies, dtype=np.float32)})


# --------------------------------------------------------------------------------------------------------------
# the reference: plain loops over tiles, written from the description in words


def share_out(weights: list[float], total: int) -> list[int]:
    if sum(weights) == 0:
        weights = [1.0] * len(weights)
    ideal = [w * total / sum(weights) for w in weights]
    quotas = [math.floor(i + 1e-9) for i in ideal]
    by_remainder = sorted(range(len(weights)), key=lambda m: (-round(ideal[m] - quotas[m], 9), m))
    for m in by_remainder[: total - sum(quotas)]:
        quotas[m] += 1
    return quotas


def reference(scores, embeddings, centers, labeled, config) -> tuple[dict[str, int], list[int]]:
    """Tile id -> cluster of the pool, and the first quotas."""
    tiles = []
    for name, entropy, embedding in zip(
        scores["tile_id"], scores["entropy"], embeddings.astype(np.float64), strict=True
    ):
        bound = config.min_entropy if config.min_entropy is not None else -1
        if not np.isfinite(entropy) or entropy < np.float32(bound) or not np.isfinite(embedding).all():
            continue
        if not embedding.any():
            continue
        direction = embedding / np.linalg.norm(embedding)
        cosines = [float(direction @ center.astype(np.float64)) for center in centers]
        cluster = next(m for m, cosine in enumerate(cosines) if cosine >= max(cosines) - 1e-6)
        tiles.append((float(entropy), name, cluster, direction))
    tiles.sort(key=lambda tile: tile[:2])

    if config.quota == "uniform":
        weights = [1.0] * len(centers)
    elif config.quota == "tempered":
        weights = [(count / max(labeled)) ** (1 / config.temperature) for count in labeled]
    else:
        weights = [float(count) for count in labeled]
    waiting = [[tile for tile in tiles if tile[2] == m] for m in range(len(centers))]
    taken: list[list] = [[] for _ in centers]
    budget = min(config.budget, len(tiles))
    quotas = share_out(weights, budget)
    wanted = list(quotas)
    while True:
        for m in range(len(centers)):
            while len(taken[m]) < wanted[m] and waiting[m]:
                tile = waiting[m].pop(0)
                limit = 2.0 if config.max_similarity is None else config.max_similarity
                if all(tile[3] @ other[3] <= limit + 1e-6 for other in taken[m]):
                    taken[m].append(tile)
        shortage = budget - sum(len(t) for t in taken)
        still_open = [m for m in range(len(centers)) if waiting[m]]
        if shortage == 0 or not still_open:
            return {tile[1]: tile[2] for tiles_of in taken for tile in tiles_of}, quotas
        extra = share_out([weights[m] for m in still_open], shortage)
        wanted = [len(t) for t in taken]
        for m, more in zip(still_open, extra, strict=True):
            wanted[m] += more


# --------------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    num_tiles, num_labeled = draw(st.integers(0, 60)), draw(st.integers(1, 15))
    # whole numbers up to 2: many equal tiles and equal distances, and no cosine of two tiles within 1e-4 of 0.9
    embeddings = rng.integers(-2, 3, size=(num_tiles, 3)).astype(np.float16)
    labeled = rng.integers(-2, 3, size=(num_labeled, 3)).astype(np.float16)
    labeled[0] = (1, 2, 0)
    entropies = rng.integers(0, 12, size=num_tiles).astype(np.float32) / 12
    if num_tiles and draw(st.booleans()):
        entropies[rng.integers(num_tiles)] = np.nan
        embeddings[rng.integers(num_tiles)] = np.inf
    ids = rng.permutation([f"scene/{i}:0_{i}" for i in range(num_tiles)])
    config = SamplingConfig(
        budget=draw(st.integers(0, 70)),
        clusters=draw(st.integers(1, 6)),
        quota=draw(st.sampled_from(["labeled_share", "uniform", "tempered"])),
        temperature=draw(st.sampled_from([1.0, 2.0, 7.5])),
        min_entropy=draw(st.sampled_from([None, 0.0, 0.3])),
        max_similarity=draw(st.sampled_from([None, 0.9])),
        seed=draw(st.integers(0, 3)),
        restarts=1,
    )
    return table(entropies, ids.tolist()), embeddings, labeled, config


@settings(deadline=None, max_examples=120)
@given(problems())
def test_equals_plain_loops_over_tiles(problem):
    scores, embeddings, labeled, config = problem
    found = sample_diverse(scores, embeddings, labeled, config)
    prototypes = fit_prototypes(labeled, config.clusters, seed=config.seed, restarts=config.restarts)
    expected, quotas = reference(scores, embeddings, prototypes.centers, prototypes.labeled.tolist(), config)
    assert dict(zip(found.pool["tile_id"], found.pool["cluster"], strict=True)) == expected
    assert found.clusters["quota"].tolist() == quotas


@settings(deadline=None, max_examples=80)
@given(problems())
def test_holds_what_a_selection_promises(problem):
    scores, embeddings, labeled, config = problem
    found = sample_diverse(scores, embeddings, labeled, config)
    pool, clusters, dropped = found.pool, found.clusters, found.dropped

    # every scored tile is either taken or dropped, once, with a reason
    assert sorted([*pool["tile_id"], *dropped["tile_id"]]) == sorted(scores["tile_id"])
    assert (pool["reason"].str.len() > 0).all()
    assert (dropped["reason"].str.len() > 0).all()
    # quotas sum to the budget, or to what is usable
    usable = int(clusters["candidates"].sum())
    assert clusters["quota"].sum() == min(config.budget, usable)
    # the budget is reached unless only near duplicates are left
    assert len(pool) == clusters["filled"].sum()
    assert len(pool) <= config.budget
    if len(pool) < min(config.budget, usable):
        assert len(pool) + clusters["duplicates"].sum() == usable
    for row in clusters.itertuples():
        mine = pool[pool["cluster"] == row.cluster]
        assert len(mine) == row.filled <= row.candidates
        # ascending, ties by tile id
        assert list(zip(mine["entropy"], mine["tile_id"], strict=True)) == sorted(
            zip(mine["entropy"], mine["tile_id"], strict=True)
        )
        # nobody who was turned away for want of a place is more certain than somebody who was taken
        full = dropped[(dropped["cluster"] == row.cluster) & dropped["reason"].str.startswith("cluster full")]
        assert full["entropy"].min() >= mine["entropy"].max() or full.empty or mine.empty
    assert pool["entropy_rank"].is_monotonic_increasing
    if config.min_entropy is not None:
        assert (pool["entropy"] >= np.float32(config.min_entropy)).all()


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(0, 1000))
def test_does_not_depend_on_the_order_of_rows(problem, shuffle):
    scores, embeddings, labeled, config = problem
    rng = np.random.default_rng(shuffle)
    order, labeled_order = rng.permutation(len(scores)), rng.permutation(len(labeled))
    first = sample_diverse(scores, embeddings, labeled, config)
    again = sample_diverse(scores.iloc[order].reset_index(drop=True), embeddings[order], labeled[labeled_order], config)
    assert_same(first, again)


def assert_same(first: Selection, again: Selection) -> None:
    pd.testing.assert_frame_equal(first.pool, again.pool)
    pd.testing.assert_frame_equal(first.clusters, again.clusters)
    pd.testing.assert_frame_equal(first.dropped, again.dropped)


def check_tables(found: Selection) -> None:
    assert list(found.pool) == POOL_COLUMNS
    assert list(found.clusters) == CLUSTER_COLUMNS
    assert list(found.dropped) == DROPPED_COLUMNS
    for name in ("cluster", "entropy_rank"):
        assert found.pool[name].dtype == np.int32
    assert found.pool["entropy"].dtype == np.float32
    assert (found.clusters.dtypes == np.int32).all()
    assert found.dropped["cluster"].dtype == np.int32


def test_the_paper_by_hand():
    # labelled: 3 tiles along x, 1 along y; a budget of 4 is 3 along x and 1 along y
    labeled = AXES[[0, 0, 0, 1]]
    embeddings = AXES[[0, 1, 0, 0, 1, 0]]
    scores = table([0.5, 0.4, 0.2, 0.3, 0.1, 0.9])
    found = sample_diverse(scores, embeddings, labeled, SamplingConfig(budget=4, clusters=2))
    check_tables(found)
    assert found.clusters.to_numpy().tolist() == [[0, 3, 3, 3, 4, 0], [1, 1, 1, 1, 2, 0]]
    assert found.pool["tile_id"].tolist() == ["t004", "t002", "t003", "t000"]
    assert found.pool["cluster"].tolist() == [1, 0, 0, 0]
    assert found.pool["entropy_rank"].tolist() == [1, 2, 3, 5]
    assert found.pool["reason"].tolist()[1] == "place 1 of 3 in cluster 0 by lowest entropy"
    assert dict(zip(found.dropped["tile_id"], found.dropped["reason"], strict=True)) == {
        "t001": "cluster full: its 1 places went to tiles of lower entropy",
        "t005": "cluster full: its 3 places went to tiles of lower entropy",
    }


def test_says_why_a_tile_was_not_taken_or_taken_beyond_the_quota():
    labeled = AXES[[0, 0, 1, 1, 2]]
    embeddings = np.concatenate([AXES[[0, 0, 1]], [[0, 1, 0.5, 0]], AXES[[0]] * 0, AXES[[1, 1, 2]]]).astype(np.float16)
    scores = table([0.2, 0.3, 0.4, 0.5, 0.6, 0.05, math.nan, math.nan])
    config = SamplingConfig(budget=4, clusters=3, min_entropy=0.1, max_similarity=0.95)
    found = sample_diverse(scores, embeddings, labeled, config)
    reasons = dict(zip(found.dropped["tile_id"], found.dropped["reason"], strict=True))
    assert reasons == {
        "t001": "near duplicate of t000",
        "t004": "embedding is 0 or not finite",
        "t005": "entropy below the bound of 0.1",
        "t006": "no entropy: no valid pixel, or the network's output is not finite",
        "t007": "no entropy: no valid pixel, or the network's output is not finite",
    }
    assert found.pool["tile_id"].tolist() == ["t000", "t002", "t003"]
    found = sample_diverse(scores[:4], embeddings[:4], AXES[[0, 0, 0, 1]], SamplingConfig(budget=4, clusters=2))
    assert found.clusters["quota"].tolist() == [3, 1]
    assert found.pool["reason"].tolist()[3] == (
        "place 2 of 2 in cluster 1 by lowest entropy, beyond its quota of 1 because other clusters ran short"
    )


def test_a_budget_of_zero_takes_nothing():
    found = sample_diverse(table([0.1, 0.2]), AXES[:2], AXES[:2], SamplingConfig(budget=0, clusters=2))
    check_tables(found)
    assert len(found.pool) == 0
    assert found.dropped["reason"].unique().tolist() == ["cluster full: its quota is 0"]


def test_a_budget_over_all_tiles_takes_all_and_warns(caplog):
    with caplog.at_level(logging.WARNING):
        found = sample_diverse(table([0.3, 0.2, 0.1]), AXES[:3], AXES[:2], SamplingConfig(budget=9, clusters=2))
    check_tables(found)
    assert found.pool["tile_id"].tolist() == ["t002", "t001", "t000"]
    assert len(found.dropped) == 0
    assert "the budget of 9 could not be filled" in caplog.text


@pytest.mark.parametrize("width", [0, 4])
def test_no_tiles_at_all(width):
    found = sample_diverse(table([]), np.zeros((0, width)), AXES[:2], SamplingConfig(budget=5, clusters=2))
    check_tables(found)
    assert len(found.pool) == len(found.dropped) == 0
    assert found.clusters["filled"].tolist() == [0, 0]


def test_one_cluster_is_the_most_certain_tiles():
    entropies = np.random.default_rng(0).permutation(20) / 20
    embeddings = np.random.default_rng(1).normal(size=(20, 4))
    found = sample_diverse(table(entropies), embeddings, AXES, SamplingConfig(budget=5, clusters=1))
    assert found.pool["entropy_rank"].tolist() == [1, 2, 3, 4, 5]


def test_more_clusters_than_labelled_tiles_are_reduced(caplog):
    found = sample_diverse(table([0.1] * 6), AXES[[0, 1, 0, 1, 0, 1]], AXES[:2], SamplingConfig(budget=4, clusters=50))
    assert len(found.clusters) == 2
    assert "50 asked for" in caplog.text


def test_ties_are_broken_by_tile_id():
    found = sample_diverse(table([0.5] * 3, ["b", "c", "a"]), AXES[[0, 0, 0]], AXES[:1], SamplingConfig(2, 1))
    assert found.pool["tile_id"].tolist() == ["a", "b"]


def test_embeddings_may_be_a_memory_map(tmp_path):
    rng = np.random.default_rng(0)
    embeddings, labeled = rng.normal(size=(500, 8)).astype(np.float16), rng.normal(size=(30, 8)).astype(np.float16)
    np.save(tmp_path / "embeddings.npy", embeddings)
    config = SamplingConfig(budget=100, clusters=5, max_similarity=0.9)
    scores = table(rng.random(500))
    stored = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    assert_same(sample_diverse(scores, embeddings, labeled, config), sample_diverse(scores, stored, labeled, config))


@pytest.mark.parametrize(
    ("scores", "embeddings", "labeled", "message"),
    [
        (table([0.1, 0.2], ["a", "a"]), AXES[:2], AXES, "'a' stands twice"),
        (table([0.1, 0.2]), AXES[:3], AXES, r"expected \[2, width\]"),
        (table([0.1, 0.2]), AXES[0], AXES, r"expected \[2, width\]"),
        (table([0.1, 0.2]), AXES[:2, :3], AXES, "width 3"),
        (table([0.1, 0.2]).drop(columns="entropy"), AXES[:2], AXES, "column 'entropy' is missing"),
        (table([0.1, 0.2]), AXES[:2], AXES[:0], "nothing to cluster"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(scores, embeddings, labeled, message):
    with pytest.raises(ValueError, match=message):
        sample_diverse(scores, embeddings, labeled, SamplingConfig(budget=1, clusters=1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("budget", -1),
        ("budget", 2.5),
        ("budget", True),
        ("clusters", 0),
        ("seed", -1),
        ("restarts", 0),
        ("quota", "random"),
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", None),
        ("temperature", math.nan),
        ("min_entropy", 1.5),
        ("min_entropy", "low"),
        ("max_similarity", 0),
        ("max_similarity", 1.01),
    ],
)
def test_settings_out_of_range_name_the_key(key, value):
    with pytest.raises(ValueError, match=key):
        SamplingConfig(**{"budget": 10, key: value})
