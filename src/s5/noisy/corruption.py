"""Noise models: clean label maps made wrong at a known rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
Known = NDArray[np.bool_]

KINDS = ("symmetric", "class_conditional", "coarse", "shift", "rotation", "missing", "merged", "stale")
_OWN_RATE = ("class_conditional", "coarse")  # what they are given says how wrong the map becomes


@dataclass(frozen=True)
class CorruptionConfig:
    """One noise model at one rate.

    Args:
        kind: Pixel by pixel: ``"symmetric"`` gives each pixel any other class, pixels and classes drawn independently;
            ``"class_conditional"`` draws each pixel's class by the row of `confusion` of its own class.

            By the map's geometry: ``"coarse"`` gives each block of `block` pixels the class that most of it has, as a
            product of a coarser resolution; ``"shift"`` moves the map in a direction that is drawn, and ``"rotation"``
            turns it about its centre, as errors of a georeference do; so that the rate is met, the rows below one
            are moved by a step (a pixel, or half of one at the rim) less than those above.

            Object by object, an object being a connected area of a class other than the commonest of the map:
            ``"missing"`` gives objects the class that surrounds them; ``"merged"`` fills the gaps between objects of
            a class; ``"stale"`` is the map of another year: for one half of the rate objects are missing, for the
            other there are objects where none is any more.
        rate: Share of the labelled pixels that hold another class afterwards, in [0, 1). The kinds of geometry and
            objects come as near to it as their steps allow (`measured_rate` tells); ``"class_conditional"`` and
            ``"coarse"`` do without.
        confusion: Of ``"class_conditional"``: row k holds the probabilities of each class where the truth is k.
        block: Of ``"coarse"``, in pixels, at least 2.
        block_metres: The same in metres, for georeferenced maps; it goes before `block`.
    """

    kind: str = "symmetric"
    rate: float = 0.3
    confusion: tuple[tuple[float, ...], ...] = ()
    block: int = 8
    block_metres: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "confusion", tuple(tuple(float(p) for p in row) for row in self.confusion))
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate: expected a share in [0, 1), got {self.rate!r}")
        if self.block < 2:
            raise ValueError(f"block: expected at least 2 pixels, got {self.block!r}")
        if self.block_metres is not None and not self.block_metres > 0:
            raise ValueError(f"block_metres: expected metres above 0, got {self.block_metres!r}")
        if self.kind == "class_conditional" and not self.confusion:
            raise ValueError("confusion: class_conditional needs a row of probabilities for each class, got none")
        for number, row in enumerate(self.confusion):
            if len(row) != len(self.confusion) or min(row) < 0 or abs(sum(row) - 1) > 1e-3:
                raise ValueError(
                    f"confusion: row {number} must hold {len(self.confusion)} probabilities that sum to 1, got {row}"
                )


def corrupt(
    mask_HW: Labels, config: CorruptionConfig, rng: np.random.Generator, *, classes: int, ignore_index: int
) -> Labels:
    """A label map made wrong; pixels without a label stay without one.

    Args:
        mask_HW: Class indices 0..`classes` - 1, or `ignore_index`.
        rng: Makes the draws; the same state gives the same map.

    Raises:
        ValueError: `confusion` is for another number of classes.
    """
    known = mask_HW != ignore_index
    if not known.any() or (config.rate == 0 and config.kind not in _OWN_RATE):
        return mask_HW.copy()
    if config.kind == "symmetric":
        noisy = _symmetric(mask_HW, config.rate, rng, classes)
    elif config.kind == "class_conditional":
        noisy = _class_conditional(mask_HW, config.confusion, rng, classes)
    elif config.kind == "coarse":
        noisy = _coarse(mask_HW, known, config.block, classes)
    elif config.kind == "shift":
        noisy = _at_rate(_shifts(mask_HW, known, rng), mask_HW, known, config.rate)
    elif config.kind == "rotation":
        noisy = _at_rate(_rotations(mask_HW, known, rng), mask_HW, known, config.rate)
    elif config.kind == "merged":
        noisy = _at_rate(_merges(mask_HW, known, classes), mask_HW, known, config.rate)
    else:
        noisy = _objects_changed(mask_HW, known, config, rng, classes)
    result: Labels = np.where(known, noisy, ignore_index).astype(np.uint8)
    return result


def measured_rate(noisy_HW: Labels, clean_HW: Labels, ignore_index: int) -> float:
    """The share of the labelled pixels that hold another class, in [0, 1]; 0 where nothing is labelled."""
    known = (clean_HW != ignore_index) & (noisy_HW != ignore_index)
    return float((noisy_HW != clean_HW)[known].mean()) if known.any() else 0.0


def _symmetric(mask: Labels, rate: float, rng: np.random.Generator, classes: int) -> Labels:
    other = (mask.astype(np.int64) + rng.integers(1, classes, mask.shape)) % classes
    noisy: Labels = np.where(rng.random(mask.shape) < rate, other, mask).astype(np.uint8)
    return noisy


def _class_conditional(
    mask: Labels, confusion: tuple[tuple[float, ...], ...], rng: np.random.Generator, classes: int
) -> Labels:
    if len(confusion) != classes:
        raise ValueError(f"confusion: expected a row for each of {classes} classes, got {len(confusion)}")
    noisy = mask.copy()
    drawn = rng.random(mask.shape)
    for k, row in enumerate(confusion):
        here = mask == k
        noisy[here] = np.minimum(np.searchsorted(np.cumsum(row), drawn[here], side="right"), classes - 1)
    return noisy


def _coarse(mask: Labels, known: Known, block: int, classes: int) -> Labels:
    """The commonest class of each block, the lower one of a draw; blocks begin at the map's corner."""
    height, width = mask.shape
    padded = np.pad(np.where(known, mask, 255), ((0, -height % block), (0, -width % block)), constant_values=255)
    cells = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block)
    counts = np.stack([(cells == k).sum(axis=(1, 3)) for k in range(classes)])
    whole: Labels = counts.argmax(axis=0).astype(np.uint8).repeat(block, axis=0).repeat(block, axis=1)
    return whole[:height, :width]


