"""Evaluations of several models and data sets as one table."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.results_table.config import ResultsTableConfig, read_evaluations


def make_results_table(results_table: dict[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    """The table as HTML, Markdown, LaTeX and JSON: results_table, results_markdown, results_latex, results_rows."""
    from s5.report import results_table as tables

    config = configure(ResultsTableConfig, results_table, "results_table")
    table = tables.results_table(
        read_evaluations(config.evaluations), published=config.tables, measures=config.scores, title=config.title,
        decimals=config.decimals,
    )  # fmt: skip
    return tables.render_html(table), tables.render_markdown(table), tables.render_latex(table), table.to_dict()
