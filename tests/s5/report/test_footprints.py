from __future__ import annotations

import numpy as np
import pandas as pd
from shapely.geometry import box

from s5.report import plot_footprints
from s5.report.canvas import encode
from s5.report.footprints import has_footprints


def test_far_areas_get_their_own_panel(world: pd.DataFrame) -> None:
    figure = plot_footprints(world, ["unlabeled_001"])
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["All 2 areas", "Area A", "Area B"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "unlabeled, selected" in names
    assert encode(figure)[1]


def test_kilometres() -> None:
    """0.01 degrees at 60 degrees north: 1.113 km north and half of that east."""
    shapes = [box(10.0, 60.0, 10.005, 60.005), box(10.005, 60.005, 10.01, 60.01)]
    manifest = pd.DataFrame({"tile_id": ["a", "b"], "split": ["labeled", "test"], "geometry": shapes})
    axes = plot_footprints(manifest).axes[0]
    corners = np.concatenate([path.vertices for c in axes.collections for path in c.get_paths()])
    np.testing.assert_allclose(np.ptp(corners, axis=0), [0.5566, 1.1132], rtol=1e-3)


def test_areas_are_chosen_to_show_all_splits() -> None:
    """Seven areas of unlabelled tiles, the largest first, and one small area each of labelled and test tiles."""
    rows = [("unlabeled", area, tile) for area in range(7) for tile in range(9 - area)]
    rows += [("labeled", 7, 0), ("test", 8, 0)]
    shapes = [box(9 + area, 48 + 0.001 * tile, 9.001 + area, 48.001 + 0.001 * tile) for _, area, tile in rows]
    manifest = pd.DataFrame(
        {"tile_id": [f"{s}{a}{t}" for s, a, t in rows], "split": [s for s, _, _ in rows], "geometry": shapes}
    )
    axes = [a for a in plot_footprints(manifest).axes if a.get_visible()]
    assert [a.get_title(loc="left") for a in axes] == ["All 9 areas", *(f"Area {c}" for c in "ABCDE")]
    east = [float(a.get_xlabel().split()[3].removesuffix("°")) for a in axes[1:]]
    assert sorted(east[:3]) == [9.0, 16.0, 17.0]
    assert east[3:] == [10.0, 11.0]


def test_nothing_is_georeferenced() -> None:
    manifest = pd.DataFrame({"tile_id": ["a"], "split": ["test"], "geometry": [None]})
    assert not has_footprints(manifest)
    assert not has_footprints(manifest.drop(columns="geometry"))
    assert encode(plot_footprints(manifest))[1]
