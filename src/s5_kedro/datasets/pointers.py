"""Model pointers: where a model's weights are, without the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io.core import VersionNotFoundError

from s5_kedro.datasets.documents import JSONDataset


class ModelPointerDataset(JSONDataset):
    """A pointer {path, sha256, step, config, ...}; loads None where no model was trained yet.

    None lets `evaluation` run on a finished model without the others; a node that needs the model says so.
    """

    def load(self) -> Any:
        try:
            return self._read(self.path)
        except VersionNotFoundError:
            return None

    def _write(self, path: Path, data: Any) -> None:
        missing = {"path", "sha256"} - set(data)
        if missing:
            raise ValueError(f"model pointer: {sorted(missing)} missing; make it with s5.models.make_pointer")
        super()._write(path, data)
