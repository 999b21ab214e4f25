"""Whole label maps on disk made wrong, and how wrong they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from s5.data.loader import SegmentationData, TileSource
from s5.metrics import segmentation_scores
from s5.noisy.corruption import CorruptionConfig, corrupt
from s5.seeds import numpy_generator
from s5.types import LabelSpace, Window

if TYPE_CHECKING:
    import pandas as pd

    from s5.geo.raster import RasterInfo

SOURCES = ("card", "corrupt", "land_cover")


@dataclass(frozen=True)
class NoisyLabelsConfig:
    """Where the noisy labels come from.

    Args:
        source: ``"card"``: the card's split ``noisy``. ``"corrupt"``: the masks of `split` made wrong by `corruption`.
            ``"land_cover"``: a raster of any CRS and resolution, laid over the images of `split`; the card's ``legend``
            says which class each of its values is.
        split: Whose images get noisy labels, for the last two.
        land_cover: The raster.
        corruption: The noise model.
    """

    source: str = "card"
    split: str = "labeled"
    land_cover: str | None = None
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)

    def __post_init__(self) -> None:
        if isinstance(self.corruption, Mapping):
            object.__setattr__(self, "corruption", CorruptionConfig(**self.corruption))
        if self.source not in SOURCES:
            raise ValueError(f"noisy_labels.source: expected one of {', '.join(SOURCES)}, got {self.source!r}")
        if self.source == "land_cover" and not self.land_cover:
            raise ValueError("noisy_labels.land_cover: expected the path of a land-cover raster, got none")


def noisy_tiles(
    manifest: pd.DataFrame,
    config: NoisyLabelsConfig,
    folder: Path,
    *,
    seed: int,
    labels: LabelSpace,
    legend: Mapping[int, int | None] | None = None,
) -> pd.DataFrame:
    """The tiles with noisy labels: rows of the manifest with `split` ``"noisy"``.

    Args:
        folder: Where label maps that are made go, whole scenes.
        legend: Value of the land-cover raster -> class; None is no label. Values that it leaves out have none either.

    Raises:
        ValueError: there is nothing to take, or no legend for a land-cover raster.
    """
    split = "noisy" if config.source == "card" else config.split
    rows = manifest[manifest["split"] == split]
    if config.source == "corrupt":
        rows = rows[rows["mask"].notna()]
    if rows.empty:
        counts = manifest["split"].value_counts().to_dict()
        raise ValueError(
            f"noisy_labels: source {config.source!r} finds no tiles in the split {split!r} (found {counts}); add "
            "'noisy' to the card's splits, or set noisy_labels.source to corrupt or land_cover"
        )
    rows = rows.assign(split="noisy")
    if config.source == "corrupt":
        copies = corrupted_masks(rows["mask"], config.corruption, folder, seed=seed, labels=labels)
        rows = rows.assign(mask=[copies[mask] for mask in rows["mask"]])
    elif config.source == "land_cover":
        if not legend:
            raise ValueError("legend: a land-cover raster needs the card's 'legend', which maps its values to classes")
        maps = {
            image: str(_land_cover_map(image, str(config.land_cover), folder, labels, legend))
            for image in sorted(set(rows["image"]))
        }
        rows = rows.assign(mask=[maps[image] for image in rows["image"]])
    return rows.reset_index(drop=True)


def _land_cover_map(
    image: str, raster: str, folder: Path, labels: LabelSpace, legend: Mapping[int, int | None]
) -> Path:
    """The classes of a land-cover raster on the grid of an image."""
    from s5.geo.raster import describe, write_geotiff
    from s5.geo.warp import warp_onto

    info = describe(image)
    values, said = warp_onto(raster, info)
    classes = np.full(values.shape, labels.ignore_index, dtype=np.uint8)
    for value, k in legend.items():
        if k is not None:
            classes[said & (values == value)] = k
    made = folder / f"{Path(image).stem}-{hashlib.sha256(f'{image} {raster}'.encode()).hexdigest()[:12]}.tif"
    folder.mkdir(parents=True, exist_ok=True)
    write_geotiff(made, classes, transform=info.transform, crs=info.crs)
    return made


def agreement(noisy: SegmentationData, clean: SegmentationData) -> dict[str, Any] | None:
    """How far noisy labels agree with clean ones of the same tiles, where some of the tiles have any.

    Args:
        noisy: With tiles in the split ``"noisy"``.
        clean: With tiles of the same images in other splits.

    Returns:
        `tiles` and `pixels` compared, `agreement` in percent, `miou` of the noisy map, and `confusion`: a row for each
        true class, with the shares of the noisy ones; None where no tile has clean labels.
    """
    place = ["image", "row", "col"]
    truth = clean.manifest[(clean.manifest["split"] != "noisy") & clean.manifest["mask"].notna()]
    truth = truth.drop_duplicates(place)[[*place, "mask"]].rename(columns={"mask": "truth"})
    rows = noisy.manifest[noisy.manifest["split"] == "noisy"].merge(truth, on=place)
    if rows.empty:
        return None
    labels, classes = noisy.labels, noisy.labels.num_classes
    one = replace(noisy, manifest=rows).split("noisy")
    other = replace(noisy, manifest=rows.assign(mask=rows["truth"])).split("noisy")
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for index in range(len(rows)):
        matrix += _confusion(one.read(index)[1], other.read(index)[1], labels)
    scores = segmentation_scores(torch.from_numpy(matrix), labels.classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return {
        "tiles": len(rows), "pixels": int(matrix.sum()), "agreement": scores["oa"], "miou": scores["miou"],
        "confusion": [[round(float(share), 4) for share in row] for row in shares],
    }  # fmt: skip


def _confusion(noisy: NDArray[np.uint8], clean: NDArray[np.uint8], labels: LabelSpace) -> NDArray[np.int64]:
    both = (noisy != labels.ignore_index) & (clean != labels.ignore_index)
    k = labels.num_classes
    pairs = clean[both].astype(np.int64) * k + noisy[both]
    return np.bincount(pairs, minlength=k * k).reshape(k, k)


def corrupted_masks(
    masks: Iterable[str], config: CorruptionConfig, folder: Path, *, seed: int, labels: LabelSpace
) -> dict[str, str]:
    """Write a corrupted copy of each label map; a scene is corrupted as a whole, so that its tiles agree.

    Args:
        masks: Paths of index rasters, repeated ones once.
        folder: Where the copies go; one that is there is not made again.

    Returns:
        The copy of each map.
    """
    from s5.geo.raster import describe, read_window, write_geotiff

    copies = {}
    for mask in sorted(set(masks)):
        name = hashlib.sha256(mask.encode()).hexdigest()[:12]
        copy = folder / f"{Path(mask).stem}-{name}.tif"
        if not copy.is_file():
            clean, info = read_window(Path(mask))[0][0].astype(np.uint8), describe(mask)
            here = on_the_ground(config, _pixel_metres(info))
            rng = numpy_generator(seed, f"corrupt/{config.kind}/{config.rate}/{Path(mask).stem}", 0)
            noisy = corrupt(clean, here, rng, classes=labels.num_classes, ignore_index=labels.ignore_index)
            folder.mkdir(parents=True, exist_ok=True)
            write_geotiff(copy, noisy, transform=info.transform, crs=info.crs)
        copies[mask] = str(copy)
    return copies


def _pixel_metres(info: RasterInfo) -> float | None:
    """Side of a pixel in metres, whatever the units of the CRS; None where the map lies nowhere."""
    from s5.geo.areas import pixel_areas

    areas = pixel_areas([Window(0, 0, info.height, info.width)], info)
    return None if areas is None else float(np.sqrt(areas[0]))


def on_the_ground(config: CorruptionConfig, metres: float | None) -> CorruptionConfig:
    """The noise model with its block in pixels, for maps of pixels of so many metres.

    Raises:
        ValueError: the block is given in metres and the map lies nowhere.
    """
    if config.kind != "coarse" or config.block_metres is None:
        return config
    if not metres:
        raise ValueError("block_metres: the label map has no CRS; give the block in pixels (block)")
    return replace(config, block=max(2, round(config.block_metres / metres)), block_metres=None)


def disagreement(noisy: TileSource, clean: TileSource, labels: LabelSpace) -> float:
    """The share of pixels, of those labelled in both, whose labels differ; in [0, 1].

    Raises:
        ValueError: the two do not have the same number of tiles.
    """
    if len(noisy) != len(clean):
        raise ValueError(f"disagreement: expected the same tiles twice, got {len(noisy)} and {len(clean)}")
    wrong = known = 0
    for index in range(len(clean)):
        one, other = noisy.read(index)[1], clean.read(index)[1]
        both = (one != labels.ignore_index) & (other != labels.ignore_index)
        wrong, known = wrong + int((one != other)[both].sum()), known + int(both.sum())
    return wrong / max(known, 1)
