"""Figures as PNG."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from kedro_datasets._typing import ImagePreview

from s5_kedro.datasets.atomic import AtomicDataset


class FigureDataset(AtomicDataset):
    """A matplotlib figure saved as PNG; loads as the PNG's bytes."""

    def _read(self, path: Path) -> Any:
        return path.read_bytes()

    def _write(self, path: Path, data: Any) -> None:
        # No "Software" text: equal figures are equal files, whatever matplotlib drew them.
        data.savefig(path, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})

    def preview(self) -> ImagePreview:
        """The picture, for kedro-viz."""
        return ImagePreview(base64.b64encode(self.path.read_bytes()).decode("ascii"))
