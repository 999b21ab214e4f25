"""Byte ranges of files, such as members of a tar shard, named so that GDAL opens them like files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"/vsisubfile/(\d+)_(\d+),(.+)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """`size` bytes of `file` from `offset` on.

    Its `path` is GDAL's name for it (``/vsisubfile/<offset>_<size>,<file>``), which stands in manifests and lists like
    the path of a plain file.
    """

    file: Path
    offset: int
    size: int

    @property
    def path(self) -> Path:
        return Path(f"/vsisubfile/{self.offset}_{self.size},{self.file}")

    def read(self) -> bytes:
        """The bytes, fewer of them where the file ends before.

        Raises:
            OSError: the file is gone or cannot be read.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def member_of(path: Path | str) -> Member | None:
    """The byte range that a path names, or None for the path of a plain file."""
    found = _NAME.fullmatch(os.fspath(path))
    return None if found is None else Member(Path(found[3]), int(found[1]), int(found[2]))


def file_behind(path: Path) -> Path:
    """The file on disk that a path is about: the shard of a member, else the path itself."""
    member = member_of(path)
    return path if member is None else member.file
