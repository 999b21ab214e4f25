"""Published data sets from their original archives: descriptions, and one importer that reads them."""

from s5.data.importing.archive import Imported, import_archive
from s5.data.importing.config import ImportConfig
from s5.data.importing.description import Archive, archive_names, describe_archive
from s5.data.importing.download import fetch_archive
from s5.data.importing.listing import ArchiveError
from s5.data.importing.masks import UnknownMaskValueError

__all__ = [
    "Archive",
    "ArchiveError",
    "ImportConfig",
    "Imported",
    "UnknownMaskValueError",
    "archive_names",
    "describe_archive",
    "fetch_archive",
    "import_archive",
]
