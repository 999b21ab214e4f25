"""An archive on disk to a card, a model's scores under the card's protocol, a table, and files for the server."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

CLASSES = ["background", "building", "road", "water", "barren", "forest", "agriculture"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoveDA's folders, names and encodings, with images of 48 px."""
    root, rng, number = tmp_path_factory.mktemp("LoveDA"), np.random.default_rng(0), 0
    for split in ("Train", "Val", "Test"):
        for scene in ("Urban", "Rural"):
            number += 1
            classes = np.kron(rng.integers(0, 8, (6, 6)), np.ones((8, 8))).astype(np.uint8)
            image = np.stack([classes * 30, 250 - classes * 30, classes * 17], -1) + 1
            for kind, pixels in (("images_png", image), ("masks_png", classes)):
                if (split, kind) != ("Test", "masks_png"):
                    path = root / split / scene / kind / f"{number}.png"
                    path.parent.mkdir(parents=True)
                    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learnt nothing."""
    import torch

    from s5.models import create_model, save_model

    torch.manual_seed(0)
    network = create_model(encoder="resnet10t", decoder="light", decoder_channels=8, classes=7, bands=3)
    statistics = {"bands": ["red", "green", "blue"], "low": [0] * 3, "high": [255] * 3, "mean": [0.5] * 3,
                  "std": [0.3] * 3}  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(network, path, metadata={"classes": CLASSES, "ignore_index": 255, "background": "background",
                                        "statistics": statistics})  # fmt: skip
    return path


def test_from_an_archive_to_a_table_and_a_submission(
    archive: Path, model: Path, tmp_path: Path, make_project, run_kedro
) -> None:
    project = make_project(tmp_path / "project")

    def newest(name: str) -> Path:
        return sorted((project / "data/08_reporting" / name).glob(f"*/{name}"))[-1]

    run_kedro(project, params={"dataset_import": {"name": "loveda", "root": str(archive)}},
              pipeline_names=["dataset_import"])  # fmt: skip
    report = json.loads(newest("dataset_report.json").read_text())
    assert report["splits"]["labeled"]["images"] == 2 and not report["complete"]
    card = Path(report["card"])
    assert card == project / "data/01_raw/loveda/dataset.yml"

    # The paper's windows are larger than these images: smaller ones, in the card.
    values = yaml.safe_load(card.read_text())
    values["protocol"] = {"preset": "loveda", "size": 32, "stride": 16, "boundary": 0.02}
    card.write_text(yaml.safe_dump(values))
    ingestion = {"tile_size": 48, "test_share": 0.0}
    run_kedro(project, pipeline_names=["evaluation"], params={
        "dataset": str(card), "ingestion": ingestion,
        "evaluation": {"split": "val", "models": {"mine": str(model)}},
    })  # fmt: skip
    evaluation = json.loads(newest("evaluation.json").read_text())
    assert evaluation["protocol"]["mode"] == "window" and evaluation["protocol"]["stride"] == 16
    scores = evaluation["models"]["mine"]
    assert 0 <= scores["boundary_miou"] <= 100 and 0 <= scores["fwiou"] <= 100
    assert scores["parameters"] > 10_000
    assert scores["n_pixels"] == sum(int((np.asarray(Image.open(card.parent / mask)) != 255).sum())
                                     for mask in ("masks/val/Val/Urban/images_png/3.png",
                                                  "masks/val/Val/Rural/images_png/4.png"))  # fmt: skip

    entry = project / "data/08_reporting/evaluation.json"
    run_kedro(project, pipeline_names=["results_table"], params={"results_table": {"evaluations": str(entry)}})
    assert "S5, ViT-H" in newest("results_table.html").read_text()
    assert f"{scores['miou']:.2f}" in newest("results_markdown.md").read_text()
    assert r"\toprule" in newest("results_latex.tex").read_text()

    run_kedro(project, pipeline_names=["submission"], params={
        "dataset": report["submission_card"], "ingestion": ingestion, "submission": {"model": str(model)},
    })  # fmt: skip
    with zipfile.ZipFile(json.loads(newest("submission_report.json").read_text())["zip"]) as packed:
        assert packed.namelist() == ["6.png", "5.png"]  # rural before urban
        for name in packed.namelist():
            with packed.open(name) as file:
                assert np.asarray(Image.open(file)).shape == (48, 48)
