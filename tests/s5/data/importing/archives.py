"""Small imitations of the archives: their exact folders, names and encodings, with a few small images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ISPRS = {"impervious_surface": (255, 255, 255), "building": (0, 0, 255), "low_vegetation": (0, 255, 255),
         "tree": (0, 255, 0), "car": (255, 255, 0)}  # fmt: skip
CLUTTER, BOUNDARY = (255, 0, 0), (0, 0, 0)


def picture(path: Path, size: tuple[int, int], seed: int = 0, bands: int = 3) -> np.ndarray:
    """Random pixels, written as the suffix says; returns what is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, bands) if bands > 1 else size
    values = np.random.default_rng(seed).integers(1, 250, shape).astype(np.uint8)
    Image.fromarray(values).save(path)
    return np.asarray(Image.open(path))


def indices(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def colours(path: Path, classes: np.ndarray, palette: list[tuple[int, int, int]]) -> None:
    """An RGB mask: `classes` counts through `palette`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(palette, dtype=np.uint8)[classes]).save(path)


def loveda(root: Path) -> dict[str, np.ndarray]:
    masks, number = {}, 0
    for split in ("Train", "Val"):
        for scene in ("Urban", "Rural"):
            number += 1
            picture(root / split / scene / "images_png" / f"{number}.png", (12, 12), number)
            values = np.random.default_rng(number).integers(0, 8, (12, 12))
            indices(root / split / scene / "masks_png" / f"{number}.png", values)
            masks[f"{split}/{scene}/{number}"] = values
    for scene in ("Urban", "Rural"):
        number += 1
        picture(root / "Test" / scene / "images_png" / f"{number}.png", (12, 12), number)
    return masks


def vaihingen(
    root: Path, areas: tuple[int, ...] = (1, 3, 2), size: tuple[int, int] = (40, 30)
) -> dict[int, np.ndarray]:
    """Areas 1 and 3 belong to the training images, 2 to those of the test."""
    masks = {}
    palette = [*ISPRS.values(), CLUTTER]
    complete = root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
    eroded = root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
    for area in areas:
        picture(root / "top" / f"top_mosaic_09cm_area{area}.tif", size, area)
        classes = np.random.default_rng(area).integers(0, 6, size)
        colours(complete / f"top_mosaic_09cm_area{area}.tif", classes, palette)
        with_edges = classes.copy()
        with_edges[::5] = 6
        colours(eroded / f"top_mosaic_09cm_area{area}_noBoundary.tif", with_edges, [*palette, BOUNDARY])
        masks[area] = classes
    return masks


def potsdam(
    root: Path, tiles: tuple[str, ...] = ("2_10", "2_13"), size: tuple[int, int] = (40, 40)
) -> dict[str, np.ndarray]:
    masks = {}
    for number, tile in enumerate(tiles):
        picture(root / "2_Ortho_RGB" / f"top_potsdam_{tile}_RGB.tif", size, number)
        classes = np.random.default_rng(number).integers(0, 6, size)
        colours(root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif", classes, [*ISPRS.values(), CLUTTER])
        eroded = np.where(np.arange(size[0])[:, None] % 7 == 0, 6, classes)
        colours(root / "5_Labels_all_noBoundary" / f"top_potsdam_{tile}_label_noBoundary.tif", eroded,
                [*ISPRS.values(), CLUTTER, BOUNDARY])  # fmt: skip
        masks[tile] = classes
    return masks


def openearthmap(root: Path) -> dict[str, np.ndarray]:
    masks = {}
    names = {"train": ["aachen_1.tif", "dar_es_salaam_12.tif"], "val": ["aachen_2.tif"], "test": ["aachen_3.tif"]}
    for split, files in names.items():
        (root / f"{split}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(files) + "\n")
        for number, file in enumerate(files):
            region = file.rpartition("_")[0]
            picture(root / region / "images" / file, (10, 14), number)
            if split != "test":
                masks[file] = np.random.default_rng(number).integers(0, 9, (10, 14))
                indices(root / region / "labels" / file, masks[file])
    return masks


DEEPGLOBE = [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]


def deepglobe(root: Path) -> np.ndarray:
    """A mask whose colours are up to 127 levels away from the palette, as the archive's own notes allow."""
    picture(root / "train" / "119_sat.jpg", (24, 24), 1)
    classes = np.random.default_rng(3).integers(0, 7, (24, 24))
    exact = np.array(DEEPGLOBE)[classes]
    noise = np.random.default_rng(4).integers(0, 128, exact.shape)
    noisy = np.where(exact == 0, noise, 255 - noise).astype(np.uint8)
    Image.fromarray(noisy).save(root / "train" / "119_mask.png")
    picture(root / "valid" / "10_sat.jpg", (24, 24), 2)
    picture(root / "test" / "20_sat.jpg", (24, 24), 5)
    return classes


ISAID = [(0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63),
         (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191), (0, 127, 255),
         (0, 100, 155)]  # fmt: skip


def isaid(root: Path, size: tuple[int, int] = (1400, 1100)) -> np.ndarray:
    """One training image whose objects all lie in its first rows, so that the blocks below them are empty."""
    picture(root / "train" / "images" / "P0000.png", size, 1)
    classes = np.zeros(size, dtype=int)
    classes[:16, :1000] = np.random.default_rng(0).integers(0, 16, (16, 1000))
    colours(root / "train" / "Semantic_masks" / "images" / "P0000_instance_color_RGB.png", classes, ISAID)
    picture(root / "val" / "images" / "P0003.png", (600, 500), 2, bands=1)  # DOTA has grey images too
    colours(root / "val" / "Semantic_masks" / "images" / "P0003_instance_color_RGB.png",
            np.zeros((600, 500), dtype=int), ISAID)  # fmt: skip
    picture(root / "test" / "images" / "P0006.png", (30, 30), 3)
    return classes


GID = [(0, 0, 0), (200, 0, 0), (250, 0, 150), (200, 150, 150), (250, 150, 150), (0, 200, 0), (150, 250, 0),
       (150, 200, 150), (200, 0, 200), (150, 0, 250), (150, 150, 250), (250, 200, 0), (200, 200, 0), (0, 0, 200),
       (0, 150, 200), (0, 200, 250)]  # fmt: skip


def gid15_original(root: Path) -> np.ndarray:
    folder, name = root / "Fine Land-cover Classification_15classes", "GF2_PMS1__L1A0001064454-MSS1"
    picture(folder / "image_RGB" / f"{name}.tif", (20, 20), 1)
    classes = np.random.default_rng(0).integers(0, 16, (20, 20))
    colours(folder / "label_15classes" / f"{name}_label.tif", classes, GID)
    return classes


def gid15_challenge(root: Path) -> np.ndarray:
    classes = np.random.default_rng(0).integers(0, 16, (20, 20))
    for number, split in enumerate(("train", "val", "test")):
        picture(root / "GID" / "img_dir" / split / f"GF2_{number}.tif", (20, 20), number)
        if split != "test":
            indices(root / "GID" / "ann_dir" / split / f"GF2_{number}_15label.png", classes)
    return classes


def samrs_sota(root: Path) -> np.ndarray:
    folder = root / "dotav2_1024" / "trainval"
    name = "P0000__1024__0___824"
    picture(folder / "images" / f"{name}.png", (16, 16), 1)
    values = np.random.default_rng(0).integers(0, 18, (16, 16))
    values[:4] = 255
    indices(folder / "hbox_segs_init" / "gray" / f"{name}.png", values)
    return values


def millionaid(root: Path) -> None:
    picture(root / "train" / "agriculture_land" / "arable_land" / "dry_field" / "P0335343.jpg", (12, 12), 1)
    picture(root / "train" / "water_area" / "lake" / "P0335344.jpg", (12, 12), 2)
    picture(root / "test" / "P0000001.jpg", (12, 12), 3)


BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
NATIVE = {"B1": 44, "B9": 44, "B10": 44, "B5": 132, "B6": 132, "B7": 132, "B8A": 132, "B11": 132, "B12": 132}


def ssl4eo_nol(root: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A place with labels in one season of two, its bands of 10, 20 and 60 m as files of their own."""
    from s5.geo.raster import write_geotiff

    def grid(side: int) -> tuple[float, ...]:
        pixel = 2640 / side
        return (pixel, 0.0, 600_000.0, 0.0, -pixel, 4_000_000.0)

    rng, pixels = np.random.default_rng(0), {}
    for season in ("20200604T054639_20200604T054831_T43RCP", "20200913T054639_20200913T055118_T43RCP"):
        for band in BANDS:
            side = NATIVE.get(band, 264)
            pixels[band] = rng.integers(0, 255, (side, side)).astype(np.uint8)
            path = root / "s2c" / "0000007" / season / f"{band}.tif"
            write_geotiff(path, pixels[band], transform=grid(side), crs="EPSG:32643")
    labels = rng.integers(0, 9, (264, 264)).astype(np.uint8)
    path = root / "dw_noisy_labels" / "0000007" / season / "label.tif"
    write_geotiff(path, labels, transform=grid(264), crs="EPSG:32643")
    return pixels, labels


def ssl4eo_dw(root: Path) -> np.ndarray:
    """12 bands of uint16, and labels with a second band that holds the classes."""
    from s5.geo.raster import write_geotiff

    rng = np.random.default_rng(0)
    values = rng.integers(0, 11, (51, 51)).astype(np.uint8)
    for split, name in (
        ("train", "-0.0520777954_32.9493499204-20190816"),
        ("test", "-0p6481384406_6p8231873947-20190226"),
    ):
        folder = root / f"dw_{split}"
        write_geotiff(folder / "image_s2" / f"s2_{name}.tif", rng.integers(0, 10000, (12, 51, 51)).astype(np.uint16))
        both = values if split == "train" else np.stack([np.full_like(values, 99), values])
        write_geotiff(folder / "label_dw" / f"dw_{name}.tif", both)
    return values
