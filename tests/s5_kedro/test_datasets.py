"""Artefacts are whole or absent, and read back as they were written."""

from __future__ import annotations

import base64
import errno
import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError
from kedro.io.core import Version
from matplotlib.figure import Figure
from shapely.geometry import box

from s5_kedro.datasets import (
    AtomicDataset,
    FigureDataset,
    GeoParquetDataset,
    HTMLDataset,
    JSONDataset,
    ModelPointerDataset,
    NpyDataset,
    ParquetDataset,
)

TABLE = pd.DataFrame({"tile_id": ["a", "b"], "entropy": np.array([0.25, 0.5], dtype=np.float32)})
MAP = gpd.GeoDataFrame({"tile_id": ["a", "b"]}, geometry=[box(0, 0, 1, 1), None], crs="EPSG:4326")
FIGURE = Figure(figsize=(1, 1))
VALUES: list[tuple[type[AtomicDataset], str, Any]] = [
    (ParquetDataset, "t.parquet", TABLE),
    (GeoParquetDataset, "m.parquet", MAP),
    (GeoParquetDataset, "t.parquet", TABLE),
    (NpyDataset, "e.npy", np.arange(12, dtype=np.float16).reshape(3, 4)),
    (JSONDataset, "j.json", {"a": [1, None]}),
    (ModelPointerDataset, "p.json", {"path": "w", "sha256": "0"}),
    (HTMLDataset, "r.html", "<p>ü</p>"),
    (FigureDataset, "f.png", FIGURE),
]


def make(kind: type[AtomicDataset], path: Path, save: str = "2026-01-01T00.00.00.000Z") -> AtomicDataset:
    return kind(filepath=str(path), version=Version(None, save))


@pytest.mark.parametrize(("kind", "name", "value"), VALUES)
def test_what_was_saved_is_loaded(kind: type[AtomicDataset], name: str, value: Any, tmp_path: Path) -> None:
    dataset = make(kind, tmp_path / name)
    assert not dataset.exists()
    dataset.save(value)
    assert (tmp_path / name / "2026-01-01T00.00.00.000Z" / name).is_file()
    loaded = dataset.load()
    if isinstance(value, gpd.GeoDataFrame):
        assert loaded.crs == value.crs
        assert loaded.geometry[0].equals(value.geometry[0])
        assert loaded.geometry[1] is None
    elif isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(loaded, value)
    elif isinstance(value, np.ndarray):
        assert isinstance(loaded, np.memmap)
        assert loaded.dtype == np.float16
        np.testing.assert_array_equal(loaded, value)
    elif isinstance(value, Figure):
        assert loaded.startswith(b"\x89PNG")
    else:
        assert loaded == value


@pytest.mark.parametrize(("kind", "name", "value"), VALUES)
def test_a_full_disk_leaves_the_earlier_version_in_place(
    kind: type[AtomicDataset], name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(kind, tmp_path / name, "v1").save(value)
    before = sorted(tmp_path.rglob("*"))
    later = make(kind, tmp_path / name, "v2")
    write = kind._write

    def half(self: AtomicDataset, path: Path, data: Any) -> None:
        write(self, path, data)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kind, "_write", half)
    with pytest.raises(DatasetError, match="No space left on device"):
        later.save(value)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.undo()
    assert make(kind, tmp_path / name, "v3").resolve_load_version() == "v1"


def test_a_failed_first_save_leaves_nothing(tmp_path: Path) -> None:
    dataset = make(JSONDataset, tmp_path / "j.json")
    (dataset.saving_folder).mkdir(parents=True)
    (dataset.saving_folder / "fingerprint.json").write_text("{}")
    with pytest.raises(DatasetError, match="not JSON compliant"):
        dataset.save({"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
    assert not dataset.exists()


def test_the_newest_version_is_loaded(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        make(JSONDataset, tmp_path / "j.json", version).save({"version": version})
    assert make(JSONDataset, tmp_path / "j.json", "v9").load() == {"version": "v2"}


def test_a_model_that_was_never_trained_loads_as_none(tmp_path: Path) -> None:
    assert make(ModelPointerDataset, tmp_path / "p.json").load() is None


def test_a_pointer_needs_path_and_hash(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"sha256.* missing"):
        make(ModelPointerDataset, tmp_path / "p.json").save({"path": "x"})


def test_previews(tmp_path: Path) -> None:
    def saved(kind: type[AtomicDataset], name: str, value: Any) -> Any:
        dataset = make(kind, tmp_path / name)
        dataset.save(value)
        return dataset

    assert saved(ParquetDataset, "t.parquet", TABLE).preview(nrows=1)["data"] == [["a", 0.25]]
    assert saved(ParquetDataset, "empty.parquet", TABLE[:0]).preview()["columns"] == ["tile_id", "entropy"]
    shape = saved(GeoParquetDataset, "m.parquet", MAP).preview()["data"]
    assert shape[0][1].startswith("POLYGON ((1")
    assert shape[1][1] is None
    corner = saved(NpyDataset, "e.npy", np.arange(12.0).reshape(3, 4)).preview(nrows=2, ncols=2)
    assert corner["data"] == [[0.0, 1.0], [4.0, 5.0]]
    assert json.loads(saved(JSONDataset, "j.json", {"a": 1}).preview()) == {"a": 1}
    assert base64.b64decode(saved(FigureDataset, "f.png", FIGURE).preview()).startswith(b"\x89PNG")


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        make(FigureDataset, tmp_path / name).save(FIGURE)
    first, second = sorted(tmp_path.rglob("*.png/*/*.png"))
    assert first.read_bytes() == second.read_bytes()
