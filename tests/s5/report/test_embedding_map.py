from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from s5.report import ReportInputs, embedding_map, plot_selection
from s5.report.canvas import encode, new_figure
from s5.report.embedding_map import draw_embedding_map, neighbour_plane, principal_plane
from s5.report.selection import SelectionReportConfig


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


@pytest.mark.slow  # numba compiles for 20 s
@pytest.mark.filterwarnings("ignore")  # of numba, when it is imported
def test_a_map_of_neighbours_keeps_groups_together_and_is_the_same_again() -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 40)
    rows = np.eye(3, 16)[group] + rng.normal(scale=0.05, size=(120, 16))
    rows[7] = 0
    found = neighbour_plane(rows)
    assert np.isnan(found).any(axis=1).tolist() == [i == 7 for i in range(120)]
    np.testing.assert_array_equal(found, neighbour_plane(rows))
    rest = np.arange(120) != 7
    distances = np.linalg.norm(found[rest][:, None] - found[rest][None], axis=2) + 1e9 * np.eye(119)
    assert (group[rest][distances.argmin(axis=1)] == group[rest]).all()


def test_without_umap_the_map_is_that_of_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"selection_report\.embedding_map: 'umap' needs the extra s5\[umap\]"):
        neighbour_plane(np.random.default_rng(1).normal(size=(30, 3)))
    monkeypatch.setattr(embedding_map, "find_spec", lambda _: None)
    ids = [f"t{i}" for i in range(30)]
    tiles = pd.DataFrame({"tile_id": ids, "cluster": 0})
    axes = new_figure(8, 4).subplots(1, 2)
    draw_embedding_map(axes, ids, np.random.default_rng(2).normal(size=(30, 5)), tiles[:5], tiles[5:], "auto")
    assert "principal direction" in axes[0].get_xlabel()
    with pytest.raises(ValueError, match="embedding_map: expected auto, pca or umap, got 'tsne'"):
        SelectionReportConfig(embedding_map="tsne")  # type: ignore[arg-type]


@pytest.mark.parametrize("empty", [False, True])
def test_the_selection_report_holds_the_maps(run_inputs: ReportInputs, empty: bool) -> None:
    r = run_inputs
    embeddings = np.random.default_rng(3).normal(size=(len(r.scores), 6)).astype(np.float16)
    pool = r.pool.iloc[:0] if empty else r.pool
    figure = plot_selection(r.manifest, r.scores, pool, r.clusters, r.dropped, embeddings=embeddings)
    assert "by cluster" in figure.axes[2].get_title(loc="left")
    assert encode(figure)[1]
