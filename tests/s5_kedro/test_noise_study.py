"""The study of layers under noise on a world of a few tiles: its rows, its rates, and what is not done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from s5.data.loader import SegmentationData
from s5.geo.raster import read_window, write_geotiff
from s5.types import BandStatistics, LabelSpace
from s5_kedro.pipelines.ablation.config import AblationConfig
from s5_kedro.pipelines.ablation.nodes import compare_arms, plot_ablation
from s5_kedro.pipelines.ablation.noise import NoiseStudy

CONF = Path(__file__).parents[2] / "conf"
CLASSES = ("roof", "tree", "lake")


def parameters() -> dict[str, Any]:
    found = [yaml.safe_load(p.read_text()) for p in sorted((CONF / "base").glob("parameters*.yml"))]
    merged: Any = OmegaConf.to_container(
        OmegaConf.merge(*found, yaml.safe_load((CONF / "test/parameters.yml").read_text()))
    )
    merged["finetune"]["augmentation"]["crop"] = 32
    merged["finetune"] |= {"steps": 1, "validate_every": 0, "checkpoint_every": 0}
    merged["ablation"] |= {"study": "noise", "seeds": 1}
    merged["ablation"]["noise"] |= {"kinds": "symmetric:0.3+card", "steps": 2, "batch_size": 2, "cuts": 1}
    return merged


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> NoiseStudy:
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    rows = []
    for split, count in {"labeled": 2, "unlabeled": 4, "val": 2, "test": 2}.items():
        for i in range(count):
            mask = np.kron(rng.integers(0, 3, (8, 4)), np.ones((8, 8))).astype(np.uint8)  # a scene of two tiles
            image = np.array([[200, 60, 50], [60, 180, 70], [50, 70, 190]], np.uint8)[mask].transpose(2, 0, 1)
            product = mask.copy()
            product[:16] = (product[:16] + 1) % 3  # a quarter is wrong
            paths = {kind: str(folder / f"{split}{i}{kind}.tif") for kind in ("", "_mask", "_product")}
            for path, array in zip(paths.values(), (image, mask, product), strict=True):
                write_geotiff(Path(path), array)
            for row in (0, 32):
                rows.append((f"{split}{i}_{row}", split, paths[""], paths["_mask"], row, 0, 32, 32))
                if split == "unlabeled":
                    rows.append((f"noisy{i}_{row}", "noisy", paths[""], paths["_product"], row, 0, 32, 32))
    manifest = pd.DataFrame(rows, columns=["tile_id", "split", "image", "mask", "row", "col", "height", "width"])
    statistics = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
    data = SegmentationData(manifest, statistics, LabelSpace(CLASSES), tile_size=32)
    return NoiseStudy(data, parameters(), folder)


def test_every_start_is_looked_at_and_fine_tuned_alike_and_once(
    study: NoiseStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, layers = study.tables([0])
    ways = runs[~runs["arm"].isin(["random", "supervised"])].groupby("arm")[["taken", "mode"]].apply(len)
    # of the encoder and of all but the head, trained on and frozen; SimSiam has no decoder
    assert ways.to_dict() == {"simsiam": 2, "clean": 4, "symmetric:0.3": 4, "card": 4}
    steps = runs.set_index("arm")["steps"]
    assert steps["random"] == 1 and set(steps.drop("random")) == {3}  # 2 of pretraining and 1 of fine-tuning
    rates = runs.groupby("arm")["noise_rate"].first()
    assert rates["clean"] == 0 and rates["card"] == pytest.approx(0.25)
    assert rates["symmetric:0.3"] == pytest.approx(0.3, abs=0.02)
    likeness = layers.set_index(["arm", "layer"])["cka"]
    assert likeness["clean"].to_numpy() == pytest.approx(1)
    assert len(likeness["clean"]) == 10 and (likeness["symmetric:0.3"] < 1).any()
    assert layers["probe_miou"].between(0, 100).all() and set(layers["arm"]) == set(ways.index) | {
        "random",
        "clean_again",
    }
    weights = sorted(p.parent.parent.name for p in study.project.glob("data/06_models/*/*/model.safetensors"))
    assert weights == [f"ablation_noise_{name}" for name in ("again", *["pretrained"] * 3, "simsiam")]

    monkeypatch.setattr(NoiseStudy, "_finetuned", lambda *_: pytest.fail("was run again"))
    again = NoiseStudy(study.data, parameters(), study.project).tables([0])
    pd.testing.assert_frame_equal(again[0], runs)
    values = parameters()["ablation"]
    table = compare_arms(runs, values, 0)
    assert set(table["taken"]) == {"encoder", "all but head"}
    encoder = table[(table["taken"] == "encoder") & (table["mode"] == "frozen")].set_index("arm")
    wanted = runs[runs["taken"] == "encoder"].set_index(["arm", "mode"])["miou"]
    assert encoder.loc["card", "mean"] == wanted["card", "frozen"]
    assert encoder.loc["card", "minus_simsiam"] == pytest.approx(wanted["card", "frozen"] - wanted["simsiam", "frozen"])
    assert len(plot_ablation(runs, table, layers, values).axes) == 3


def test_scenes_are_corrupted_whole_and_the_same_for_the_same_seed(study: NoiseStudy) -> None:
    data, _ = study._labelled("symmetric:0.3", 0)
    rows = data.manifest[data.manifest["split"] == "labeled"]
    assert rows["mask"].nunique() == 4 and len(rows) == 8
    assert all(read_window(Path(path))[0].shape == (1, 64, 32) for path in rows["mask"])
    other, _ = study._labelled("symmetric:0.3", 1)
    assert not set(other.manifest["mask"]) & set(rows["mask"])
    assert set(data.manifest["split"]) == {"labeled", "val", "test"}  # the few clean tiles have no part in pretraining


def test_depths_are_evenly_spaced_and_end_with_the_encoder(study: NoiseStudy) -> None:
    finer = parameters()
    finer["ablation"]["noise"]["cuts"] = 4  # of the four layers of the network
    cuts = NoiseStudy(study.data, finer, study.project)._cuts
    assert list(cuts) == ["layer 1", "layer 2", "layer 3", "encoder", "all but head"]
    assert [cut.get("encoder_layers") for cut in cuts.values()] == [1, 2, 3, None, None]
    assert {cut["head"] for cut in cuts.values()} == {"retrained"}


def test_noises_beside_it_leave_a_run_as_it_is(study: NoiseStudy) -> None:
    more, longer = parameters(), parameters()
    more["ablation"]["noise"]["kinds"] = "symmetric:0.3+symmetric:0.6"
    more["s4p"]["steps"] = 99
    longer["ablation"]["noise"]["steps"] = 9
    assert NoiseStudy(study.data, more, study.project).folder == study.folder
    assert NoiseStudy(study.data, longer, study.project).folder != study.folder


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"kinds": "symmetric"}, "kinds"),
        ({"kinds": "symmetric:2"}, "kinds"),
        ({"kinds": "fog:0.2"}, "kinds"),
        ({"kinds": "coarse:0.3"}, "kinds"),
        ({"kinds": "card+card"}, "kinds"),
        ({"steps": 0}, "steps"),
        ({"ridge": 0}, "ridge"),
    ],
)
def test_settings_that_make_no_study_name_the_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"noise\.{key}"):
        AblationConfig(study="noise", noise=values)  # type: ignore[arg-type]


def test_a_split_without_masks_is_refused(study: NoiseStudy) -> None:
    blind = study.data.manifest.assign(
        mask=study.data.manifest["mask"].where(study.data.manifest["split"] != "unlabeled", "")
    )
    data = SegmentationData(blind, study.data.statistics, study.data.labels, tile_size=32)
    with pytest.raises(ValueError, match=r"ablation\.noise\.split: the split 'unlabeled' has no masks"):
        NoiseStudy(data, parameters(), study.project)._labelled("clean", 0)
