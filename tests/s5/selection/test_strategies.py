"""Options of selection against plain loops, and that workers change nothing."""

import hashlib
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.selection import SamplingConfig, assign_clusters, fit_prototypes, sample_diverse
from s5.selection.active import badge, k_centre

STRATEGIES = ["s5", "s5_band", "diversity", "entropy", "random", "badge", "k_centre"]


def problem(seed: int, num: int = 80, width: int = 6):
    rng = np.random.default_rng(seed)
    ids = rng.permutation([f"scene/{i}" for i in range(num)])
    scores = pd.DataFrame({"tile_id": ids, "entropy": rng.random(num).astype(np.float32)})
    scores["confidence"] = 1 - scores["entropy"] * 0.7
    scores.loc[3, "entropy"] = np.nan
    embeddings = rng.normal(size=(num, width)).astype(np.float16)
    embeddings[5] = 0
    return scores, embeddings, rng.normal(size=(30, width)).astype(np.float16)


def config(strategy: str, budget: int = 20, **options) -> SamplingConfig:
    return SamplingConfig(**({"budget": budget, "clusters": 4, "strategy": strategy, "restarts": 1} | options))


def draw(seed: int, tile: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{tile}/0".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@pytest.mark.parametrize("seed", [0, 1])
def test_entropy_alone_and_random_are_sorted_lists(seed):
    scores, embeddings, labeled = problem(seed)
    usable = scores.drop(index=[3, 5])
    found = sample_diverse(scores, embeddings, labeled, config("entropy"))
    assert set(found.pool["tile_id"]) == set(usable.sort_values("entropy")["tile_id"][:20])
    found = sample_diverse(scores, embeddings, labeled, config("random", seed=seed))
    assert set(found.pool["tile_id"]) == set(sorted(usable["tile_id"], key=lambda tile: draw(seed, tile))[:20])
    other = sample_diverse(scores, embeddings, labeled, config("random", seed=seed + 1))
    assert set(found.pool["tile_id"]) != set(other.pool["tile_id"])


def test_random_does_not_look_at_entropy():
    # 200 draws of 20 of 78: each usable tile is drawn with the same frequency, whatever its entropy
    scores, embeddings, labeled = problem(2)
    taken = pd.Series(0, index=scores["tile_id"])
    for seed in range(200):
        taken[sample_diverse(scores, embeddings, labeled, config("random", seed=seed, clusters=1)).pool["tile_id"]] += 1
    usable = taken[scores.drop(index=[3, 5])["tile_id"]]
    expected = 200 * 20 / 78
    deviation = math.sqrt(expected * (1 - 20 / 78))
    assert (abs(usable - expected) < 4.5 * deviation).all()
    assert abs(np.corrcoef(usable, scores.drop(index=[3, 5])["entropy"])[0, 1]) < 0.35


@pytest.mark.parametrize("quota", ["labeled_share", "uniform", "tempered"])
def test_diversity_alone_fills_the_same_quotas_at_random(quota):
    scores, embeddings, labeled = problem(3)
    ours, paper = (sample_diverse(scores, embeddings, labeled, config(s, quota=quota)) for s in ("diversity", "s5"))
    columns = ["cluster", "quota", "labeled", "candidates"]
    pd.testing.assert_frame_equal(ours.clusters[columns], paper.clusters[columns])
    centers = fit_prototypes(labeled, 4, seed=0, restarts=1).centers
    cluster, _ = assign_clusters(embeddings, centers)
    usable = scores.assign(cluster=cluster).drop(index=[3, 5])
    for row in ours.clusters.itertuples():
        mine = sorted(usable[usable["cluster"] == row.cluster]["tile_id"], key=lambda tile: draw(0, tile))
        assert set(ours.pool[ours.pool["cluster"] == row.cluster]["tile_id"]) == set(mine[: row.filled])


def test_the_band_leaves_out_the_most_certain_tiles():
    scores, embeddings, labeled = problem(4)
    found = sample_diverse(scores, embeddings, labeled, config("s5_band", budget=78, band=0.25))
    usable = scores.drop(index=[3, 5])["entropy"].sort_values().to_numpy()
    # 79 tiles have an embedding and 78 of them an entropy: a quarter of them is 19
    assert found.pool["entropy"].min() == usable[19]
    assert len(found.pool) == 78 - 19
    given_bound = sample_diverse(scores, embeddings, labeled, config("s5_band", budget=78, min_entropy=0.5))
    plain = sample_diverse(scores, embeddings, labeled, config("s5", budget=78, min_entropy=0.5))
    pd.testing.assert_frame_equal(given_bound.pool, plain.pool)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(0, 6), st.integers(0, 25))
