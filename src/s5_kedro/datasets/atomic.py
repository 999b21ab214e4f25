"""What every artefact of a run shares: a version is saved whole or not at all."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractVersionedDataset
from kedro.io.core import Version

from s5.files import replacing

FINGERPRINT = "fingerprint.json"


class AtomicDataset(AbstractVersionedDataset[Any, Any]):
    """A versioned file, written beside its target and renamed; a failed save leaves no version behind.

    Args:
        filepath: `data/<layer>/<name>.<ext>`; version v lies at `<filepath>/<v>/<name>.<ext>`.
        version: Which version is loaded and saved; Kedro gives it.
        metadata: Free for plug-ins; kedro-viz reads the layer here.
    """

    def __init__(self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None):
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """The value stored at `path`."""

    @abstractmethod
    def _write(self, path: Path, data: Any) -> None:
        """Store `data` at `path`, a temporary file with the right suffix."""

    def load(self) -> Any:
        return self._read(self.path)

    def save(self, data: Any) -> None:
        path = Path(self._get_save_path())
        try:
            with replacing(path) as temporary:
                self._write(temporary, data)
        except BaseException:
            self._forget(path.parent)
            raise

    @property
    def path(self) -> Path:
        """The file of the version that a load would read.

        Raises:
            VersionNotFoundError: nothing was saved yet.
        """
        return Path(self._get_load_path())

    @property
    def saving_folder(self) -> Path:
        """The folder that this run's version is saved to."""
        version = self.resolve_save_version()
        return Path(self._filepath if version is None else self._get_versioned_path(version)).parent

    def _forget(self, folder: Path) -> None:
        """Remove what a failed save left: its fingerprint and, where empty, the folders made for it."""
        if self._version is None or (folder / self._filepath.name).exists():
            return
        with suppress(OSError):
            (folder / FINGERPRINT).unlink(missing_ok=True)
            folder.rmdir()
            folder.parent.rmdir()

    def _exists(self) -> bool:
        return self.path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
