"""Documents: JSON, HTML and other text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview

from s5_kedro.datasets.atomic import AtomicDataset


class JSONDataset(AtomicDataset):
    """A JSON document; NaN is refused, since no other reader takes it."""

    def _read(self, path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    def _write(self, path: Path, data: Any) -> None:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")

    def preview(self) -> JSONPreview:
        """The document, for kedro-viz."""
        return JSONPreview(self.path.read_text(encoding="utf-8"))


class TextDataset(AtomicDataset):
    """Text, such as Markdown or LaTeX."""

    def _read(self, path: Path) -> Any:
        return path.read_text(encoding="utf-8")

    def _write(self, path: Path, data: Any) -> None:
        path.write_text(data, encoding="utf-8")


class HTMLDataset(TextDataset):
    """A page of HTML as text."""