def test_k_centre_takes_the_farthest_tile_each_time(seed, num, num_labeled, budget):
    rng = np.random.default_rng(seed)
    rows, labeled = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rng.normal(size=(num, 3)),
                     rng.normal(size=(num_labeled, 3))))  # fmt: skip
    budget = min(budget, num)
    found = k_centre(rows.astype(np.float32), labeled.astype(np.float32), budget).tolist()
    assert len(set(found)) == budget
    known = [*labeled]
    for row in found:
        nearest = [max((r @ other for other in known), default=-1.0) for r in rows]
        free = [n for i, n in enumerate(nearest) if not any(r is rows[i] for r in known)]
        assert nearest[row] <= min(free) + 1e-5
        known.append(rows[row])


def test_badge_draws_in_proportion_to_the_squared_distance():
    # three tiles in one direction at lengths 3, 1 and 0: the first is taken, then the others 4 : 9
    directions = np.array([[1, 0]] * 3, dtype=np.float32)
    lengths = np.array([1.0, 3.0, 0.0], dtype=np.float32)
    second = [badge(directions, lengths, 2, seed=seed).tolist() for seed in range(1500)]
    assert {row[0] for row in second} == {1}
    share = sum(row[1] == 0 for row in second) / 1500
    assert share == pytest.approx(4 / 13, abs=5 * math.sqrt(4 / 13 * 9 / 13 / 1500))
    assert sorted(badge(directions, np.zeros(3, np.float32), 3, seed=0)) == [0, 1, 2]  # nothing tells them apart


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_keeps_the_promises_of_a_selection(strategy):
    for seed in range(4):
        scores, embeddings, labeled = problem(seed)
        chosen = config(strategy, budget=[0, 7, 60, 500][seed], max_similarity=0.9)
        found = sample_diverse(scores, embeddings, labeled, chosen)
        assert sorted([*found.pool["tile_id"], *found.dropped["tile_id"]]) == sorted(scores["tile_id"])
        assert len(found.pool) == found.clusters["filled"].sum() <= chosen.budget
        assert (pd.concat([found.pool, found.dropped])["reason"].str.len() > 0).all()
        assert found.pool["entropy"].is_monotonic_increasing
        order = np.random.default_rng(seed).permutation(len(scores))
        shuffled = scores.iloc[order].reset_index(drop=True)
        again = sample_diverse(shuffled, embeddings[order], labeled, chosen)
        pd.testing.assert_frame_equal(found.pool, again.pool)


@pytest.mark.parametrize("strategy", ["s5", "diversity"])
def test_one_and_several_workers_make_the_same_pool(strategy):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(12, 32))
    embeddings = (places[rng.integers(0, 12, 20_000)] + rng.normal(size=(20_000, 32))).astype(np.float16)
    labeled = (places[rng.integers(0, 12, 900)] + rng.normal(size=(900, 32))).astype(np.float16)
    scores = pd.DataFrame({"tile_id": [f"{i:05d}" for i in range(20_000)], "entropy": rng.random(20_000)})
    chosen = [config(strategy, 2000, clusters=12, max_similarity=0.8, workers=w) for w in (1, 2, 3)]
    one, two, three = (sample_diverse(scores, embeddings, labeled, c) for c in chosen)
    for other in (two, three):
        pd.testing.assert_frame_equal(one.pool, other.pool)
        pd.testing.assert_frame_equal(one.dropped, other.dropped)
        pd.testing.assert_frame_equal(one.clusters, other.clusters)
    assert one.clusters["duplicates"].sum() > 0


@pytest.mark.parametrize(("key", "value"), [("strategy", "best"), ("band", 1.0), ("band", None), ("workers", -1)])
def test_settings_out_of_range_name_the_key(key, value):
    with pytest.raises(ValueError, match=key):
        SamplingConfig(**{"budget": 10, key: value})
