from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from s5.report import ReportInputs, plot_selection
from s5.report.canvas import encode, new_figure
from s5.report.embedding_map import draw_embedding_map, principal_plane


def test_the_plane_is_that_of_principal_component_analysis() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8) + 3
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found, shares = principal_plane(rows.astype(np.float32))
    oracle = PCA(2).fit(unit)
    np.testing.assert_allclose(np.abs(found), np.abs(oracle.transform(unit)), atol=1e-5)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, atol=1e-5)


def test_rows_without_a_direction_have_no_place() -> None:
    rows = np.random.default_rng(1).normal(size=(9, 3))
    rows[2], rows[5, 0] = 0, np.nan
    found, _ = principal_plane(rows)
    assert np.isnan(found).any(axis=1).tolist() == [i in (2, 5) for i in range(9)]
    assert np.isnan(principal_plane(np.zeros((4, 3)))[0]).all()


def test_every_tile_is_on_both_maps() -> None:
    ids = [f"t{i}" for i in range(40)]
    tiles = pd.DataFrame({"tile_id": ids, "cluster": np.arange(40) % 20 - 1})
    axes = new_figure(8, 4).subplots(1, 2)
    draw_embedding_map(axes, ids, np.random.default_rng(2).normal(size=(40, 5)), tiles[:15], tiles[15:])
    for one in axes:
        assert sum(len(points.get_offsets()) for points in one.collections) == 40
    kept = next(c for c in axes[1].collections if c.get_label() == "kept")
    assert len(kept.get_offsets()) == 15


@pytest.mark.parametrize("empty", [False, True])
def test_the_selection_report_holds_the_maps(run_inputs: ReportInputs, empty: bool) -> None:
    r = run_inputs
    embeddings = np.random.default_rng(3).normal(size=(len(r.scores), 6)).astype(np.float16)
    pool = r.pool.iloc[:0] if empty else r.pool
    figure = plot_selection(r.manifest, r.scores, pool, r.clusters, r.dropped, embeddings=embeddings)
    assert "by cluster" in figure.axes[2].get_title(loc="left")
    assert encode(figure)[1]
