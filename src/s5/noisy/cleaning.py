"""Noisy maps corrected by networks that have not learnt from them (confident learning)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from s5.data.loader import Batch, SegmentationData, read_batch
from s5.data.transforms import Normalizer
from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.engine.prediction import map_tiles
from s5.models import ModelConfig, SegmentationModel, load_model
from s5.models.store import open_pointer
from s5.noisy.confident import ChangeTrust, ClassThresholds, confident_labels, only_allowed
from s5.noisy.config import NoisyConfig
from s5.noisy.masks import agreement
from s5.noisy.pretraining import kept_data, pretrain_noisy
from s5.progress import progress
from s5.types import LabelSpace, LogFn, log_nothing

if TYPE_CHECKING:
    import pandas as pd

    from s5.data.tiles import TileReader


TRUSTED = ("labeled", "val")


@dataclass(frozen=True)
class CleaningConfig:
    """How a noisy map is cleaned.

    Args:
        folds: Parts of the tiles; each is judged by a network that was trained on the others, at least 2. Tiles of
            one image, or of one group of the card, are in one part.
        margin: A label is changed where another class is over its threshold and at least this much more probable
            than the label, in [0, 1): 0 changes all that confident learning finds.
        trust: A split of clean labels, some of whose tiles have noisy ones too: a change from one class to another is
            made where on those tiles it puts surely more pixels right than wrong (`ChangeTrust`). None trusts all.
        batch_size: Tiles per forward pass.
    """

    folds: int = 2
    margin: float = 0.0
    trust: str | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.folds, int) or self.folds < 2:
            raise ValueError(f"label_cleaning.folds: expected at least 2, got {self.folds!r}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"label_cleaning.margin: expected a value in [0, 1), got {self.margin!r}")
        if self.trust not in (None, *TRUSTED):
            raise ValueError(f"label_cleaning.trust: expected null or one of {', '.join(TRUSTED)}, got {self.trust!r}")
        if self.batch_size < 1:
            raise ValueError(f"label_cleaning.batch_size: expected at least 1, got {self.batch_size!r}")


def fold_of(names: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each tile, from the name of its group: equal names share one, sizes are as equal as that allows."""
    distinct, counts = np.unique(np.asarray(names, dtype=object).astype(str), return_counts=True)
    if len(distinct) < folds:
        raise ValueError(
            f"label_cleaning.folds: {folds} folds need as many images or groups with noisy labels, found "
            f"{len(distinct)}; ask for fewer folds"
        )
    drawn = [hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in distinct]
    sizes, places = np.zeros(folds, dtype=np.int64), {}
    for number in sorted(range(len(distinct)), key=lambda i: (-counts[i], drawn[i])):
        places[distinct[number]] = int(sizes.argmin())
        sizes[sizes.argmin()] += counts[number]
    return np.array([places[str(name)] for name in names])


def clean_labels(
    data: SegmentationData,
    model: ModelConfig,
    training: NoisyConfig,
    config: CleaningConfig,
    compute: ComputeConfig,
    *,
    folder: Path,
    project: Path,
    seed: int,
    log: LogFn = log_nothing,
) -> pd.DataFrame:
    """Judge every noisy label by a network that has not learnt from it, and write corrected maps.

    The noisy tiles are cut into folds; for each a network is trained on the other folds (`pretrain_noisy`), and its
    probabilities on the fold give thresholds and corrections.

    Args:
        folder: Gets GeoTIFFs ``labels/<image>.tif`` and ``confidence/<image>.tif`` on each image's grid: class
            indices (255 where there is no label), and the confidence that the given label was right, in percent (1 to
            100; 0 where there was none).
        log: Gets the losses of all folds, one after another.

    Returns:
        The noisy tiles of the manifest with `mask` the corrected map, `noisy_mask` the one before, `confidence` (a
        path), `fold`, `changed`, the share of the tile's labelled pixels, and `trusted`, whether its clean labels said
        which changes are made.

    Raises:
        ValueError: fewer images or groups than folds, or no noisy tile has labels in the split `config.trust`.
    """
    import pandas as pd

    noisy = data.manifest[data.manifest["split"] == "noisy"].reset_index(drop=True)
    if noisy.empty:
        raise ValueError("label_cleaning: there are no tiles with noisy labels; see noisy_labels.source")
    truth = {} if config.trust is None else _clean_masks(noisy, data.manifest, config.trust)
    number_of = fold_of(_groups(noisy), config.folds, seed)
    resolved = resolve_compute(compute)
    seen = kept_data(data, training)
    folds: list[_Fold] = []
    for number in range(config.folds):
        others = data.manifest[data.manifest["split"] != "noisy"]
        learnt = replace(data, manifest=pd.concat([others, noisy[number_of != number]], ignore_index=True))
        result = pretrain_noisy(
            learnt, model, training, compute, name=f"cleaning_fold_{number}", project=project, seed=seed,
            log=_from_step(log, number * training.steps),
        )  # fmt: skip
        network, _ = load_model(open_pointer(dict(result.pointer), project))
        tiles = noisy[number_of == number].sort_values("image", kind="stable")
        folds.append(_Fold(number, network.to(resolved.device).eval(), tiles, seen, config, resolved))
    for fold in folds:
        fold.find_thresholds()
    allowed = None if config.trust is None else _trusted_changes(folds, truth, data.labels)
    changes: dict[str, tuple[int, float]] = {}
    files: dict[str, tuple[Path, Path]] = {}
    for fold in folds:
        for image, judged in groupby(fold.corrected(allowed), key=lambda tile: str(tile.row["image"])):
            files[image] = _write_maps(folder, image, judged, fold.number, changes)
    return noisy.assign(
        fold=[changes[tile][0] for tile in noisy["tile_id"]],
        changed=[changes[tile][1] for tile in noisy["tile_id"]],
        trusted=noisy["tile_id"].isin(list(truth)),
        noisy_mask=noisy["mask"],
        mask=[str(files[str(image)][0]) for image in noisy["image"]],
        confidence=[str(files[str(image)][1]) for image in noisy["image"]],
    )


