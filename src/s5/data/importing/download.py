"""Archives through torchgeo (extra ``s5[download]``): fetched, or checked and unpacked where they lie as zip files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from s5.data.importing.description import Archive


def fetch_archive(archive: Archive, root: Path) -> None:
    """Have torchgeo put a data set into `root`.

    Those that are given out on request alone (ISPRS) are checked and unpacked from the zip files that lie there.

    Raises:
        ModuleNotFoundError: torchgeo is not installed.
        ValueError: torchgeo does not know the data set.
    """
    known = archive.torchgeo
    if not known:
        raise ValueError(
            f"download: torchgeo does not know {archive.title}; get it from {archive.home}, unpack it and give its "
            "folder as dataset_import.root"
        )
    try:
        datasets = import_module("torchgeo.datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "dataset_import.download needs torchgeo, which is not installed; install it with "
            f"pip install 's5[download]', or get {archive.title} from {archive.home} yourself"
        ) from error
    options = {"download": True} if known.get("download") else {}
    for split in known["splits"]:
        getattr(datasets, known["class"])(root=str(root), split=split, checksum=True, **options)
