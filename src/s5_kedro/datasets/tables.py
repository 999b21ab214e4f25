"""Tables as Parquet, with and without geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro_datasets._typing import TablePreview

from s5_kedro.datasets.atomic import AtomicDataset


class ParquetDataset(AtomicDataset):
    """A pandas DataFrame in one Parquet file."""

    def _read(self, path: Path) -> Any:
        import pandas as pd

        return pd.read_parquet(path)

    def _write(self, path: Path, data: Any) -> None:
        data.to_parquet(path, index=False)

    def preview(self, nrows: int = 10) -> TablePreview:
        """The first rows, for kedro-viz."""
        import json

        import pyarrow.parquet as pq

        first = next(pq.ParquetFile(self.path).iter_batches(batch_size=nrows), None)
        if first is None:
            return TablePreview({"index": [], "columns": pq.read_schema(self.path).names, "data": []})
        table = self._readable(first.to_pandas(ignore_metadata=True))
        return TablePreview(json.loads(table.to_json(orient="split", double_precision=4)))

    def _readable(self, table: Any) -> Any:
        return table


class GeoParquetDataset(ParquetDataset):
    """A GeoDataFrame as GeoParquet, which QGIS opens; a table without geometry is stored as it is."""

    def _read(self, path: Path) -> Any:
        import geopandas as gpd
        import pandas as pd
        import pyarrow.parquet as pq

        has_geometry = b"geo" in (pq.read_schema(path).metadata or {})
        return gpd.read_parquet(path) if has_geometry else pd.read_parquet(path)

    def _readable(self, table: Any) -> Any:
        """Geometry as text: a preview has no map."""
        from shapely import from_wkb, to_wkt

        for column in table.columns:
            if table[column].map(lambda value: isinstance(value, bytes)).any():
                shapes = (None if value is None else from_wkb(value) for value in table[column])
                table[column] = [None if shape is None else to_wkt(shape, rounding_precision=5) for shape in shapes]
        return table