def _from_step(log: LogFn, first: int) -> LogFn:
    return lambda metrics, step: log(metrics, first + step)


def _groups(noisy: pd.DataFrame) -> list[str]:
    """What must be in one fold: an image, with all others of its group where it belongs to one group alone."""
    images = noisy["image"].astype(str)
    groups = noisy["group"].fillna("").astype(str) if "group" in noisy else images
    alone = groups.groupby(images).transform("nunique") == 1
    return [group if own and group else image for image, group, own in zip(images, groups, alone, strict=True)]


@dataclass(frozen=True)
class _Corrected:
    """A tile that was judged: its row of the manifest, new labels, confidence in the old ones, and where it had any."""

    row: Any
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    known: NDArray[np.bool_]
    changed: float


class _Fold:
    """The tiles of a fold, and a network that has not learnt from them.

    Probabilities of all tiles would not fit into memory: they are made anew for thresholds, trust and corrections.
    """

    def __init__(
        self,
        number: int,
        network: SegmentationModel,
        tiles: pd.DataFrame,
        data: SegmentationData,
        config: CleaningConfig,
        compute: Compute,
    ) -> None:
        self.number, self.tiles = number, tiles.reset_index(drop=True)
        self._network, self._data, self._config, self._compute = network, data, config, compute
        self._ignore = data.labels.ignore_index
        self._thresholds = ClassThresholds(data.labels.num_classes)

    def reader(self, tiles: pd.DataFrame) -> TileReader:
        return replace(self._data, manifest=tiles).split("noisy")

    def find_thresholds(self) -> None:
        for batch, prob in self._probabilities(self.tiles, "thresholds"):
            self._thresholds.add(prob, batch.masks, self._ignore)

    def proposals(self, tiles: pd.DataFrame, name: str) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Batches of some tiles of the fold, with what `confident_labels` says of them."""
        thresholds = self._thresholds.values()
        for batch, prob in self._probabilities(tiles, name):
            yield (
                batch,
                *confident_labels(prob, batch.masks, thresholds, margin=self._config.margin, ignore_index=self._ignore),
            )

    def corrected(self, allowed: Tensor | None) -> Iterator[_Corrected]:
        """The tiles of the fold, in order."""
        for batch, labels, confidence in self.proposals(self.tiles, "corrections"):
            if allowed is not None:
                labels = only_allowed(batch.masks, labels, allowed, self._ignore)
            for place, number in enumerate(batch.indices):
                row = self.tiles.iloc[number]
                inside = (slice(0, int(row["height"])), slice(0, int(row["width"])))
                before, after = batch.masks[place][inside].numpy(), labels[place][inside].numpy()
                known = before != self._ignore
                changed = float((after != before)[known].mean()) if known.any() else 0.0
                yield _Corrected(row, after, confidence[place][inside].numpy(), known, changed)

    def _probabilities(self, tiles: pd.DataFrame, name: str) -> Iterator[tuple[Batch, Tensor]]:
        reader = self.reader(tiles)
        normalizer = Normalizer(self._data.statistics, self._compute.device)

        def probabilities(batch: Batch) -> Tensor:
            images = normalizer.ready(normalizer.scale(self._compute.to_device(batch.images)))
            prob: Tensor = self._network(images).float().softmax(dim=1).cpu()
            return prob

        size = self._config.batch_size
        found = map_tiles(probabilities, reader, batch_size=size, compute=self._compute)
        yield from progress(found, name, total=-(-len(reader) // size), unit="part")


def _clean_masks(noisy: pd.DataFrame, manifest: pd.DataFrame, split: str) -> dict[str, str]:
    """The clean mask of each noisy tile that has one in `split`, by the noisy tile's id."""
    place = ["image", "row", "col"]
    clean = manifest[(manifest["split"] == split) & manifest["mask"].notna()].drop_duplicates(place)
    both = noisy.merge(clean[[*place, "mask"]].rename(columns={"mask": "truth"}), on=place)
    if both.empty:
        raise ValueError(
            f"label_cleaning.trust: no tile of the split {split!r} has noisy labels too, so that nothing tells which "
            "changes help; name other noisy labels, or set it to null"
        )
    return dict(zip(both["tile_id"].astype(str), both["truth"].astype(str), strict=True))


