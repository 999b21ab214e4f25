"""The dataset cards of a run on several data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from s5_kedro.project import DEMO, find_card, find_file


@dataclass(frozen=True)
class DatasetEntry:
    """One data set of several.

    Args:
        card: `demo`, or the path of a dataset card or its folder.
        weight: Factor on its loss.
        start: The step at which it joins the training.
    """

    card: str
    weight: float = 1.0
    start: int = 0


def dataset_entries(datasets: Any) -> dict[str, DatasetEntry]:
    """Name -> data set, as `multi_finetune.datasets` gives them; without any, the demo world.

    Args:
        datasets: A mapping of name to card, or to {card, weight, start}; a YAML file with such a mapping, whose cards
            are relative to it; or a glob of cards, each named as it names itself.

    Raises:
        ValueError, FileNotFoundError: there are none, or an entry cannot be read.
    """
    from s5_kedro.parameters import configure

    folder = None
    if isinstance(datasets, str):
        if glob_of(datasets):
            return {_name_of(path): DatasetEntry(path) for path in glob_of(datasets)}
        found = find_file(datasets)
        if found is None or not found.is_file():
            raise FileNotFoundError(
                f"multi_finetune.datasets: there is no file {datasets}; expected a YAML file of NAME: CARD, or a glob "
                "of dataset cards such as 'sets/*/dataset.yml'"
            )
        datasets, folder = yaml.safe_load(found.read_text(encoding="utf-8")), found.parent
    if not isinstance(datasets, Mapping):
        raise ValueError(f"multi_finetune.datasets: expected NAME: CARD for each data set, got {datasets!r}")
    entries = {}
    for name, value in (datasets or {DEMO: DEMO}).items():
        given = {"card": value} if isinstance(value, str) else value
        entry = configure(DatasetEntry, given, f"multi_finetune.datasets.{name}")
        beside = None if folder is None else folder / entry.card
        card = str(beside) if beside is not None and beside.exists() else entry.card
        entries[str(name)] = DatasetEntry(card, entry.weight, entry.start)
    return entries


def glob_of(pattern: str) -> list[str]:
    """The files that a pattern with a wildcard names, in order."""
    return sorted(glob(str(Path(pattern).expanduser()))) if "*" in pattern else []  # noqa: PTH207 (absolute patterns)


def _name_of(path: str) -> str:
    from s5.data.card import load_card

    return load_card(find_card(path)).name