def _at_rate(candidates: Iterable[Labels], mask: Labels, known: Known, rate: float) -> Labels:
    """Of candidates that are ever more wrong the two around the rate: one above a row, the other below it."""
    wanted, less = rate * int(known.sum()), mask
    for more in candidates:
        wrong_less, wrong_more = (((one != mask) & known).sum(axis=1) for one in (less, more))
        if int(wrong_more.sum()) < wanted:
            less = more
            continue
        by_row = np.concatenate(([0], np.cumsum(wrong_more - wrong_less))) + int(wrong_less.sum())
        row = int(np.abs(by_row - wanted).argmin())
        return np.concatenate([more[:row], less[row:]])
    return less


def _shifts(mask: Labels, known: Known, rng: np.random.Generator) -> Iterable[Labels]:
    angle = rng.random() * 2 * np.pi
    rows, columns = np.indices(mask.shape)
    for distance in range(1, max(mask.shape)):
        yield _taken_from(
            mask, known, rows - round(distance * np.sin(angle)), columns - round(distance * np.cos(angle))
        )


def _rotations(mask: Labels, known: Known, rng: np.random.Generator) -> Iterable[Labels]:
    way = rng.choice((-1, 1))
    rows, columns = np.indices(mask.shape)
    down, right = rows - (mask.shape[0] - 1) / 2, columns - (mask.shape[1] - 1) / 2
    step = 1 / max(mask.shape)  # of half a pixel at the rim
    for number in range(1, int(np.pi / step)):
        sin, cos = np.sin(way * number * step), np.cos(way * number * step)
        yield _taken_from(
            mask,
            known,
            np.rint(cos * down - sin * right + (mask.shape[0] - 1) / 2).astype(int),
            np.rint(sin * down + cos * right + (mask.shape[1] - 1) / 2).astype(int),
        )


