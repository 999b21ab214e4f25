"""Evaluations of several models and data sets as one table, with the papers' rows beside it."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from s5.data.protocol import PRESETS, SCORES
from s5.report.markup import Html, element

_LOG = logging.getLogger(__name__)

PUBLISHED = "published, not run"
_TITLES = {"miou": "mIoU", "mf1": "mF1", "macc": "mean accuracy", "oa": "overall accuracy", "fwiou": "weighted IoU",
           "boundary_miou": "boundary mIoU"}  # fmt: skip
_MODES = {"sdf": "a model a data set (SDF)", "mdf": "shared encoder (MDF)", "moe": "shared encoder, experts (MoE-MDF)"}


@dataclass(frozen=True)
class Score:
    """Mean over seeds, and their standard deviation (of n - 1) where there are several; in percent."""

    mean: float
    std: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class ResultRow:
    """One model, or one of a paper.

    Args:
        model: Its name.
        scores: Data set to score; those that it was not measured on are left out.
        parameters: How many, or None where nobody says.
        source: Where a published row stands; None for what was run.
        overall: The mean over all data sets, seed by seed, where every seed has all of them.
    """

    model: str
    scores: Mapping[str, Score]
    parameters: float | None = None
    source: str | None = None
    overall: Score | None = None

    def average(self, datasets: Sequence[str]) -> Score | None:
        """The mean over all data sets; None where one is missing."""
        if self.overall is not None:
            return self.overall
        if any(name not in self.scores for name in datasets):
            return None
        return Score(statistics.fmean(self.scores[name].mean for name in datasets))


@dataclass(frozen=True)
class ResultsTable:
    """Rows and columns of a table; `measures` says which score a data set's column holds."""

    datasets: tuple[str, ...]
    measures: Mapping[str, str]
    rows: tuple[ResultRow, ...]
    title: str = "Results"
    decimals: int = 2
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: a row a model, with mean, spread and number of seeds of each data set."""
        return {
            "title": self.title,
            "measures": dict(self.measures),
            "rows": [
                {
                    "model": row.model,
                    "parameters": row.parameters,
                    "published": row.source,
                    "scores": {name: vars(score) for name, score in row.scores.items()},
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
        }


@dataclass
class _Runs:
    """What was run of one model: (data set, seed) to score."""

    values: dict[tuple[str, Any], float] = field(default_factory=dict)
    parameters: float | None = None


def results_table(
    documents: Iterable[Mapping[str, Any]],
    *,
    published: Sequence[str] = ("s5_table1",),
    measures: Mapping[str, str] | None = None,
    title: str = "Results",
    decimals: int = 2,
) -> ResultsTable:
    """The table of several evaluations.

    Seeds of a model become mean and standard deviation. A model that was measured twice on a data set with one seed
    counts once, by the later document.

    Args:
        documents: As the pipelines `evaluation` (one data set, several models) and `finetune` over several data sets
            (``{"rows": [{"model", "mode", "seed", "parameters", "datasets": {name: scores}}]}``) leave them.
        published: Tables of papers; their rows come along where they have one of the data sets. See `published_tables`.
        measures: Data set to score; by default that of the evaluation's protocol, else of the data set's preset.
        title: Of the table.
        decimals: Digits after the point.

    Raises:
        ValueError: no document, one of another kind, an unknown table or score.
    """
    runs: dict[str, _Runs] = {}
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for document in documents:
        if document.get("split", "test") != "test":
            notes.append(f"{document.get('dataset', 'The data sets')}: what was run is of the split "
                         f"'{document['split']}', not of the test.")  # fmt: skip
        for dataset, measure in _measures_of(document).items():
            chosen[dataset] = (measures or {}).get(dataset, measure)
            if chosen[dataset] not in SCORES:
                raise ValueError(f"scores.{dataset}: expected one of {', '.join(SCORES)}, got {chosen[dataset]!r}")
        for model, dataset, seed, scores, parameters in _entries(document):
            value = scores.get(chosen[dataset])
            if value is None:
                notes.append(f"{model} on {dataset}: has no {_TITLES[chosen[dataset]]}")
                continue
            found = runs.setdefault(model, _Runs())
            found.parameters = parameters if parameters is not None else found.parameters
            found.values[dataset, seed] = float(value)
    if not runs:
        raise ValueError("there is no evaluation to make a table of; run kedro run --pipelines=evaluation first")
    datasets = tuple(chosen)
    own = tuple(
        ResultRow(model, _over_seeds(found), found.parameters, overall=_overall(found, datasets))
        for model, found in runs.items()
    )
    others = _published_rows(published, chosen)
    return ResultsTable(datasets, chosen, (*own, *others), title, decimals, tuple(dict.fromkeys(notes)))


@cache
def published_tables() -> dict[str, Any]:
    """The tables of papers that can stand beside one's own."""
    text = files("s5.report").joinpath("published.yml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def _measures_of(document: Mapping[str, Any]) -> dict[str, str]:
    if "models" in document:
        name = str(document["dataset"])
        protocol = document.get("protocol") or {}
        return {name: str(protocol.get("score") or _usual(name))}
    if "rows" in document:
        names = dict.fromkeys(name for row in document["rows"] for name in row["datasets"])
        return {name: _usual(name) for name in names}
    raise ValueError(
        f"a document with the keys {sorted(document)} is no evaluation; expected 'models', as evaluation.json has, or "
        "'rows', as the evaluation of several data sets has"
    )


def _usual(dataset: str) -> str:
    return PRESETS[dataset].score if dataset in PRESETS else "miou"


def _entries(document: Mapping[str, Any]) -> Iterable[tuple[str, str, Any, Mapping[str, Any], float | None]]:
    if "models" in document:
        for model, scores in document["models"].items():
            yield model, str(document["dataset"]), scores.get("seed"), scores, scores.get("parameters")
        return
    for row in document["rows"]:
        mode = row.get("mode")
        model = str(row["model"]) if mode is None else f"{row['model']}, {_MODES.get(mode, mode)}"
        for dataset, scores in row["datasets"].items():
            yield model, dataset, row.get("seed"), scores, row.get("parameters")


def _over_seeds(found: _Runs) -> dict[str, Score]:
    values: dict[str, list[float]] = {}
    for (dataset, _), value in found.values.items():
        values.setdefault(dataset, []).append(value)
    return {dataset: _score(of) for dataset, of in values.items()}


def _overall(found: _Runs, datasets: Sequence[str]) -> Score | None:
    seeds = dict.fromkeys(seed for _, seed in found.values)
    if any((name, seed) not in found.values for seed in seeds for name in datasets):
        return None
    return _score([statistics.fmean(found.values[name, seed] for name in datasets) for seed in seeds])


def _score(values: Sequence[float]) -> Score:
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def _published_rows(tables: Sequence[str], measures: Mapping[str, str]) -> tuple[ResultRow, ...]:
    rows = []
    for name in tables:
        if name not in published_tables():
            raise ValueError(f"published: expected some of {', '.join(published_tables())}, got {name!r}")
        table = published_tables()[name]
        for model, *cells in table["rows"]:
            given = dict(zip(table["columns"], cells, strict=True))
            scores = {
                dataset: Score(given[dataset])
                for dataset, measure in measures.items()
                if given.get(dataset) is not None and table["scores"].get(dataset) == measure
            }
            millions = given.get("parameters_m")
            if scores:
                rows.append(ResultRow(model, scores, None if millions is None else millions * 1e6, table["source"]))
    return tuple(rows)


def render_markdown(table: ResultsTable) -> str:
    """The table in Markdown."""
    head, body = _cells(table)
    lines = [f"# {table.title}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    lines += [_line([f"*{cells[0]}* ({PUBLISHED})" if row.source else cells[0], *cells[1:]]) for row, cells in body]
    return "\n".join([*lines, "", *(f"{note}  " for note in _notes(table))]) + "\n"


def render_latex(table: ResultsTable) -> str:
    """The table in LaTeX, with the rules of booktabs."""
    head, body = _cells(table)
    own = [_row(cells) for row, cells in body if not row.source]
    others = [_row([rf"\textit{{{_latex(cells[0])}}}", *cells[1:]], raw=True) for row, cells in body if row.source]
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", _row(head), r"\midrule", *own]
    if others:
        lines += [r"\midrule", rf"\multicolumn{{{len(head)}}}{{l}}{{\textit{{{PUBLISHED}}}}} \\", *others]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*(f"% {note}" for note in _notes(table)), *lines]) + "\n"


