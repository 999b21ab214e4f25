"""Which evaluations go into a table, and which rows of papers stand beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s5_kedro.project import project_root


@dataclass(frozen=True)
class ResultsTableConfig:
    """The `results_table` parameter group.

    Args:
        evaluations: Paths of JSON files that `evaluation` or `finetune` over several data sets left, with stars where
            many are meant, separated by semicolons. A versioned entry (`data/08_reporting/evaluation.json`) stands for
            its latest version.
        published: Tables of papers beside it, separated by semicolons: `s5_table1`, `s5_table3`, or `none`.
        scores: Data set to the score of its column, where it is not the protocol's.
        title: Of the table.
        decimals: Digits after the point.

    Raises:
        ValueError: an unknown table, or a value out of range.
    """

    evaluations: str = "data/08_reporting/evaluation.json"
    published: str = "s5_table1"
    scores: Mapping[str, str] = field(default_factory=dict)
    title: str = "Results"
    decimals: int = 2

    def __post_init__(self) -> None:
        from s5.report.results_table import published_tables

        for name in self.tables:
            if name not in published_tables():
                raise ValueError(f"published: expected some of {', '.join(published_tables())}, or none, got {name!r}")
        if not 0 <= self.decimals <= 6:
            raise ValueError(f"decimals: expected 0 to 6, got {self.decimals!r}")

    @property
    def tables(self) -> list[str]:
        """The names of the published tables."""
        return [] if self.published == "none" else _parts(self.published)


def read_evaluations(paths: str) -> list[dict[str, Any]]:
    """The documents that a path list names, in its order.

    Raises:
        FileNotFoundError: a path where nothing lies.
    """
    return [json.loads(file.read_text(encoding="utf-8")) for part in _parts(paths) for file in _files(part)]


def _files(pattern: str) -> list[Path]:
    given = Path(pattern).expanduser()
    bases = [Path(given.anchor)] if given.is_absolute() else [Path.cwd(), project_root()]
    relative = str(given.relative_to(given.anchor)) if given.is_absolute() else str(given)
    found = next((matches for base in bases if (matches := sorted(base.glob(relative)))), [])
    files = [file for path in found if (file := _latest(path)) is not None]
    if not files:
        raise FileNotFoundError(
            f"results_table.evaluations: there is no file {pattern}; make one with kedro run --pipelines=evaluation"
        )
    return files


def _latest(path: Path) -> Path | None:
    """The file itself, or that of the latest version of a versioned entry."""
    if path.is_file():
        return path
    return max((file for file in path.glob(f"*/{path.name}")), default=None)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]
