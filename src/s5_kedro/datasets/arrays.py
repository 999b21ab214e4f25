"""Arrays as .npy, read from disk as they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kedro_datasets._typing import TablePreview

from s5_kedro.datasets.atomic import AtomicDataset


class NpyDataset(AtomicDataset):
    """A numpy array; loading maps the file read-only, so that its size costs no memory."""

    def _read(self, path: Path) -> Any:
        return np.load(path, mmap_mode="r")

    def _write(self, path: Path, data: Any) -> None:
        np.save(path, data)

    def preview(self, nrows: int = 5, ncols: int = 8) -> TablePreview:
        """The array's upper left corner, for kedro-viz."""
        array = np.load(self.path, mmap_mode="r")
        corner = np.atleast_2d(array[:nrows] if array.ndim < 2 else array[:nrows, :ncols])
        columns = [str(i) for i in range(corner.shape[1])]
        rows = [[round(float(v), 4) for v in row] for row in corner]
        return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": rows})