def _taken_from(mask: Labels, known: Known, rows: NDArray[np.int_], columns: NDArray[np.int_]) -> Labels:
    """Labels from other places of the map; where these lie outside or have no label, the label stays."""
    height, width = mask.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    moved: Labels = np.where(inside & known[rows, columns], mask[rows, columns], mask)
    return moved


def _merges(mask: Labels, known: Known, classes: int) -> Iterable[Labels]:
    """Gaps between objects filled, from narrow ones to wide ones; where classes meet, the rarer one wins."""
    from scipy import ndimage

    order = np.argsort(np.bincount(mask[known], minlength=classes)[:classes])[::-1]
    away = {k: ndimage.distance_transform_edt(mask != k) for k in order[1:] if (mask == k).any()}
    for width in range(1, max(mask.shape) // 2):
        merged = mask.copy()
        for k, distance in away.items():  # a closing: grown by the width, then shrunk by it
            grown = np.pad(distance <= width, width + 1, mode="edge")
            merged[(ndimage.distance_transform_edt(grown) > width)[width + 1 : -width - 1, width + 1 : -width - 1]] = k
        yield merged


def _objects_changed(
    mask: Labels, known: Known, config: CorruptionConfig, rng: np.random.Generator, classes: int
) -> Labels:
    budget = round(config.rate * int(known.sum()))
    share = budget // 2 if config.kind == "stale" else budget
    noisy = mask.copy()
    found = _objects(mask, known, classes)
    gone = 0
    for number in rng.permutation(len(found)):
        k, area, inside = found[number]
        if gone + int(inside.sum()) > share:
            continue
        around = _ring(mask, area, inside, known, k, classes)
        if around is not None:
            noisy[area][inside] = around
            gone += int(inside.sum())
    return noisy if config.kind == "missing" else _with_ghosts(noisy, mask, known, found, budget - gone, rng)


Object = tuple[int, tuple[slice, slice], NDArray[np.bool_]]


def _objects(mask: Labels, known: Known, classes: int) -> list[Object]:
    """Class, box and shape of every connected area of each class but the commonest."""
    from scipy import ndimage

    commonest = int(np.bincount(mask[known], minlength=classes)[:classes].argmax())
    found: list[Object] = []
    for k in range(classes):
        if k != commonest:
            numbers, _ = ndimage.label(mask == k)
            found += [(k, box, numbers[box] == i) for i, box in enumerate(ndimage.find_objects(numbers), 1)]
    return found


def _ring(
    mask: Labels, box: tuple[slice, slice], inside: NDArray[np.bool_], known: Known, k: int, classes: int
) -> int | None:
    """The commonest other class next to an object; None where there is none."""
    from scipy import ndimage

    rows, columns = box
    wide = (slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1))
    there = np.zeros(mask[wide].shape, bool)
    there[rows.start - wide[0].start :, columns.start - wide[1].start :][: inside.shape[0], : inside.shape[1]] = inside
    ring = ndimage.binary_dilation(there, np.ones((3, 3))) & ~there & known[wide] & (mask[wide] != k)
    return int(np.bincount(mask[wide][ring], minlength=classes).argmax()) if ring.any() else None


def _with_ghosts(
    noisy: Labels, mask: Labels, known: Known, found: list[Object], budget: int, rng: np.random.Generator
) -> Labels:
    """Copies of objects at other places of the map, until the budget of wrong pixels is used."""
    if not found:
        return noisy
    for _ in range(20 * len(found)):
        k, _, inside = found[int(rng.integers(len(found)))]
        height, width = inside.shape
        row = int(rng.integers(mask.shape[0] - height + 1))
        column = int(rng.integers(mask.shape[1] - width + 1))
        place = (slice(row, row + height), slice(column, column + width))
        changed = inside & known[place] & (mask[place] != k) & (noisy[place] == mask[place])
        if 0 < int(changed.sum()) <= budget:
            noisy[place][changed] = k
            budget -= int(changed.sum())
    return noisy
