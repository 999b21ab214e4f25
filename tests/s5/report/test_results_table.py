"""Evaluations of several models and data sets as one table."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from s5.report.results_table import (
    PUBLISHED,
    Score,
    published_tables,
    render_html,
    render_latex,
    render_markdown,
    results_table,
)


def evaluation(dataset: str, seed: int = 0, **models: float) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "split": "test",
        "models": {name: {"miou": value, "mf1": value + 5, "seed": seed} for name, value in models.items()},
    }


def several(mode: str, seed: int, parameters: int, **scores: float) -> dict[str, Any]:
    datasets = {name: {"miou": value, "mf1": value + 5} for name, value in scores.items()}
    return {"model": "tiny", "mode": mode, "seed": seed, "parameters": parameters, "datasets": datasets}


def test_seeds_become_mean_and_standard_deviation() -> None:
    values = [70.0, 72.0, 77.0]
    rows = [several("moe", seed, 5_000_000, dubai=value, roads=value - 10) for seed, value in enumerate(values)]
    rows += [several("sdf", 0, 9_000_000, dubai=71.0)]
    table = results_table([{"rows": rows}])
    assert table.datasets == ("dubai", "roads")
    moe, sdf = table.rows
    assert moe.model == "tiny, shared encoder, experts (MoE-MDF)" and moe.parameters == 5_000_000
    assert moe.scores["dubai"] == Score(73.0, pytest.approx(statistics.stdev(values)), 3)
    assert moe.average(table.datasets) == Score(68.0, pytest.approx(statistics.stdev(values)), 3)
    assert sdf.scores["dubai"] == Score(71.0, None, 1)
    assert sdf.average(table.datasets) is None
    assert "| 73.00 ± 3.61 | 63.00 ± 3.61 | 68.00 ± 3.61 |" in render_markdown(table)
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["scores"]["dubai"]["seeds"] == 3


def test_several_evaluations_meet_by_the_name_of_the_model() -> None:
    documents = [evaluation("loveda", mine=50.0, base=48.0), evaluation("potsdam", mine=80.0)]
    table = results_table(documents, published=[])
    assert table.measures == {"loveda": "miou", "potsdam": "mf1"}  # as the papers have it
    mine, base = table.rows
    assert (mine.scores["loveda"].mean, mine.scores["potsdam"].mean) == (50.0, 85.0)
    assert set(base.scores) == {"loveda"}


def test_a_repeated_run_counts_once_and_the_protocol_chooses_the_score() -> None:
    documents = [evaluation("town", mine=50.0), evaluation("town", mine=60.0)]
    assert results_table(documents).rows[0].scores["town"] == Score(60.0)
    documents[1]["protocol"] = {"score": "mf1"}
    table = results_table(documents[1:])
    assert table.measures == {"town": "mf1"} and table.rows[0].scores["town"].mean == 65.0
    assert results_table(documents[1:], measures={"town": "miou"}).rows[0].scores["town"].mean == 60.0


def test_published_rows_come_with_their_data_sets_alone_and_are_marked() -> None:
    table = results_table([evaluation("loveda", mine=50.0), evaluation("dubai", mine=70.0)])
    published = [row for row in table.rows if row.source]
    assert len(published) == len(published_tables()["s5_table1"]["rows"]) - 1  # MA3E has no LoveDA
    assert {row.model: row.scores["loveda"].mean for row in published}["S5, ViT-H"] == 55.65
    assert all(set(row.scores) == {"loveda"} for row in published)
    for text in (render_markdown(table), render_latex(table), render_html(table)):
        assert PUBLISHED in text
    assert results_table([evaluation("dubai", mine=70.0)]).rows[-1].source is None
    # Potsdam is published as mF1: no mIoU is compared with it.
    assert results_table([evaluation("potsdam", mine=1.0)], measures={"potsdam": "miou"}).rows[-1].source is None


def test_the_papers_averages_as_computed_here() -> None:
    """Table 3 prints 74.15 for a = 1/4, where its four numbers give 73.91; the other rows agree."""
    names = ("vaihingen", "potsdam", "openearthmap", "loveda")
    documents = [{"rows": [several("moe", 0, 1, **dict.fromkeys(names, 50.0))]}]
    table = results_table(documents, published=["s5_table3"])
    printed = [72.14, 73.51, 73.75, 73.80, 73.91, 73.88]
    averages = [row.average(names) for row in table.rows if row.source]
    for score, expected in zip(averages, printed, strict=True):
        assert score is not None and score.mean == pytest.approx(expected, abs=0.0076)


def test_formats_escape_what_is_special_to_them() -> None:
    table = results_table([evaluation("a_b", **{"50% & <more>|_x": 12.345})], decimals=1)
    assert r"50\% \& <more>|\_x & -- & 12.3 \\" in render_latex(table)
    assert r"| 50% & <more>\|_x | – | 12.3 |" in render_markdown(table)
    page = render_html(table)
    assert "50% &amp; &lt;more&gt;|_x" in page and "<more>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_best_of_what_was_run_is_bold_and_no_paper_is() -> None:
    documents = [evaluation("loveda", mine=50.0, base=48.0)]
    page = render_html(results_table(documents))
    assert "<strong>50.00</strong>" in page
    assert page.count("<strong>") == 1
    assert "<strong>" not in render_html(results_table([evaluation("loveda", mine=50.0)]))


def test_a_missing_score_is_said() -> None:
    document = evaluation("town", mine=50.0, other=40.0)
    document["models"]["other"]["miou"] = None
    assert results_table([document]).notes == ("other on town: has no mIoU",)


def test_another_split_than_the_test_is_said() -> None:
    note = "town: what was run is of the split 'val', not of the test."
    assert results_table([{**evaluation("town", mine=50.0), "split": "val"}]).notes == (note,)
    assert results_table([evaluation("town", mine=50.0)]).notes == ()


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "there is no evaluation to make a table of"),
        ([{"loss": 1}], {}, r"keys \['loss'\] is no evaluation"),
        ([evaluation("a", m=1.0)], {"published": ["s6"]}, "published: expected some of s5_table1, s5_table3, got 's6'"),
        ([evaluation("a", m=1.0)], {"measures": {"a": "iou"}}, "scores.a: expected one of miou"),
    ],
)
def test_mistakes(documents: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results_table(documents, **options)
