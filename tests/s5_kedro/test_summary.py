"""What `make run` prints at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from s5_kedro.summary import latest, summarise, table

SCORES = {"dataset": "d", "split": "test", "models": {"supervised": {"miou": 60.0}, "s4p": {"miou": 63.5}}}


def write(project: Path, layer: str, name: str, version: str, text: str) -> None:
    path = project / "data" / layer / name / version / name
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_the_newest_run_is_summarised(tmp_path: Path) -> None:
    write(tmp_path, "08_reporting", "evaluation.json", "v1", "{}")
    write(tmp_path, "08_reporting", "evaluation.json", "v2", json.dumps(SCORES))
    write(tmp_path, "08_reporting", "report.html", "v2", "")
    write(tmp_path, "06_models", "s4p_model.json", "v2", json.dumps({"path": "data/06_models/s4p/model.safetensors"}))
    maps = {"scenes": [{"files": {"index": "data/07_model_output/scene/x/index.html"}}]}
    write(tmp_path, "07_model_output", "scene_maps.json", "v2", json.dumps(maps))
    text = summarise(tmp_path)
    assert "map               data/07_model_output/scene/x/index.html" in text
    for part in ("report.html/v2/report.html", "data/06_models/s4p/model.safetensors", "mlflow.db", "kedro viz"):
        assert part in text
    assert "supervised    60.00" in text
    assert "difference    +3.50" in text
    assert latest(tmp_path, "evaluation.json", "08_reporting") == (
        tmp_path / "data/08_reporting/evaluation.json/v2/evaluation.json"
    )


def test_of_s4p_and_finetuned_val_decides() -> None:
    scores = {**SCORES, "models": {**SCORES["models"], "finetuned": {"miou": 70.0}}}  # type: ignore[dict-item]
    curves = {
        "s4p": pd.DataFrame({"step": [1], "val_miou": [50.0]}),
        "finetuned": pd.DataFrame({"step": [1], "val_miou": [40.0]}),
    }
    assert any("63.50" in line and "s4p" in line for line in table(scores, curves))


def test_models_without_a_baseline_are_listed() -> None:
    assert table({**SCORES, "models": {"mine": {"miou": 12.0}}}, {})[1].split() == ["mine", "12.00"]


def test_nothing_evaluated_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing was evaluated yet"):
        summarise(tmp_path)
