"""One page with everything that a person would ask of a run."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from s5_kedro.project import project_root
from s5_kedro.records import label_space_of
from s5_kedro.tracking import git_revision

_PACKAGES = ("s5", "torch", "torchvision", "timm", "numpy", "rasterio", "geopandas", "scikit-learn", "kedro", "mlflow")


def render_report(**parts: Any) -> str:
    """The report as one self-contained HTML page.

    Args:
        parts: Tables, histories, scores, pictures and pointers by catalog name, and `params_<group>`.
    """
    from s5.report import ReportInputs, count_classes, render_report

    stages = {"seed": "seed", "supervised": "supervised", "s4p": "s4p", "finetuned": "finetune"}
    pointers = {name: parts[f"{name}_model"] for name in stages}
    inputs = ReportInputs(
        dataset=parts["label_space"]["name"],
        evaluation=parts["evaluation"],
        confusion=parts["confusion_counts"]["models"],
        histories={name: parts[f"{stage}_history"] for name, stage in stages.items()},
        manifest=parts["tile_manifest"],
        quarantine=parts["quarantine"],
        statistics=parts["band_statistics"],
        label_space=parts["label_space"],
        class_pixels=count_classes(parts["tile_manifest"], label_space_of(parts["label_space"])),
        scores=parts["tile_scores"],
        pool=parts["pretrain_pool"],
        clusters=parts["selection_clusters"],
        dropped=parts["selection_dropped"],
        figures={name: parts[name] for name in ("selection_report", "confusion_matrix", "prediction_gallery")},
        scenes=[scene_link(scene) for scene in parts["scene_maps"]["scenes"]],
        models=pointers,
        parameters={key.removeprefix("params_"): value for key, value in parts.items() if key.startswith("params_")},
        versions=_versions(),
        seed=parts["params_seed"],
        revision=git_revision(project_root()),
        command=" ".join(["kedro", *sys.argv[1:]]),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return render_report(inputs)


def scene_link(scene: dict[str, Any]) -> Any:
    """Where a scene's products lie, seen from `data/08_reporting/report.html/<version>/report.html`."""
    from s5.report import SceneLink

    files = {key: scene["files"][key] for key in ("index", "classes", "polygons", "areas") if key in scene["files"]}
    titles = {"index": "page", "classes": "classes.tif", "polygons": "polygons.gpkg", "areas": "areas.csv"}
    picture = project_root() / scene["folder"] / "quicklook.png"
    links = {titles[key]: f"../../../../{file}" for key, file in files.items()}
    return SceneLink(scene["name"], links, picture.read_bytes() if picture.is_file() else None)


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
