"""Which labels of a noisy map are probably wrong, and what they should be (confident learning)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s5.data.loader import Batch, SegmentationData, read_batch
from s5.data.transforms import Normalizer
from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.engine.prediction import map_tiles
from s5.models import ModelConfig, SegmentationModel, load_model
from s5.models.store import open_pointer
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


class ClassThresholds:
    """The mean probability of class k over the pixels labelled k: t_k (Northcutt et al., JAIR 2021, eq. 2)."""

    def __init__(self, classes: int) -> None:
        self._sums = torch.zeros(classes, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.float64)

    def add(self, prob_BKHW: Tensor, labels_BHW: Tensor, ignore_index: int) -> None:
        """Count probabilities of a network that has not learnt from these pixels."""
        known = labels_BHW != ignore_index
        label = labels_BHW.long().masked_fill(~known, 0)
        own = prob_BKHW.gather(1, label.unsqueeze(1)).squeeze(1)[known].double()
        label = label[known]
        self._sums.index_add_(0, label, own)
        self._counts.index_add_(0, label, torch.ones_like(own))

    def values(self) -> Tensor:
        """float64 [K]; infinite for a class that no pixel is labelled with, which then is never proposed."""
        return torch.where(self._counts > 0, self._sums / self._counts.clamp_min(1), torch.inf)


def confident_labels(
    prob_BKHW: Tensor, labels_BHW: Tensor, thresholds_K: Tensor, *, margin: float = 0.0, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Corrected labels, and the confidence that the given ones are right.

    Confident learning (Northcutt et al., JAIR 2021): of the classes whose probability reaches their threshold, the most
    probable one is the pixel's confident class. Where it is another than the label, the label is taken to be wrong.

    Args:
        prob_BKHW: Softmax of a network that has not learnt from these pixels.
        thresholds_K: From `ClassThresholds`.
        margin: How much more probable than the label the confident class must be.

    Returns:
        Labels, uint8 [B, H, W], `ignore_index` where there was no label; and float32 [B, H, W] in [0, 1]: the
        probability of the label against that of the most probable other class, ``p_y / (p_y + max_{k != y} p_k)``.
    """
    known = labels_BHW != ignore_index
    label = labels_BHW.long().masked_fill(~known, 0).unsqueeze(1)
    own = prob_BKHW.gather(1, label).squeeze(1)
    others = prob_BKHW.scatter(1, label, 0.0).amax(dim=1)
    confidence = own / (own + others).clamp_min(1e-12)
    reaches = prob_BKHW >= thresholds_K.to(prob_BKHW)[:, None, None]
    best, proposed = torch.where(reaches, prob_BKHW, -1.0).max(dim=1)
    wrong = known & (best >= 0) & (proposed != label.squeeze(1)) & (best - own >= margin)
    corrected = torch.where(wrong, proposed, labels_BHW.long()).to(torch.uint8)
    return corrected, confidence * known


class ChangeTrust:
    """Which changes of a label are worth making, counted on tiles whose truth is known.

    A network that has learnt from a wrong map repeats its habits, and then finds labels wrong that are right. A few
    clean tiles tell which of its changes, from each class to each other, it may be trusted with. Pixels of a tile are
    wrong together, so that tiles are the sample: with ``g_i`` the pixels of tile i that a change puts right less those
    that it puts wrong, it is trusted where ``sum g_i > 2 sqrt(sum g_i^2)``, two standard errors over no gain.
    """

    def __init__(self, classes: int) -> None:
        self._gains = torch.zeros(classes, classes, dtype=torch.float64)
        self._squares = torch.zeros_like(self._gains)

    def add(self, labels_BHW: Tensor, proposed_BHW: Tensor, truth_BHW: Tensor, ignore_index: int) -> None:
        """Count where the label and the proposed class differ: the proposal is right, or the label was."""
        for labels, proposed, truth in zip(labels_BHW, proposed_BHW, truth_BHW, strict=True):
            known = (labels != ignore_index) & (truth != ignore_index) & (labels != proposed)
            label, new, right = (values[known].long() for values in (labels, proposed, truth))
            gain = torch.zeros_like(self._gains)
            gain.index_put_((label, new), (new == right).double() - (label == right).double(), accumulate=True)
            self._gains += gain
            self._squares += gain**2

    def allowed(self) -> Tensor:
        """bool [K, K], from a class to a class."""
        return self._gains > 2 * self._squares.sqrt()


def only_allowed(labels_BHW: Tensor, proposed_BHW: Tensor, allowed_KK: Tensor, ignore_index: int) -> Tensor:
    """The proposed classes where a change to them is allowed, else the labels; uint8 [B, H, W]."""
    known = labels_BHW != ignore_index
    pair = tuple(values.long().masked_fill(~known, 0) for values in (labels_BHW, proposed_BHW))
    return torch.where(known & allowed_KK[pair], proposed_BHW, labels_BHW).to(torch.uint8)


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
        path), `fold`, and `changed`, the share of the tile's labelled pixels.

    Raises:
        ValueError: fewer images or groups than folds, or no noisy tile has labels in the split `config.trust`.
    """
    import pandas as pd

    noisy = data.manifest[data.manifest["split"] == "noisy"].reset_index(drop=True)
    if noisy.empty:
        raise ValueError("label_cleaning: there are no tiles with noisy labels; see noisy_labels.source")
    truth = None if config.trust is None else _clean_masks(noisy, data.manifest, config.trust)
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
    allowed = None if truth is None else _trusted_changes(folds, truth, data.labels)
    changes: dict[str, tuple[int, float]] = {}
    files: dict[str, tuple[Path, Path]] = {}
    for fold in folds:
        for image, judged in groupby(fold.corrected(allowed), key=lambda tile: str(tile.row["image"])):
            files[image] = _write_maps(folder, image, judged, fold.number, changes)
    return noisy.assign(
        fold=[changes[tile][0] for tile in noisy["tile_id"]],
        changed=[changes[tile][1] for tile in noisy["tile_id"]],
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


def cleaning_report(
    cleaned: pd.DataFrame, data: SegmentationData, *, folder: Path, trust: str | None = None
) -> dict[str, Any]:
    """What the correction did: how far the labels agree with the truth before and after, where it is known.

    Tiles of the split `trust` are left out of that: they said which changes are made.

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
    held_out = replace(data, manifest=data.manifest[data.manifest["split"] != trust])
    told = cleaned
    if trust is not None:
        place = ["image", "row", "col"]
        trusted = data.manifest[data.manifest["split"] == trust].set_index(place).index
        told = cleaned[~cleaned.set_index(place).index.isin(trusted)]
    before = replace(data, manifest=told.assign(mask=told["noisy_mask"]))
    return {
        "tiles": len(cleaned),
        "changed": round(100 * float(cleaned["changed"].mean()), 2),
        "list": str(folder / "list.csv"),
        "before": agreement(before, held_out),
        "after": agreement(replace(data, manifest=told), held_out),
    }


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a `cleaning_report` for a log."""
    found = {"changed": float(report["changed"])}
    for when in ("before", "after"):
        if report[when] is not None:
            found[f"agreement_{when}"] = float(report[when]["agreement"])
    return found
