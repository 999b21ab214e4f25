"""A made-up run whose numbers look like those of a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shapely.geometry import box

from s5.report import GalleryRow, ReportInputs, plot_gallery, render_report
from s5.report.canvas import encode
from s5.types import LabelSpace

CLASSES = ("field", "forest", "water", "road", "building")
SIDE = 96
_COLORS = np.array([[176, 168, 96], [44, 84, 48], [38, 70, 92], [132, 128, 126], [168, 92, 80]], dtype=np.float64)


@pytest.fixture(scope="session")
def labels() -> LabelSpace:
    return LabelSpace(CLASSES)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A manifest of small PNG tiles in two places, with masks."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def run_inputs(world: pd.DataFrame, labels: LabelSpace) -> ReportInputs:
    """Everything that a report can show."""
    return make_inputs(world, labels)


@pytest.fixture(scope="session")
def report_html(run_inputs: ReportInputs) -> str:
    """The page of `run_inputs`."""
    return render_report(run_inputs)


def make_world(folder: Path) -> pd.DataFrame:
    rows = []
    numbers = {"labeled": 12, "unlabeled": 60, "val": 8, "test": 10}
    for split, count in numbers.items():
        for number in range(count):
            rng = np.random.default_rng([number, len(split), ord(split[0])])
            mask = make_mask(rng)
            picture = make_picture(mask, rng)
            name = f"{split}_{number:03d}"
            Image.fromarray(picture).save(folder / f"{name}.png")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            west = 9.0 + 0.0016 * (number % 8) + (0.4 if number % 3 == 0 else 0.0)
            south = (
                48.0 + 0.0011 * (number // 8) + {"labeled": 0, "unlabeled": 0.002, "val": 0.012, "test": 0.015}[split]
            )
            rows.append(
                {
                    "tile_id": name,
                    "split": split,
                    "image": str(folder / f"{name}.png"),
                    "mask": str(folder / f"{name}_mask.png"),
                    "row": 0,
                    "col": 0,
                    "height": SIDE,
                    "width": SIDE,
                    "group": f"region{number % 3}",
                    "crs": "EPSG:32632",
                    "valid_share": np.float32(1.0 if number % 7 else 0.83),
                    "geometry": box(west, south, west + 0.0015, south + 0.001),
                }
            )
    return pd.DataFrame(rows)


def make_mask(rng: np.random.Generator) -> np.ndarray:
    """Smooth regions, a road and a few buildings."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    hills = sum(np.sin(rng.uniform(2, 7) * x + rng.uniform(2, 7) * y + rng.uniform(0, 6)) for _ in range(3))
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[hills > 0.8] = 1
    mask[hills < -1.3] = 2
    middle = rng.uniform(0.2, 0.8) + 0.15 * np.sin(4 * x)
    mask[np.abs(y - middle) < 0.035] = 3
    for _ in range(rng.integers(0, 7)):
        top, left = rng.integers(0, SIDE - 14, 2)
        mask[top : top + rng.integers(6, 14), left : left + rng.integers(6, 14)] = 4
    return mask


def make_picture(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, 9, (SIDE, SIDE, 1)) + rng.normal(0, 4, (SIDE, SIDE, 3))
    return np.clip(_COLORS[mask] * rng.uniform(0.8, 1.2) + noise, 0, 255).astype(np.uint8)


