"""The demo world: frozen, whole or absent, and true to its labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.path import Path as Outline

from s5.data.card import load_card
from s5.data.demo import CLASSES, DemoConfig, make_demo_world, world
from s5.data.demo.boxes import Box, cover_of, patch_of
from s5.data.demo.config import BUILDING, FIELD, FOREST, ROAD, WATER
from s5.data.demo.defects import defect_names
from s5.data.demo.land_cover import connected_areas, make_land_cover
from s5.data.demo.light import cast_shadows
from s5.data.demo.looks import LOOKS, mix_looks
from s5.data.demo.noise import blur, grain, value_noise, wave
from s5.data.demo.plan import ScenePlan, plan_world
from s5.data.ingest import IngestionConfig, ingest
from s5.geo.footprints import footprints
from s5.geo.raster import UnreadableRasterError, describe, read_window
from s5.geo.vector import rasterize
from s5.types import Window

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = DemoConfig(
    regions=3, unlabeled_scenes=2, labeled_scenes=1, val_scenes=1, test_scenes=1, scene_size=160, labeled_size=128,
    val_size=64, test_size=96,
)  # fmt: skip


def digest(plan: ScenePlan, gsd: float = 0.5) -> dict[str, str]:
    scene = plan.make()
    noisy = make_land_cover(
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((*plan.seed, 1)))), scene.mask, gsd
    )
    parts = {
        "image": scene.image.tobytes(),
        "mask": scene.mask.tobytes(),
        "noisy": noisy.tobytes(),
        "boxes": world.box_text(scene.boxes, gsd).encode(),
    }
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in parts.items()}


def frozen_plans() -> list[ScenePlan]:
    """All labelled, validation and test scenes of the default world, and one unlabelled scene of each region."""
    return [p for p in plan_world(DemoConfig()) if p.split != "unlabeled" or p.name.endswith("_00")]


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_world(tmp_path_factory.mktemp("demo") / "world", SMALL).parent


def test_the_default_world_is_frozen() -> None:
    # Made anew by `python tests/s5/data/test_demo.py`; a change of the world also raises world.VERSION.
    golden = json.loads((GOLDEN / "demo_world.json").read_text(encoding="utf-8"))
    assert golden["version"] == world.VERSION
    assert {f"{p.split}/{p.name}": digest(p) for p in frozen_plans()} == golden["scenes"]


def test_the_default_world_has_the_promised_tiles() -> None:
    tiles = dict.fromkeys(("labeled", "unlabeled", "val", "test"), 0)
    for plan in plan_world(DemoConfig()):
        assert plan.size % 128 == 0
        tiles[plan.split] += (plan.size // 128) ** 2
    assert tiles == {"labeled": 16, "unlabeled": 400, "val": 40, "test": 90}
    assert {p.region_name for p in plan_world(DemoConfig()) if p.split == "labeled"} == {"alder", "corvo"}


def test_four_times_the_tiles_start_with_the_same_scenes() -> None:
    once, four = plan_world(SMALL), plan_world(replace(SMALL, tiles=4))
    assert len([p for p in four if p.split == "unlabeled"]) == 4 * len([p for p in once if p.split == "unlabeled"])
    assert set(once) <= set(four)


def test_scenes_lie_apart() -> None:
    plans = plan_world(DemoConfig(tiles=4))
    for region in range(5):
        corners = np.array([(p.transform[2], p.transform[5], p.size * 0.5) for p in plans if p.region == region])
        gaps = np.abs(corners[:, None, :2] - corners[None, :, :2]).max(-1) - corners[:, 2][:, None]
        np.fill_diagonal(gaps, np.inf)
        assert gaps.min() >= 250


def test_seed_decides_all_arrays() -> None:
    plan = plan_world(SMALL)[0]
    other = plan_world(replace(SMALL, seed=1))[0]
    assert digest(plan) == digest(plan)
    assert digest(plan)["image"] != digest(other)["image"]
    assert digest(plan)["mask"] != digest(other)["mask"]


def test_every_split_and_labelled_region_shows_every_class() -> None:
    plans = plan_world(DemoConfig())
    for region in (0, 2):
        masks = [p.make().mask.ravel() for p in plans if p.split == "labeled" and p.region == region]
        shares = np.bincount(np.concatenate(masks), minlength=5) / sum(map(len, masks))
        assert (shares > 0.03).all(), shares


def test_masks_follow_the_polygons(small_world: Path) -> None:
    for path in sorted(small_world.glob("*/masks/*_00.tif")):
        if path.parts[-3] == "noisy":
            continue
        info = describe(path)
        assert info.crs == "EPSG:32632"
        assert info.transform[0] == 0.5
        burnt = rasterize(small_world / "labels.gpkg", class_field="class", classes=CLASSES, info=info)
        np.testing.assert_array_equal(burnt, read_window(path)[0][0])


def test_images_lie_on_their_masks_and_hold_no_nodata(small_world: Path) -> None:
    for split in ("labeled", "val", "test"):
        for path in (small_world / split / "images").glob("*.tif"):
            image, mask = describe(path), describe(small_world / split / "masks" / path.name)
            assert (image.bands, image.dtype, mask.bands, mask.dtype) == (3, "uint8", 1, "uint8")
            assert (image.transform, image.crs, image.height) == (mask.transform, mask.crs, mask.height)
            assert read_window(path)[0].min() >= 1


def test_card_is_read_by_ingestion_and_defects_are_quarantined(small_world: Path, tmp_path: Path) -> None:
    config = IngestionConfig(tile_size=64)
    found = ingest(small_world / "dataset.yml", config, seed=0, work_dir=tmp_path)
    assert found.labels.classes == CLASSES
    assert set(found.manifest["split"]) == {"labeled", "unlabeled", "noisy", "val", "test"}
    names = defect_names(SMALL)
    quarantined = " ".join(found.quarantine["path"].astype(str))
    for kind in ("truncated", "four_bands", "one_band"):
        assert names[kind] in quarantined
    stripes = found.manifest[found.manifest["image"].str.contains(names["nodata_stripes"])]
    assert 0 < stripes["valid_share"].min() < 1


def test_defects_are_what_they_say(small_world: Path) -> None:
    images, names = small_world / "unlabeled" / "images", defect_names(SMALL)
    path = {kind: images / f"{name}.tif" for kind, name in names.items()}
    assert all(p.exists() for p in path.values())
    with pytest.raises(UnreadableRasterError):
        read_window(path["truncated"])
    assert describe(path["four_bands"]).bands == 4
    assert describe(path["one_band"]).bands == 1
    assert 0.3 < read_window(path["nodata_stripes"])[1].mean() < 0.9
    assert read_window(path["blank_water"])[0].std(axis=(1, 2)).max() < 4
    original = images / f"{names['exact_copy'].split('_')[0]}_00.tif"
    assert path["exact_copy"].read_bytes() == original.read_bytes()


def test_near_duplicates_show_the_same_ground(small_world: Path) -> None:
    images, name = small_world / "unlabeled" / "images", defect_names(SMALL)["near_duplicate_0"]
    near, original = images / f"{name}.tif", images / f"{name.split('_')[0]}_00.tif"
    a, b = describe(near), describe(original)
    row = round((a.transform[5] - b.transform[5]) / b.transform[4])
    col = round((a.transform[2] - b.transform[2]) / b.transform[0])
    assert row > 0
    assert col > 0
    part = read_window(original, Window(row, col, a.height, a.width))[0].astype(float)
    assert np.corrcoef(part.ravel(), read_window(near)[0].ravel())[0, 1] > 0.98
    assert footprints([Window(0, 0, a.height, a.width)], a)[0] is not None


def test_boxes_lie_on_water_and_roads(small_world: Path) -> None:
    plans = [p for p in plan_world(DemoConfig()) if p.split in ("labeled", "test")]
    kinds = {"vehicle": ROAD, "boat": WATER}
    seen = dict.fromkeys(kinds, 0)
    for plan in plans[:6]:
        scene = plan.make()
        for box in scene.boxes:
            assert scene.mask[int(box.y), int(box.x)] == kinds[box.kind]
            assert all(0 <= x < plan.size and 0 <= y < plan.size for x, y in box.corners())
            seen[box.kind] += 1
    assert min(seen.values()) >= 10
    lines = next((small_world / "labeled" / "boxes").glob("*.txt")).read_text().splitlines()
    assert lines[0].startswith("imagesource:")
    assert lines[1] == "gsd:0.5"
    assert all(len(line.split()) == 10 for line in lines[2:])


def test_boats_and_vehicles_stand_out_from_what_they_lie_on() -> None:
    plan = next(p for p in plan_world(DemoConfig()) if p.split == "test" and p.region == 0)
    scene = plan.make()
    differences = []
    for box in (b for b in scene.boxes if b.kind == "boat"):
        patch = patch_of(box, plan.size)
        assert patch is not None
        inside = cover_of(patch, box) > 0.9
        window = scene.image[:, patch.rows, patch.cols].astype(float)
        water = scene.mask[patch.rows, patch.cols] == WATER
        differences.append(abs(window[:, inside].mean() - window[:, ~inside & water].mean()))
    assert np.median(differences) > 15


def test_regions_look_different_and_overlap() -> None:
    means: dict[int, list[np.ndarray]] = {}
    for plan in plan_world(DemoConfig(unlabeled_scenes=3, scene_size=128)):
        if plan.split == "unlabeled":
            means.setdefault(plan.region, []).append(plan.make().image.mean(axis=(1, 2)))
    centres = np.array([np.mean(m, axis=0) for m in means.values()])
    between = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(5, 1)]
    assert between.max() > 40
    assert mix_looks(LOOKS[0], LOOKS[1], 0.0) == LOOKS[0]
    assert mix_looks(LOOKS[0], LOOKS[1], 1.0) == LOOKS[1]
    assert mix_looks(LOOKS[0], LOOKS[1], 0.5).haze == pytest.approx((LOOKS[0].haze + LOOKS[1].haze) / 2)


def test_land_cover_is_coarse_shifted_and_partly_wrong() -> None:
    plans = [p for p in plan_world(DemoConfig()) if p.split == "test"][:4]
    rng = np.random.default_rng(0)
    agreement = []
    for plan in plans:
        mask = plan.make().mask
        noisy = make_land_cover(rng, mask, 0.5)
        np.testing.assert_array_equal(noisy, noisy[::20, ::20].repeat(20, 0).repeat(20, 1)[: plan.size, : plan.size])
        agreement.append((noisy == mask).mean())
    assert 0.6 < np.mean(agreement) < 0.9

    step = np.zeros((200, 200), np.uint8)
    step[:, 100:] = 1  # two objects, too large to be wrong: the edge moves 10 px to the right
    np.testing.assert_array_equal(make_land_cover(rng, step, 0.5)[:, 90:130], [[0] * 30 + [1] * 10] * 200)


def test_connected_areas_agree_with_scipy() -> None:
    from scipy import ndimage

    cells = np.random.default_rng(3).integers(0, 2, (17, 23)).astype(np.uint8)
    area = connected_areas(cells)
    for value in (0, 1):
        expected, count = ndimage.label(cells == value)
        pairs = {(int(a), int(b)) for a, b in zip(expected[cells == value], area[cells == value], strict=True)}
        assert len(pairs) == count == len({b for _, b in pairs})


def test_shadow_falls_away_from_the_sun() -> None:
    height = np.zeros((64, 64), np.float32)
    height[30:34, 30:34] = 10
    look = replace(LOOKS[0], sun=(-1.0, 0.0, 1.0))  # 45 degrees in the west: ten pixels of shadow to the east
    shadow = cast_shadows(height, look)
    assert shadow[32, 36:40].min() > 0.9
    assert shadow[32, 46:].max() == 0
    assert shadow[:, :28].max() == 0


def test_box_covers_what_its_corners_enclose() -> None:
    box = Box(20.3, 17.8, 0.8, 0.6, 16, 7)
    patch = patch_of(box, 40)
    assert patch is not None
    rows, cols = np.mgrid[patch.rows, patch.cols]
    centres = np.stack([cols + 0.5, rows + 0.5], axis=-1).reshape(-1, 2)
    enclosed = Outline(box.corners()).contains_points(centres).reshape(rows.shape)
    np.testing.assert_array_equal(cover_of(patch, box) > 0.5, enclosed)
    assert cover_of(patch, box).sum() == pytest.approx(16 * 7, rel=0.02)
    assert patch_of(Box(-50, 5, 1, 0, 4, 4), 40) is None


def test_noise_has_the_stated_moments() -> None:
    rng = np.random.default_rng(0)
    white = grain(rng, (256, 256))
    assert abs(white.mean()) < 0.02
    assert white.std() == pytest.approx(1, abs=0.02)
    smooth = value_noise(rng, 256, 32)
    assert np.abs(smooth).max() <= 1
    assert np.abs(np.diff(smooth)).max() < 0.1
    assert blur(white, 2).var() < 0.2
    phase = np.linspace(-2, 2, 101, dtype=np.float32)
    np.testing.assert_allclose(wave(phase), np.sin(2 * np.pi * phase), atol=0.06)


def test_world_is_made_once_and_again_for_another_configuration(tmp_path: Path) -> None:
    config = DemoConfig(
        regions=1, unlabeled_scenes=1, labeled_scenes=1, val_scenes=1, test_scenes=1, scene_size=64, labeled_size=64,
        val_size=64, test_size=64, defects=False,
    )  # fmt: skip
    card = make_demo_world(tmp_path / "world", config)
    before = {p: p.stat().st_mtime_ns for p in card.parent.rglob("*")}
    assert make_demo_world(tmp_path / "world", config) == card
    assert {p: p.stat().st_mtime_ns for p in card.parent.rglob("*")} == before
    first = read_window(card.parent / "labeled" / "images" / "alder_00.tif")[0]
    make_demo_world(tmp_path / "world", replace(config, seed=5))
    assert not np.array_equal(first, read_window(card.parent / "labeled" / "images" / "alder_00.tif")[0])
    make_demo_world(tmp_path / "world", config)
    np.testing.assert_array_equal(first, read_window(card.parent / "labeled" / "images" / "alder_00.tif")[0])
    assert [p.name for p in tmp_path.iterdir()] == ["world"]
    assert load_card(card).splits["labeled"].boxes == card.parent / "labeled" / "boxes"


def test_a_failure_leaves_nothing_and_the_older_world_as_it_was(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(world, "_write_scene", full)
    with pytest.raises(OSError, match="No space"):
        make_demo_world(tmp_path / "world", SMALL)
    assert list(tmp_path.iterdir()) == []
    marker = (small_world / "made_from.json").read_bytes()
    with pytest.raises(OSError, match="No space"):
        make_demo_world(small_world, replace(SMALL, seed=9))
    assert (small_world / "made_from.json").read_bytes() == marker
    assert [p.name for p in small_world.parent.iterdir()] == ["world"]


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"made_from\.json"):
        make_demo_world(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("regions", 0), ("regions", 6), ("tiles", 2), ("unlabeled_scenes", 0), ("scene_size", 63),
     ("test_size", "384"), ("gsd", 0), ("val_scenes", True)],
)  # fmt: skip
def test_values_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        DemoConfig(**{name: value})  # type: ignore[arg-type]


def test_card_names_the_classes_in_the_order_of_the_mask_values(small_world: Path) -> None:
    card = yaml.safe_load((small_world / "dataset.yml").read_text(encoding="utf-8"))
    assert tuple(card["classes"]) == CLASSES
    assert [CLASSES[i] for i in (FIELD, FOREST, WATER, ROAD, BUILDING)] == list(CLASSES)
    assert set(card["prompts"]) == set(CLASSES)


if __name__ == "__main__":
    scenes = {f"{plan.split}/{plan.name}": digest(plan) for plan in frozen_plans()}
    text = json.dumps({"version": world.VERSION, "scenes": scenes}, indent=1)
    (GOLDEN / "demo_world.json").write_text(text + "\n", encoding="utf-8")
