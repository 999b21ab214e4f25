"""Vector files that a GIS opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s5_kedro.datasets.atomic import AtomicDataset


class GeoPackageDataset(AtomicDataset):
    """A GeoDataFrame as GeoPackage."""

    def _read(self, path: Path) -> Any:
        import geopandas as gpd

        return gpd.read_file(path)

    def _write(self, path: Path, data: Any) -> None:
        from s5.geo.vector import write_polygons

        attributes = {name: list(data[name]) for name in data.columns if name != data.geometry.name}
        write_polygons(path, list(data.geometry), attributes, str(data.crs), layer=self._filepath.stem)