def make_prediction(mask: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """The truth, shifted in places and with blobs of another class."""
    guess = np.roll(mask, rng.integers(-2, 3, 2), axis=(0, 1))
    for _ in range(int(error * 60)):
        top, left = rng.integers(0, SIDE - 10, 2)
        guess[top : top + 10, left : left + 10] = rng.integers(0, 5)
    return guess


def make_history(steps: int, best: float, rng: np.random.Generator, *, s4p: bool) -> pd.DataFrame:
    step = np.arange(10, steps + 1, 10)
    part = step / steps
    history = pd.DataFrame(
        {
            "step": step,
            "loss": 1.5 * np.exp(-4 * part) + 0.25 + rng.normal(0, 0.06, len(step)).clip(-0.2, 0.2),
            "lr": 1e-3 * 0.5 * (1 + np.cos(np.pi * part)),
            "val_miou": np.where(
                step % 100 == 0, best * (1 - np.exp(-5 * part)) + rng.normal(0, 0.6, len(step)), np.nan
            ),
        }
    )
    if s4p:
        history["confident_share"] = 0.2 + 0.6 * (1 - np.exp(-3 * part)) + rng.normal(0, 0.04, len(step))
        history["pseudo_accuracy"] = 0.86 + 0.06 * part + rng.normal(0, 0.02, len(step))
        shares = np.array([0.42, 0.27, 0.15, 0.09, 0.07]) + rng.normal(0, 0.008, (len(step), 5))
        for index, name in enumerate(CLASSES):
            history[f"share_{name}"] = shares[:, index] / shares.sum(axis=1)
    return history


def make_scores(miou: float, rng: np.random.Generator, steps: int) -> dict[str, object]:
    ious = miou + np.array([9.0, 12.0, 6.0, -14.0, -13.0]) + rng.normal(0, 1.5, 5)
    return {
        "miou": float(ious.mean()),
        "macc": float(ious.mean() + 8),
        "mf1": float(ious.mean() + 11),
        "oa": float(ious.mean() + 17),
        "per_class_iou": {name: float(v) for name, v in zip(CLASSES, ious, strict=True)},
        "n_pixels": 92160,
        "seed": 0,
        "steps": steps,
        "labeled_seen": steps * 8,
        "selected_on": "val",
    }


def make_matrix(rng: np.random.Generator, right: float) -> list[list[int]]:
    rows = []
    for index, total in enumerate((38000, 26000, 14000, 8000, 6160)):
        spread = rng.dirichlet(np.ones(4)) * (1 - right + 0.04 * index)
        shares = np.insert(spread, index, right - 0.04 * index)
        rows.append([round(total * share) for share in shares])
    return rows


def make_selection(manifest: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Scores, pool, clusters and dropped tiles of a budget of 28."""
    rng = np.random.default_rng(5)
    tiles = manifest.loc[manifest["split"] == "unlabeled", "tile_id"].to_numpy()
    scores = pd.DataFrame(
        {
            "tile_id": tiles,
            "entropy": rng.beta(2.2, 5, len(tiles)).astype(np.float32),
            "cluster": rng.integers(0, 4, len(tiles)).astype(np.int32),
        }
    ).sort_values("entropy")
    scores["entropy_rank"] = np.arange(len(scores), dtype=np.int32)
    pool, dropped, clusters = [], [], []
    for cluster, part in scores.groupby("cluster"):
        quota = min(7 + 2 * int(cluster) - 3, len(part))
        taken = [f"place {n + 1} of {quota} in cluster {cluster} by lowest entropy" for n in range(quota)]
        pool.append(part.iloc[:quota].assign(reason=taken))
        reasons = [
            f"cluster full: its {quota} places went to tiles of lower entropy",
            "near duplicate of unlabeled_003",
            "entropy below the bound of 0.05",
        ]
        rest = part.iloc[quota:]
        dropped.append(rest.assign(reason=[reasons[i % 3] for i in range(len(rest))]))
        clusters.append((cluster, quota, quota, 3, len(part), len(rest) // 3))
    columns = ["cluster", "quota", "filled", "labeled", "candidates", "duplicates"]
    return (
        scores[["tile_id", "entropy"]],
        pd.concat(pool),
        pd.DataFrame(clusters, columns=columns),
        pd.concat(dropped).drop(columns="entropy_rank"),
    )


def make_gallery(manifest: pd.DataFrame) -> list[GalleryRow]:
    rows = []
    for number, row in enumerate(manifest[manifest["split"] == "test"].head(4).to_dict("records")):
        rng = np.random.default_rng(number)
        mask = np.array(Image.open(row["mask"]))
        image = np.array(Image.open(row["image"])).transpose(2, 0, 1)
        valid = np.ones(mask.shape, dtype=bool)
        valid[:, : 12 * (number == 1)] = False
        truth = np.where(valid, mask, 255).astype(np.uint8)
        truth[80:, 70:] = 255 if number == 2 else truth[80:, 70:]
        guesses = {
            name: make_prediction(mask, e, rng) for name, e in (("supervised", 0.3), ("s4p", 0.12), ("finetuned", 0.1))
        }
        rows.append(GalleryRow(row["tile_id"], image, truth, guesses, valid))
    return rows


def make_inputs(manifest: pd.DataFrame, labels: LabelSpace) -> ReportInputs:
    rng = np.random.default_rng(1)
    scores, pool, clusters, dropped = make_selection(manifest)
    names = ("supervised", "s4p", "finetuned")
    models = {
        "supervised": make_scores(58.0, rng, 2400),
        "s4p": make_scores(60.5, rng, 2000),
        "finetuned": make_scores(62.0, rng, 2400),
    }
    return ReportInputs(
        dataset="demo",
        evaluation={"dataset": "demo", "split": "test", "models": models},
        confusion={name: make_matrix(rng, r) for name, r in zip(names, (0.78, 0.83, 0.85), strict=True)},
        histories={
            "seed_model": make_history(800, 55, rng, s4p=False),
            "supervised": make_history(2400, 61, rng, s4p=False),
            "s4p": make_history(1200, 63, rng, s4p=True),
            "finetuned": make_history(400, 64.5, rng, s4p=False),
        },
        manifest=manifest,
        quarantine=pd.DataFrame(
            {
                "path": [
                    "unlabeled/elsk_3.tif",
                    "unlabeled/corvo_1.tif",
                    "unlabeled/corvo_4.tif",
                    "unlabeled/alder_9.tif",
                ],
                "split": "unlabeled",
                "kind": ["truncated", "wrong_bands", "wrong_bands", "nodata"],
                "reason": [
                    "truncated: the file ends after 113 of 512 rows",
                    "wrong band count: 1 band, expected 3",
                    "wrong band count: 2 bands, expected 3",
                    "all nodata",
                ],
            }
        ),
        statistics={
            "bands": ["red", "green", "blue"],
            "low": [0, 0, 0],
            "high": [255, 255, 255],
            "mean": [0.41, 0.43, 0.36],
            "std": [0.18, 0.16, 0.15],
        },
        label_space={
            "name": "demo",
            "classes": list(CLASSES),
            "ignore_index": 255,
            "background": None,
            "fingerprint": "9f2c01d4",
        },
        class_pixels={
            split: {n: int(v) for n, v in zip(CLASSES, rng.dirichlet([8, 6, 4, 2, 1.5]) * 1e6, strict=True)}
            for split in ("labeled", "val", "test")
        },
        scores=scores,
        pool=pool,
        clusters=clusters,
        dropped=dropped,
        figures={"prediction_gallery": encode(plot_gallery(make_gallery(manifest), labels, names))[1]},
        models={name: {"sha256": f"{i}" * 64, "step": 400, "config": {}} for i, name in enumerate(names)},
        parameters={
            "dataset": "demo",
            "seed": 0,
            "model": {"encoder": "resnet18", "decoder": "upernet", "decoder_channels": 64, "encoder_weights": None},
            "s4p": {"steps": 1200, "tau": 0.95, "optimizer": {"name": "adamw", "lr": 0.001, "betas": [0.9, 0.999]}},
        },
        versions={"s5": "0.1.0", "torch": "2.15.0", "numpy": "2.4.1", "python": "3.11.9"},
        seed=0,
        revision="4b1d0c8e2f7a9b3c5d6e7f8091a2b3c4d5e6f708",
        command="kedro run --params=seed=0",
    )
