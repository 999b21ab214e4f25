"""Images, truth and predictions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from s5.data.protocol import PRESETS, EvaluationProtocol
from s5.report.canvas import empty_figure, new_figure, plain, show_picture
from s5.report.display import color_mask, display_rgb
from s5.report.palette import IGNORED, INK, MUTED, class_colors
from s5.types import BandStatistics, LabelSpace

if TYPE_CHECKING:
    from s5.data.loader import TileSource
    from s5.engine.compute import ComputeConfig

_MOST_MASKS_READ = 256


class Segmenter(Protocol):
    """A network from normalised images [B, C, H, W] to logits [B, K, H, W]."""

    def __call__(self, x_BCHW: Any) -> Any: ...


@dataclass(frozen=True)
class GalleryRow:
    """One tile: its picture, what it is, and what each model says.

    Shape:
        image: [C, H, W] raw, or uint8 [H, W, 3] ready to show. truth, predictions: [H, W] class indices. valid: [H, W].
    """

    tile_id: str
    image: NDArray[Any]
    truth: NDArray[Any]
    predictions: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    valid: NDArray[np.bool_] | None = None


def plot_gallery(
    rows: Sequence[GalleryRow],
    labels: LabelSpace,
    model_names: Sequence[str],
    *,
    statistics: BandStatistics | None = None,
) -> Figure:
    """A row a tile: image, truth and a column a model with its pixel accuracy; a legend of the classes below.

    Pixels that are ignored or nodata are grey in the image, the truth and the predictions alike.

    Args:
        rows: The tiles.
        labels: Classes, and the value that is ignored.
        model_names: Columns after the truth, keys of each row's predictions; one that a row lacks stays empty.
        statistics: Of the bands, to show images that are not 8-bit RGB.
    """
    if not rows:
        return empty_figure("No tile to show")
    colors = class_colors(labels.classes)
    columns = ["image", "truth", *model_names]
    figure = new_figure(2.25 * len(columns), 2.45 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row, labels, model_names, colors, statistics)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(plain(name), fontsize=11, fontweight="bold", color=INK)
    named = [*zip(labels.classes, colors, strict=True), ("ignored / no data", IGNORED)]
    handles = [Patch(facecolor=color, edgecolor=MUTED, linewidth=0.5, label=plain(name)) for name, color in named]
    across = min(len(handles), 2 * len(columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=across, fontsize=9, frameon=False)
    return figure


def _draw_row(
    axes: Sequence[Axes],
    row: GalleryRow,
    labels: LabelSpace,
    model_names: Sequence[str],
    colors: Sequence[str],
    statistics: BandStatistics | None,
) -> None:
    known = (row.truth >= 0) & (row.truth < labels.num_classes) & (row.truth != labels.ignore_index)
    valid = np.ones(row.truth.shape, dtype=bool) if row.valid is None else row.valid
    show_picture(axes[0], _picture(row, statistics))
    axes[0].set_xlabel(_short(row.tile_id), fontsize=7.5, color=MUTED)
    show_picture(axes[1], color_mask(np.where(known & valid, row.truth, labels.ignore_index), colors))
    for place, name in zip(axes[2:], model_names, strict=True):
        if name not in row.predictions:
            place.set_visible(False)
            continue
        prediction = row.predictions[name]
        show_picture(place, color_mask(np.where(valid, prediction, labels.ignore_index), colors))
        judged = known & valid
        if judged.any():
            share = float((prediction[judged] == row.truth[judged]).mean())
            place.set_xlabel(f"{share:.0%} of pixels right", fontsize=8, color=MUTED)


def _picture(row: GalleryRow, statistics: BandStatistics | None) -> NDArray[np.uint8]:
    if row.image.ndim == 3 and row.image.shape[2] == 3 and row.image.dtype == np.uint8 and row.image.shape[0] > 4:
        return row.image
    return display_rgb(row.image, statistics, valid=row.valid)


def _short(tile_id: str) -> str:
    return plain(tile_id if len(tile_id) <= 34 else "…" + tile_id[-33:])


def gallery_rows(
    reader: TileSource,
    models: Mapping[str, Segmenter],
    statistics: BandStatistics,
    labels: LabelSpace,
    *,
    num_tiles: int = 6,
    compute: ComputeConfig | None = None,
    protocol: EvaluationProtocol = PRESETS["whole"],
) -> list[GalleryRow]:
    """Tiles worth looking at, with what each model predicts there.

    The choice depends on the truth alone, never on how a model does: no model is shown at its best.

    Args:
        reader: Tiles with truth, such as the test split.
        models: Name to network.
        statistics: By which the networks' inputs are normalised.
        labels: The classes.
        num_tiles: How many rows.
        compute: Device and precision.
        protocol: What of a tile the networks see at once.
    """
    import torch

    from s5.data.loader import read_batch
    from s5.data.transforms import Normalizer
    from s5.engine.compute import ComputeConfig, resolve_compute
    from s5.engine.views import predict_classes

    resolved = resolve_compute(compute or ComputeConfig())
    chosen = choose_tiles(reader, labels, num_tiles)
    if not chosen:
        return []
    batch = read_batch(reader, chosen)
    inputs = Normalizer(statistics, resolved.device)(batch.images.to(resolved.device))
    predictions: dict[str, NDArray[Any]] = {}
    with torch.inference_mode(), resolved.autocast():
        for name, model in models.items():
            network: Any = model
            network.to(resolved.device).eval()
            seen = [
                predict_classes(network, x[None], valid[None], protocol)
                for x, valid in zip(inputs, batch.valid.to(resolved.device), strict=True)
            ]
            predictions[name] = torch.cat(seen).cpu().numpy().astype(np.uint8)
    names = list(getattr(reader, "tile_ids", []))
    return [
        GalleryRow(
            tile_id=str(names[index]) if names else f"tile {index}",
            image=batch.images[place].numpy(),
            truth=batch.masks[place].numpy(),
            predictions={name: values[place] for name, values in predictions.items()},
            valid=batch.valid[place].numpy(),
        )
        for place, index in enumerate(chosen)
    ]


def choose_tiles(reader: TileSource, labels: LabelSpace, count: int) -> list[int]:
    """Positions of tiles that together show all classes: rarest class first, then the most varied tiles.

    At most 256 tiles, evenly spread over the split, are looked at.
    """
    candidates = np.unique(np.linspace(0, len(reader) - 1, min(len(reader), _MOST_MASKS_READ)).round().astype(int))
    if not len(candidates) or count < 1:
        return []
    shares = np.stack([_shares(reader.read(int(index))[1], labels) for index in candidates])
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    variety = -(shares * logs).sum(axis=1)
    chosen: list[int] = []
    for name in np.argsort(shares.sum(axis=0), kind="stable"):
        fitting = [i for i in np.argsort(-(shares[:, name] * (0.25 + variety)), kind="stable") if i not in chosen]
        if fitting and shares[fitting[0], name] > 0 and len(chosen) < count:
            chosen.append(int(fitting[0]))
    rest = [int(i) for i in np.argsort(-variety, kind="stable") if i not in chosen and shares[i].sum() > 0]
    chosen += rest[: count - len(chosen)]
    return [int(candidates[i]) for i in sorted(chosen)]


def _shares(mask_HW: NDArray[Any], labels: LabelSpace) -> NDArray[np.float64]:
    counts = np.bincount(mask_HW.ravel(), minlength=256)[: labels.num_classes].astype(np.float64)
    return counts / mask_HW.size
