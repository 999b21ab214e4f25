"""Every image is read to its last pixel, with its mask, before anything is learnt from it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from s5.data.card import DatasetCard
from s5.data.listing import Entry, Rejected
from s5.data.masks import MaskError, MaskSource, index_mask, value_error
from s5.members import file_behind, member_of
from s5.types import Window

if TYPE_CHECKING:
    from s5.geo.raster import RasterInfo

DTYPES = ("uint8", "uint16", "float32")
_MAX_THREADS = 8  # more do not read faster from one disk
T = TypeVar("T")


@dataclass(frozen=True)
class TilingRule:
    """How the images of a split are cut, and how much of a tile must hold data.

    `once` cuts an image into nearly equal tiles so that no pixel is in two of them, which is what a score needs.
    """

    size: int
    stride: int
    once: bool
    min_valid_share: float


@dataclass(frozen=True)
class CheckedImage:
    """A usable image: its grid, its index mask and its usable tiles.

    `valid_shares` has a number a window; `class_pixels` has a row a window, the pixels of each class.
    """

    entry: Entry
    info: RasterInfo
    mask: Path | None
    windows: tuple[Window, ...]
    valid_shares: tuple[float, ...]
    class_pixels: npt.NDArray[np.int64]


@dataclass
class Checked:
    """What came of one entry: an image or none, and what is to be said of it."""

    image: CheckedImage | None = None
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class ImageCheck:
    """Checks the images of one split of a card; callable from several threads."""

    card: DatasetCard
    rule: TilingRule
    mask_folder: Path

    def __call__(self, entry: Entry) -> Checked:
        """Read an image and its mask to the end; never raises for what is wrong with them."""
        checked = Checked()
        try:
            info = self._describe(entry)
            mask = self._mask(entry, info, checked)
            checked.image = self._read(entry, info, mask, checked)
        except _Refused as refused:
            checked.rejected.append(refused.rejected)
        return checked

    def _describe(self, entry: Entry) -> RasterInfo:
        from s5.geo.raster import UnreadableRasterError, describe  # s5.data stays light to import

        shown = self.card.shown(entry.image)
        if not file_behind(entry.image).is_file():
            raise _Refused(entry, "missing", f"{shown}: there is no such file; correct the list or the path")
        self._check_bytes(entry, shown)
        try:
            info = describe(entry.image)
        except UnreadableRasterError as error:
            raise _Refused(entry, "unreadable", _shortened(error, entry.image, shown)) from error
        expected = len(self.card.bands)
        if expected not in {info.bands, info.bands + info.has_alpha}:
            raise _Refused(
                entry, "band_count",
                f"{shown}: has {info.bands} bands, expected the {expected} of the card ({', '.join(self.card.bands)}); "
                "correct 'bands' or remove the file",
            )  # fmt: skip
        if info.dtype not in DTYPES:
            raise _Refused(
                entry, "dtype", f"{shown}: holds {info.dtype}, expected one of {', '.join(DTYPES)}; convert it"
            )
        return info

    def _check_bytes(self, entry: Entry, shown: str) -> None:
        """What a shard's index says of a tile's bytes; a flipped bit is not always an error of the image format."""
        member = member_of(entry.image)
        if member is None or entry.crc32 is None:
            return
        tile = "" if entry.name is None else f" of tile {entry.name}"
        found = member.read()
        if len(found) < member.size:
            raise _Refused(
                entry, "truncated", f"{shown}: the shard ends {member.size - len(found)} bytes before the end{tile}"
            )
        if zlib.crc32(found) != entry.crc32:
            raise _Refused(entry, "damaged", f"{shown}: the bytes{tile} are not those that were packed; pack it again")

    def _mask(self, entry: Entry, info: RasterInfo, checked: Checked) -> Path | None:
        from s5.geo.raster import TruncatedRasterError, UnreadableRasterError

        if self._has_boxes_alone(entry) or (entry.mask is None and entry.split == "unlabeled"):
            return None
        try:
            return self._index_mask(entry, info)
        except MaskError as error:
            self._refuse_mask(entry, error, checked)
        except UnreadableRasterError as error:
            kind = "truncated" if isinstance(error, TruncatedRasterError) else "unreadable"
            self._refuse_mask(entry, MaskError(kind, str(error)), checked)
        return None

    def _has_boxes_alone(self, entry: Entry) -> bool:
        """The entry's labels are boxes, which s5.detection reads; there are no masks to be wrong."""
        source = self.card.splits[entry.split]
        return entry.mask is None and source.boxes is not None and source.masks is None

    def _index_mask(self, entry: Entry, info: RasterInfo) -> Path:
        if entry.mask is None:
            raise MaskError(
                "mask_missing", f"{self.card.shown(entry.image)}: has no mask; add one of the same name or list it"
            )
        if not file_behind(entry.mask).is_file():
            raise MaskError("mask_missing", f"{self.card.shown(entry.mask)}: there is no such mask; correct the path")
        if member_of(entry.mask) is not None:
            return entry.mask  # shards hold index masks, whatever the coding of the card
        return index_mask(self._source(entry, info), self.mask_folder)

    def _refuse_mask(self, entry: Entry, error: MaskError, checked: Checked) -> None:
        """An unlabelled image is used without its bad mask; any other goes with it."""
        path = entry.mask or entry.image
        reason = _shortened(error, path, self.card.shown(path))
        if entry.split != "unlabeled":
            raise _Refused(entry, error.kind, reason) from error
        checked.rejected.append(Rejected(path, entry.split, error.kind, f"{reason} (its image is used without it)"))

    def _source(self, entry: Entry, info: RasterInfo) -> MaskSource:
        assert entry.mask is not None
        return MaskSource(self.card, self.card.splits[entry.split].coding, entry.mask, entry.image, info)

    def _windows(self, info: RasterInfo) -> list[Window]:
        from s5.geo.windows import partition_windows, tile_windows

        rule = self.rule
        if rule.once:
            return partition_windows(info.height, info.width, size=rule.size)
        return tile_windows(info.height, info.width, size=rule.size, stride=rule.stride)

    def _read(self, entry: Entry, info: RasterInfo, mask: Path | None, checked: Checked) -> CheckedImage:
        windows = self._windows(info)
        shares = self._valid_shares(entry, windows)
        class_pixels = np.zeros((len(windows), self.card.labels.num_classes), dtype=np.int64)
        if mask is not None:
            try:
                class_pixels = self._class_pixels(entry, info, mask, windows)
            except MaskError as error:
                self._refuse_mask(entry, error, checked)
                mask = None
        keep = (shares > 0) & (shares >= self.rule.min_valid_share)
        self._say_of_nodata(entry, shares, keep, checked)
        if entry.split != "unlabeled" and not self._has_boxes_alone(entry):
            labelled = class_pixels.sum(axis=1) > 0
            self._say_of_labels(entry, int((keep & ~labelled).sum()), len(windows), checked)
            keep &= labelled
        if not keep.any():
            raise _Refused(entry, checked.rejected[-1].kind, checked.rejected.pop().reason)
        places = np.flatnonzero(keep)
        return CheckedImage(
            entry, info, mask, tuple(windows[i] for i in places), tuple(float(shares[i]) for i in places),
            class_pixels[places],
        )  # fmt: skip

    def _valid_shares(self, entry: Entry, windows: Sequence[Window]) -> npt.NDArray[np.float64]:
        from s5.geo.raster import UnreadableRasterError, read_windows

        try:
            shares = [valid.mean() for _, _, valid in read_windows(entry.image, windows, bands=len(self.card.bands))]
        except UnreadableRasterError as error:
            raise _Refused(entry, "truncated", _shortened(error, entry.image, self.card.shown(entry.image))) from error
        return np.array(shares, dtype=np.float64)

    def _class_pixels(
        self, entry: Entry, info: RasterInfo, mask: Path, windows: Sequence[Window]
    ) -> npt.NDArray[np.int64]:
        from s5.geo.raster import UnreadableRasterError, read_windows

        labels = self.card.labels
        counts = np.zeros((len(windows), labels.num_classes), dtype=np.int64)
        known = np.zeros(256, dtype=np.bool_)
        known[: labels.num_classes] = known[labels.ignore_index] = True
        try:
            for number, (window, values, _) in enumerate(read_windows(mask, windows)):
                histogram = np.bincount(values.ravel(), minlength=256)
                if histogram[~known].any():
                    row, col = (int(v[0]) for v in np.nonzero(~known[values[0]]))
                    value = int(values[0, row, col])
                    raise value_error(self._source(entry, info), value, window.row + row, window.col + col)
                counts[number] = histogram[: labels.num_classes]
        except UnreadableRasterError as error:
            raise MaskError("truncated", str(error)) from error
        return counts

    def _say_of_nodata(self, entry: Entry, shares: npt.NDArray[Any], keep: npt.NDArray[Any], checked: Checked) -> None:
        shown, dropped = self.card.shown(entry.image), int((~keep).sum())
        if not (shares > 0).any():
            reason = f"{shown}: is all nodata"
        else:
            wanted = f"at least {self.rule.min_valid_share:.0%}" if self.rule.min_valid_share > 0 else "any"
            reason = f"{shown}: {dropped} of its {len(keep)} tiles do not hold {wanted} valid pixels and are left out"
        if dropped:
            checked.rejected.append(Rejected(entry.image, entry.split, "nodata", reason))

    def _say_of_labels(self, entry: Entry, dropped: int, number: int, checked: Checked) -> None:
        if dropped:
            shown = self.card.shown(entry.image)
            reason = f"{shown}: {dropped} of its {number} tiles hold no labelled pixel and are left out"
            checked.rejected.append(Rejected(entry.image, entry.split, "no_labels", reason))


class _Refused(Exception):
    """What becomes of an entry; it never leaves this file."""

    def __init__(self, entry: Entry, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.rejected = Rejected(entry.image, entry.split, kind, reason)


def _shortened(error: Exception, path: Path, shown: str) -> str:
    return str(error).replace(str(path), shown)


def check_all(check: ImageCheck, entries: Sequence[Entry]) -> Iterator[Checked]:
    """Check entries on several threads; results come in the order of the entries."""
    threads = min(_MAX_THREADS, cpu_count() or 1)
    waiting = iter(entries)
    with ThreadPoolExecutor(threads) as pool:
        # In parts, since a pool makes its futures for everything that it is given at once.
        while part := list(islice(waiting, 16 * threads)):
            yield from pool.map(check, part)