def render_html(table: ResultsTable) -> str:
    """The table as one self-contained page; the best of what was run is bold, published rows are set apart."""
    head, body = _cells(table)
    best = _best(table)
    rows = []
    for row, cells in body:
        name: Any = [cells[0], element("span", PUBLISHED, class_="tag")] if row.source else cells[0]
        marks = [None, None, *(name_ in best and best[name_] is row for name_ in (*table.datasets, None))]
        values = [
            element("td", element("strong", cell) if mark else cell, class_="n")
            for cell, mark in zip(cells[1:], marks[1:], strict=False)
        ]
        rows.append(element("tr", element("th", name, scope="row"), values, class_="published" if row.source else None))
    titles = [element("th", title, scope="col", class_=None if i == 0 else "n") for i, title in enumerate(head)]
    whole = element("table", element("thead", element("tr", titles)), element("tbody", rows))
    css = files("s5.report").joinpath("page.css").read_text(encoding="utf-8") + _CSS
    page = element(
        "html",
        element(
            "head", element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", table.title), element("link", rel="icon", href="data:,"), element("style", Html(css)),
        ),
        element(
            "body",
            element(
                "main", element("header", element("h1", table.title)), element("div", whole, class_="scroll"),
                [element("p", note, class_="note") for note in _notes(table)],
                element("footer", "Made by S5; needs no other file."), class_="results",
            ),
        ),
        lang="en",
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{page}\n"


_CSS = """
main.results { max-width: 88rem; margin: 0 auto; padding: 1.5rem; }
main.results td.n, main.results th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
main.results tbody th { white-space: nowrap; }
main.results tr.published th, main.results tr.published td { color: var(--muted, #667085); font-weight: normal; }
main.results .tag { margin-left: .6rem; padding: 0 .4rem; border: 1px solid currentColor; border-radius: .5rem;
  font-size: .72em; white-space: nowrap; }
"""


def _cells(table: ResultsTable) -> tuple[list[str], list[tuple[ResultRow, list[str]]]]:
    """Titles, and the text of each row's cells."""
    several = len(table.datasets) > 1
    titles = [f"{name} ({_TITLES[table.measures[name]]})" for name in table.datasets]
    head = ["model", "parameters, M", *titles, *(["average"] if several else [])]
    body = []
    for row in table.rows:
        millions = "–" if row.parameters is None else f"{row.parameters / 1e6:,.1f}"
        cells = [_text(row.scores.get(name), table.decimals) for name in table.datasets]
        average = [_text(row.average(table.datasets), table.decimals)] if several else []
        body.append((row, [row.model, millions, *cells, *average]))
    return head, body


def _text(score: Score | None, decimals: int) -> str:
    if score is None:
        return "–"
    spread = "" if score.std is None else f" ± {score.std:.{decimals}f}"
    return f"{score.mean:.{decimals}f}{spread}"


def _best(table: ResultsTable) -> dict[str | None, ResultRow]:
    """Column to the best row of those that were run, where there are several; None stands for the average."""
    own = [row for row in table.rows if not row.source]
    best: dict[str | None, ResultRow] = {}
    columns: list[str | None] = [*table.datasets, None]
    for column in columns:
        scored = {
            id(row): score.mean
            for row in own
            if (score := row.average(table.datasets) if column is None else row.scores.get(column)) is not None
        }
        if len(scored) > 1:
            best[column] = max((row for row in own if id(row) in scored), key=lambda row: scored[id(row)])
    return best


def _notes(table: ResultsTable) -> list[str]:
    notes = ["Scores in percent. Averages are over the data sets of the table, as computed here."]
    if any(score.std is not None for row in table.rows for score in row.scores.values()):
        notes.append("± is the standard deviation over seeds (of n - 1).")
    sources = dict.fromkeys(row.source for row in table.rows if row.source)
    notes += [f"Rows from {source}: {PUBLISHED} here; splits and protocol may differ." for source in sources]
    return [*notes, *table.notes]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _row(cells: Sequence[str], *, raw: bool = False) -> str:
    first = cells[0] if raw else _latex(cells[0])
    return " & ".join([first, *(_latex(cell) for cell in cells[1:])]) + r" \\"


_SPECIAL = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "–": "--", "±": r"$\pm$"}


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)
