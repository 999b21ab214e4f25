"""What the last run left, in a few lines: `python -m s5_kedro.summary`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

_MODELS = ("seed_model", "supervised_model", "s4p_model", "finetuned_model")


def latest(project: Path, name: str, layer: str) -> Path | None:
    """The newest version of an artefact such as `evaluation.json` of layer `08_reporting`."""
    versions = sorted((project / "data" / layer / name).glob(f"*/{name}"))
    return versions[-1] if versions else None


def summarise(project: Path) -> str:
    """Where everything is, and what the unlabelled tiles bought.

    Raises:
        FileNotFoundError: nothing was evaluated yet.
    """
    found = latest(project, "evaluation.json", "08_reporting")
    if found is None:
        raise FileNotFoundError(f"{project}: nothing was evaluated yet; run kedro run")
    scores = json.loads(found.read_text(encoding="utf-8"))
    report = latest(project, "report.html", "08_reporting")
    lines = ["", f"{'report':<17} {_shown(report, project)}"]
    lines += [f"{'map':<17} {page}" for page in pages(project)]
    for name in _MODELS:
        pointer = latest(project, f"{name}.json", "06_models")
        if pointer is not None:
            weights = json.loads(pointer.read_text(encoding="utf-8"))["path"]
            lines.append(f"{name.replace('_', ' '):<17} {weights}")
    lines += ["MLflow            sqlite:///mlflow.db (make mlflow)", "Kedro-Viz         kedro viz run (make viz)", ""]
    return "\n".join([*lines, *table(scores, histories(project)), ""])


def pages(project: Path) -> list[str]:
    """The pages of the scenes that the last run mapped."""
    found = latest(project, "scene_maps.json", "07_model_output")
    scenes = [] if found is None else json.loads(found.read_text(encoding="utf-8"))["scenes"]
    return [scene["files"]["index"] for scene in scenes]


def histories(project: Path) -> dict[str, pd.DataFrame]:
    """The histories of the compared models."""
    files = {"s4p": "s4p_history.parquet", "finetuned": "finetune_history.parquet"}
    found = {name: latest(project, file, "08_reporting") for name, file in files.items()}
    return {name: pd.read_parquet(path) for name, path in found.items() if path is not None}


def table(scores: Mapping[str, Any], curves: Mapping[str, pd.DataFrame]) -> list[str]:
    """Supervised mIoU, S4P mIoU and their difference; of s4p and finetuned the one that is better on `val`."""
    from s5.report import judge

    head = f"mIoU on {scores['split']} of {scores['dataset']}, percent"
    verdict = judge(scores["models"], curves)
    if verdict is None:
        return [head, *(f"  {name:<12} {values['miou']:6.2f}" for name, values in scores["models"].items())]
    return [
        head,
        f"  supervised   {verdict.supervised:6.2f}",
        f"  S4P          {verdict.chosen:6.2f}   ({verdict.model}: {verdict.chosen_on})",
        f"  difference   {verdict.difference:+6.2f}",
    ]


def _shown(path: Path | None, project: Path) -> str:
    return "none" if path is None else str(path.relative_to(project))


if __name__ == "__main__":
    try:
        sys.stdout.write(summarise(Path.cwd()) + "\n")
    except FileNotFoundError as error:
        sys.exit(f"Error: {error}")
