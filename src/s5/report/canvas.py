"""Figures without pyplot: a common look, and PNG or JPEG bytes from the Agg canvas."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from s5.report.palette import GRID, INK, MUTED

Picture = Figure | bytes | Path | NDArray[np.uint8]
"""What can stand in a report as a picture: a figure, an encoded PNG or JPEG, a path to one, or pixels [H, W, 3]."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of `width` x `height` inches with its own Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, title: str = "", *, xlabel: str = "", ylabel: str = "", grid: bool = True) -> None:
    """Give `axes` the look of all plots: title at the left, two spines, a light grid behind the data."""
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=MUTED)
    axes.set_ylabel(ylabel, fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8.5, colors=MUTED, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9CA3AF")
    if grid:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)


def empty_figure(message: str) -> Figure:
    """A small figure that only says why there is nothing to see."""
    figure = new_figure(7, 1.2)
    figure.text(0.5, 0.5, message, ha="center", va="center", fontsize=11, color=MUTED)
    return figure


def plain(text: str) -> str:
    """A name as matplotlib text: dollars are no formula, and a leading underscore does not hide it from the legend."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def show_picture(axes: Axes, rgb: NDArray[np.uint8], *, edge: str | None = None) -> None:
    """Put pixels on `axes` without ticks, framed in `edge`."""
    axes.imshow(rgb, interpolation="nearest" if max(rgb.shape[:2]) <= 96 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(edge is not None)
        if edge is not None:
            spine.set_color(edge)
            spine.set_linewidth(2.0)


def encode(picture: Picture) -> tuple[str, bytes]:
    """A picture as (MIME type, bytes); photographs become JPEG where that is much smaller.

    Raises:
        ValueError: bytes that are neither PNG nor JPEG.
        FileNotFoundError: a path that does not exist.
    """
    if isinstance(picture, Path):
        picture = picture.read_bytes()
    if isinstance(picture, bytes):
        return _mime_of(picture), picture
    pixels = _pixels(picture) if isinstance(picture, Figure) else picture
    image = Image.fromarray(pixels).convert("RGB")
    png = _save(image, "PNG")
    jpeg = _save(image, "JPEG", quality=88, subsampling=0)
    return ("image/jpeg", jpeg) if len(jpeg) < 0.5 * len(png) else ("image/png", png)


def picture_size(content: bytes) -> tuple[int, int]:
    """Width and height in pixels of an encoded picture."""
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib annotates neither of the two calls
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8).copy()


def _save(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def _mime_of(content: bytes) -> str:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    raise ValueError(f"report: a picture must be PNG or JPEG, these {len(content)} bytes start with {content[:8]!r}")
