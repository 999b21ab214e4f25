from __future__ import annotations

import logging

import pandas as pd
import pytest

from s5.report import ReportInputs, plot_selection
from s5.report.canvas import encode
from s5.report.reasons import kind_of
from s5.report.thumbnails import read_thumbnails


def _texts(figure) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes]


def test_histogram_quotas_and_examples(run_inputs: ReportInputs) -> None:
    r = run_inputs
    figure = plot_selection(r.manifest, r.scores, r.pool, r.clusters, r.dropped, example_clusters=3, examples=3)
    entropies, quotas = figure.axes[:2]
    heights = [patch.get_height() for patch in entropies.patches]
    assert sum(heights) == len(r.scores) + len(r.pool)
    assert [bar.get_width() for bar in quotas.patches] == sorted(r.clusters["filled"], reverse=True)
    assert len(figure.axes) == 2 + 3 * 6
    assert all(axes.images for axes in figure.axes[2:])
    assert any("near duplicate" in text for text in _texts(figure))
    assert encode(figure)[1]


def test_an_empty_selection(run_inputs: ReportInputs) -> None:
    r = run_inputs
    clusters = r.clusters.assign(quota=0, filled=0)
    figure = plot_selection(r.manifest, r.scores, r.pool.iloc[:0], clusters, r.dropped)
    assert encode(figure)[1]
    nothing = plot_selection(r.manifest, r.scores.iloc[:0], r.pool.iloc[:0], clusters.iloc[:0], r.dropped.iloc[:0])
    assert encode(nothing)[1]


def test_many_clusters_are_cut(run_inputs: ReportInputs) -> None:
    r = run_inputs
    many = pd.concat([r.clusters] * 20, ignore_index=True).assign(cluster=range(80))
    figure = plot_selection(r.manifest, r.scores, r.pool, many, r.dropped, example_clusters=0)
    assert "56 not shown" in figure.axes[1].get_title(loc="left")
    assert len(figure.axes) == 2


def test_thumbnails_are_the_tiles_and_a_lost_file_is_no_end(
    world: pd.DataFrame, run_inputs: ReportInputs, caplog: pytest.LogCaptureFixture
) -> None:
    broken = world.copy()
    broken.loc[broken["tile_id"] == "test_001", "image"] = "/nowhere/lost.png"
    with caplog.at_level(logging.WARNING):
        pictures = read_thumbnails(broken, ["test_000", "test_001", "unknown"], statistics=run_inputs.statistics)
    assert list(pictures) == ["test_000"]
    assert pictures["test_000"].shape == (96, 96, 3)
    assert "test_001" in caplog.text


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("place 3 of 7 in cluster 2 by lowest entropy", "among the most certain of its cluster"),
        (
            "place 8 of 9 in cluster 2 by lowest entropy, beyond its quota of 7 because other clusters ran short",
            "taken in place of a cluster that ran short",
        ),
        ("near duplicate of a/b: c", "near duplicate of a selected tile"),
        ("cluster full: its quota is 0", "its cluster's quota is full"),
        ("no entropy: no valid pixel, or the network's output is not finite", "no entropy"),
        ("entropy below the bound of 0.05", "entropy below the bound of 0.05"),
    ],
)
def test_reasons_are_counted_by_kind(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
