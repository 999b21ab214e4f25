"""From the archive of a published data set to a dataset card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import find_card, find_file, project_root


def import_dataset(dataset_import: dict[str, Any]) -> dict[str, Any]:
    """Write card, lists, masks and tiles; returns dataset_report: what was found, and what is missing."""
    from s5.data import importing

    config = configure(importing.ImportConfig, dataset_import, "dataset_import")
    root = _folder(config.folder)
    if config.download:
        importing.fetch_archive(importing.describe_archive(config.archive), root)
    out = project_root() / Path(config.out or f"data/01_raw/{config.archive}").expanduser()
    labels_from = None if config.labels_from is None else find_card(config.labels_from)
    return importing.import_archive(config, root, out, labels_from=labels_from).report


def _folder(path: str) -> Path:
    """The archive's folder as the user names it: absolute, where they stand, or in the project."""
    return find_file(path) or (project_root() / Path(path).expanduser())