def _trusted_changes(folds: Sequence[_Fold], truth: Mapping[str, str], labels: LabelSpace) -> Tensor:
    trust = ChangeTrust(labels.num_classes)
    for fold in folds:
        tiles = fold.tiles[fold.tiles["tile_id"].isin(list(truth))].reset_index(drop=True)
        if tiles.empty:
            continue
        clean = fold.reader(tiles.assign(mask=[truth[tile] for tile in tiles["tile_id"]]))
        for batch, proposed, _ in fold.proposals(tiles, "trust"):
            masks = read_batch(clean, list(batch.indices)).masks
            trust.add(batch.masks, proposed, masks, labels.ignore_index)
    return trust.allowed()


def _write_maps(
    folder: Path, image: str, tiles: Iterable[_Corrected], fold: int, changes: dict[str, tuple[int, float]]
) -> tuple[Path, Path]:
    """Write labels and confidence of one image, on its grid, and note what changed; returns the two files."""
    from s5.geo.raster import describe, write_geotiff

    info = describe(image)
    labels = np.full((info.height, info.width), 255, dtype=np.uint8)
    percent = np.zeros_like(labels)
    for tile in tiles:
        row, changes[tile.row["tile_id"]] = tile.row, (fold, tile.changed)
        place = (
            slice(int(row["row"]), int(row["row"]) + int(row["height"])),
            slice(int(row["col"]), int(row["col"]) + int(row["width"])),
        )
        labels[place] = tile.labels
        percent[place] = np.where(tile.known, np.clip(np.rint(tile.confidence * 100), 1, 100), 0)
    name = f"{Path(image).stem}_{hashlib.sha256(image.encode()).hexdigest()[:8]}.tif"
    files = (folder / "labels" / name, folder / "confidence" / name)
    for path, array in zip(files, (labels, percent), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(path, array, transform=info.transform, crs=info.crs)
    return files


def cleaning_report(cleaned: pd.DataFrame, data: SegmentationData, *, folder: Path) -> dict[str, Any]:
    """What the correction did: how far the labels agree with the truth before and after, where it is known.

    Tiles whose clean labels said which changes are made are left out of that.

    Also writes ``list.csv`` (image, mask) into `folder`, which a card can name: ``noisy: {list: .../list.csv}``.

    Args:
        cleaned: From `clean_labels`.
        data: The tiles with clean labels.
        folder: Where the corrected maps lie.
    """
    from s5.files import replacing

    pairs = cleaned[["image", "mask"]].drop_duplicates().sort_values("image")
    with replacing(folder / "list.csv") as temporary:
        pairs.to_csv(temporary, index=False)
    told = cleaned[~cleaned["trusted"]]
    before = replace(data, manifest=told.assign(mask=told["noisy_mask"]))
    return {
        "tiles": len(cleaned),
        "changed": round(100 * float(cleaned["changed"].mean()), 2),
        "list": str(folder / "list.csv"),
        "before": agreement(before, data),
        "after": agreement(replace(data, manifest=told), data),
    }


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a `cleaning_report` for a log."""
    found = {"changed": float(report["changed"])}
    for when in ("before", "after"):
        if report[when] is not None:
            found[f"agreement_{when}"] = float(report[when]["agreement"])
    return found
