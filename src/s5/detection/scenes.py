"""Scenes with their boxes: collected from a dataset card, kept as tables, cut into windows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s5.data.card import CardError, DatasetCard
from s5.detection.annotations import Annotations, BadBox, count_kinds, read_annotations
from s5.types import BandStatistics, Window

if TYPE_CHECKING:
    import pandas as pd

    from s5.data.ingest import IngestionConfig

TRAINING_SPLITS = ("labeled", "unlabeled", "noisy")
# An image of several splits is used in the first of these alone: what a model is judged on, it never learns.
_ORDER = ("test", "val", "labeled", "unlabeled", "noisy")
_LABEL_SUFFIXES = (".txt", ".xml")
CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")


@dataclass(frozen=True)
class Scene:
    """An image of a split and its objects; height and width in pixels."""

    image: str
    split: str
    height: int
    width: int
    annotations: Annotations


@dataclass(frozen=True)
class DetectionData:
    """Scenes, the classes of their objects, and the statistics of their bands.

    Args:
        scene_table, box_table: As `to_tables` makes them.
    """

    scene_table: pd.DataFrame
    box_table: pd.DataFrame
    classes: tuple[str, ...]
    statistics: BandStatistics

    @cached_property
    def scenes(self) -> list[Scene]:
        return from_tables(self.scene_table, self.box_table)

    def split(self, *names: str) -> list[Scene]:
        """The scenes of these splits, in order."""
        return [scene for scene in self.scenes if scene.split in names]

    def training(self) -> list[Scene]:
        """All scenes that a detector may learn from: the boxes of "unlabelled" tiles are labels as good as others.

        Raises:
            ValueError: there is none.
        """
        scenes = self.split(*TRAINING_SPLITS)
        if not scenes:
            found = sorted({scene.split for scene in self.scenes})
            raise ValueError(
                f"detection: no scene with boxes in {', '.join(TRAINING_SPLITS)} (found {found}); give 'boxes' to one "
                "of these splits in the dataset card"
            )
        return scenes

    def fingerprint(self) -> str:
        """A hash of what a training run depends on but pixel values."""
        digest = hashlib.sha256(repr((self.classes, self.statistics)).encode())
        for scene in self.scenes:
            digest.update(repr((scene.image, scene.split, scene.height, scene.width, scene.annotations.names)).encode())
            digest.update(scene.annotations.corners.tobytes() + scene.annotations.difficult.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Collected:
    """What was found of the boxes of one or several data sets.

    Attributes:
        scenes, boxes: As `to_tables` makes them, with a first column ``dataset``.
        quarantine: A row what is left out: path, kind, reason.
        datasets: JSON-able; name -> ``{"classes": [...], "statistics": {...}}``.
    """

    scenes: pd.DataFrame
    boxes: pd.DataFrame
    quarantine: pd.DataFrame
    datasets: dict[str, dict[str, Any]]

    def data(self) -> dict[str, DetectionData]:
        """Each data set by itself."""
        return split_datasets(self.scenes, self.boxes, self.datasets)


def collect_dataset(
    name: str,
    card: DatasetCard,
    manifest: pd.DataFrame,
    quarantine: pd.DataFrame,
    statistics: BandStatistics,
    *,
    classes: Sequence[str] = (),
) -> Collected:
    """`collect_scenes` of all images that an ingestion found usable.

    Args:
        name: Of the data set.
        manifest, quarantine, statistics: As `s5.data.ingest` gives them.
        classes: Names of the classes; none takes all that the training scenes hold.

    Raises:
        CardError: no split of the card has boxes, or nothing usable is left.
    """
    import pandas as pd

    images = manifest[["image", "split"]].drop_duplicates().itertuples(index=False, name=None)
    held_out = set(quarantine.loc[quarantine["kind"] == "held_out", "path"])
    found, bad = collect_scenes(card, images, classes=classes, held_out=held_out)
    scenes, boxes = to_tables(found)
    scenes.insert(0, "dataset", name)
    boxes.insert(0, "dataset", name)
    rows = [(str(one.path), one.kind, one.reason) for one in bad]
    known = list(classes) or list(classes_of(found))
    facts = {"classes": known, "statistics": statistics.to_dict()}
    return Collected(scenes, boxes, pd.DataFrame(rows, columns=["path", "kind", "reason"]), {name: facts})


def ingest_dataset(name: str, card: Path, config: IngestionConfig, *, seed: int, work_dir: Path) -> Collected:
    """`collect_dataset` of a card that no run has ingested yet. Raises as `s5.data.ingest.ingest` does, too."""
    from s5.data.ingest import ingest

    found = ingest(card, config, seed=seed, work_dir=work_dir)
    return collect_dataset(name, found.card, found.manifest, found.quarantine, found.statistics)


def join_datasets(parts: Sequence[Collected]) -> Collected:
    """Several data sets as one record, in order.

    Raises:
        ValueError: a name, or an image, stands in two of them.
    """
    import pandas as pd

    names = [name for part in parts for name in part.datasets]
    scenes = pd.concat([part.scenes for part in parts], ignore_index=True)
    twice = scenes.loc[scenes["image"].duplicated(), "image"]
    if len(set(names)) < len(names):
        raise ValueError(f"detection.others: a data set's name stands twice in {names}; the first is the card's own")
    if len(twice):
        raise ValueError(f"detection.others: {twice.iloc[0]} stands in two data sets; leave it out of one of them")
    return Collected(
        scenes,
        pd.concat([part.boxes for part in parts], ignore_index=True),
        pd.concat([part.quarantine for part in parts], ignore_index=True),
        {name: facts for part in parts for name, facts in part.datasets.items()},
    )


def split_datasets(
    scenes: pd.DataFrame, boxes: pd.DataFrame, datasets: Mapping[str, Mapping[str, Any]]
) -> dict[str, DetectionData]:
    """The tables of `Collected` as a record for each data set."""
    return {
        name: DetectionData(
            scenes[scenes["dataset"] == name].reset_index(drop=True),
            boxes[boxes["dataset"] == name].reset_index(drop=True),
            tuple(facts["classes"]),
            BandStatistics.from_dict(dict(facts["statistics"])),
        )
        for name, facts in datasets.items()
    }


def collect_scenes(
    card: DatasetCard,
    images: Iterable[tuple[str, str]],
    *,
    classes: Sequence[str] = (),
    held_out: Collection[str] = (),
) -> tuple[list[Scene], list[BadBox]]:
    """Find and read the boxes of a dataset's images.

    Boxes of an image lie in the folder that its split names as `boxes` (or, where the split was cut from another, in
    that of any split), as ``<stem of the image>.txt`` (DOTA) or ``.xml`` (DIOR-R). An image without such a file is
    not used; one with an empty file has no objects.

    Args:
        images: Path and split of each image that can be read.
        classes: Known classes; none knows all.
        held_out: Images of which a part lies where a model is judged: nothing is learnt from them.

    Raises:
        CardError: no split of the card has boxes, or nothing usable is left.
    """
    from s5.geo.raster import describe  # s5.detection is imported on machines without rasterio

    folders = {name: source.boxes for name, source in card.splits.items() if source.boxes is not None}
    if not folders:
        raise CardError(
            f"{card.path.name}: no split has boxes; name their folder: splits: {{labeled: {{boxes: labeled/boxes}}}}"
        )
    scenes, bad = [], []
    for image, split in sorted(_once(images).items()):
        if image in held_out and split in TRAINING_SPLITS:
            reason = f"{card.shown(Path(image))}: a part of it lies in or over a held-out place; it is left out whole"
            bad.append(BadBox(Path(image), "held_out", reason))
            continue
        found = _label_file(Path(image), split, folders)
        if found is None:
            if split in folders:
                reason = f"{card.shown(Path(image))}: has no label file in {card.shown(folders[split])}; add an empty "
                bad.append(BadBox(Path(image), "no_labels", f"{reason}one if it shows no object"))
            continue
        info = describe(Path(image))
        known = list(classes) or None
        annotations, unusable = read_annotations(found, classes=known, size=(info.height, info.width))
        bad += unusable
        if not any(one.kind == "unreadable_labels" for one in unusable):
            scenes.append(Scene(image, split, info.height, info.width, annotations))
    if not any(len(scene.annotations) for scene in scenes):
        first = f" The first: {bad[0].reason}" if bad else ""
        raise CardError(f"{card.path.name}: no usable box is left ({count_kinds(bad) or 'none was found'}).{first}")
    return scenes, bad


def _once(images: Iterable[tuple[str, str]]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for image, split in images:
        if image not in chosen or _ORDER.index(split) < _ORDER.index(chosen[image]):
            chosen[image] = split
    return chosen


def _label_file(image: Path, split: str, folders: Mapping[str, Path]) -> Path | None:
    # Another split's file of that name may be another image's; only a split without a folder of its own looks there.
    searched = [folders[split]] if split in folders else list(folders.values())
    candidates = (folder / f"{image.stem}{suffix}" for folder in searched for suffix in _LABEL_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def classes_of(scenes: Iterable[Scene]) -> tuple[str, ...]:
    """The names of all objects that a detector may learn from, sorted."""
    return tuple(sorted({name for s in scenes if s.split in TRAINING_SPLITS for name in s.annotations.names}))


def to_tables(scenes: Sequence[Scene]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a scene (image, split, height, width, objects) and a row a box (image, class, difficult, x1 ... y4)."""
    import pandas as pd

    rows = [(s.image, s.split, s.height, s.width, len(s.annotations)) for s in scenes]
    table = pd.DataFrame(rows, columns=["image", "split", "height", "width", "objects"])
    boxes = [
        (s.image, name, bool(flag), *corners.ravel())
        for s in scenes
        for name, flag, corners in zip(s.annotations.names, s.annotations.difficult, s.annotations.corners, strict=True)
    ]
    return table, pd.DataFrame(boxes, columns=["image", "class", "difficult", *CORNERS])


def from_tables(scenes: pd.DataFrame, boxes: pd.DataFrame) -> list[Scene]:
    """What `to_tables` was given."""
    groups: dict[Any, Any] = dict(list(boxes.groupby("image", sort=False)))
    made = []
    for row in scenes.to_dict("records"):
        own = groups.get(row["image"], boxes.iloc[:0])
        annotations = Annotations(
            own[list(CORNERS)].to_numpy(np.float64).reshape(-1, 4, 2),
            tuple(own["class"]),
            own["difficult"].to_numpy(np.bool_),
        )
        made.append(Scene(row["image"], row["split"], int(row["height"]), int(row["width"]), annotations))
    return made


def scene_windows(scene: Scene, *, size: int, overlap: int) -> list[Window]:
    """Overlapping windows of a scene, row by row."""
    from s5.geo.windows import tile_windows  # no rasterio behind it, but it lives in geo

    return tile_windows(scene.height, scene.width, size=size, stride=size - overlap)
