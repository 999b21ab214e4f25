"""The selection study on a world of a few tiles: same budget and steps for all, and nothing is done twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from s5.data.loader import SegmentationData
from s5.geo.raster import write_geotiff
from s5.types import BandStatistics, LabelSpace
from s5_kedro.pipelines.ablation.config import AblationConfig
from s5_kedro.pipelines.ablation.nodes import compare_arms, plot_ablation
from s5_kedro.pipelines.ablation.selection import SelectionStudy

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SelectionStudy:
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    rows = []
    for split, count in {"labeled": 3, "unlabeled": 12, "val": 2, "test": 2}.items():
        for i in range(count):
            mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((8, 8))).astype(np.uint8)
            image = np.array([[200, 60, 50], [60, 180, 70], [50, 70, 190]], np.uint8)[mask].transpose(2, 0, 1)
            paths = [folder / f"{split}{i}{kind}.tif" for kind in ("", "_mask")]
            write_geotiff(paths[0], image)
            write_geotiff(paths[1], mask)
            rows.append((f"{split}{i}", split, *map(str, paths), 0, 0, 32, 32))
    manifest = pd.DataFrame(rows, columns=["tile_id", "split", "image", "mask", "row", "col", "height", "width"])
    statistics = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
    data = SegmentationData(manifest, statistics, LabelSpace(("roof", "tree", "lake")), tile_size=32)
    return SelectionStudy(data, parameters(), folder)


def parameters():
    found = [yaml.safe_load(p.read_text()) for p in sorted((CONF / "base").glob("parameters*.yml"))]
    merged = OmegaConf.to_container(OmegaConf.merge(*found, yaml.safe_load((CONF / "test/parameters.yml").read_text())))
    for stage in ("seed_model", "s4p", "supervised"):
        merged[stage]["augmentation"]["crop"] = 32
    merged["diversity_sampling"] |= {"budget": 5, "clusters": 2, "max_similarity": None}
    return merged


def test_every_arm_has_the_same_budget_and_steps_and_is_run_once(study, monkeypatch):
    arms = ["supervised", "random", "s5:uniform"]
    rows = [study.run(arm, 0) for arm in arms]
    runs = pd.DataFrame(rows)
    assert runs.loc[runs["arm"] != "supervised", "pool"].tolist() == [5] * 2
    assert set(runs["steps"]) == {7}  # 3 of the seed model and 4 of S4P
    assert (runs["labeled_seen"] == 14).all()
    assert runs["model"].nunique() == 3
    assert runs["miou"].between(0, 100).all()
    assert list(runs.filter(like="iou_")) == ["iou_roof", "iou_tree", "iou_lake"]
    monkeypatch.setattr(SelectionStudy, "scores", lambda *_: pytest.fail("was run again"))
    again = SelectionStudy(study.data, parameters(), study.project)
    assert [again.run(arm, 0) for arm in arms] == rows
    values = {**parameters()["ablation"], "arms": "random+s5:uniform"}
    table = compare_arms(runs, values, 0)
    assert table["arm"].tolist() == arms
    assert plot_ablation(runs, table, pd.DataFrame(), values).axes


def test_the_pool_of_an_arm_is_that_of_its_strategy(study):
    start = study._seed_model(0)
    pools = {arm: study._select(arm, 0, start) for arm in ("random", "entropy", "s5", "random")}
    scores, _, _ = study._scored(start)
    assert set(pools["entropy"]) == set(scores.sort_values(["entropy", "tile_id"])["tile_id"][:5])
    assert set(pools["random"]) != set(pools["entropy"])


def test_other_settings_are_another_study_and_other_machines_are_not(study):
    changed, moved = parameters(), parameters()
    changed["s4p"]["steps"] = 9
    moved["compute"]["threads"] = 3
    moved["ablation"]["seeds"] = 9
    assert SelectionStudy(study.data, changed, study.project).folder != study.folder
    assert SelectionStudy(study.data, moved, study.project).folder == study.folder


@pytest.mark.parametrize(
    "values",
    [{"study": "moe"}, {"arms": "random+"}, {"arms": "s5+s5"}, {"arms": "best"}, {"arms": "s5:half"}, {"seeds": 0},
     {"reference": "badge"}, {"arms": "supervised+s5"}],
)  # fmt: skip
def test_settings_that_make_no_study_name_the_key(values):
    with pytest.raises(ValueError, match=rf"ablation\.{next(iter(values))}"):
        AblationConfig(**values)
