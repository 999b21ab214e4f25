"""Colours of classes, models and splits: sensible for land-cover names, and told apart by colour-blind readers."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

IGNORED = "#B8B8B8"
"""Pixels without a label: ignored ones and nodata."""

INK = "#24292F"
MUTED = "#6B7280"
GRID = "#E5E7EB"
ACCENT = "#0B6E99"

# Prefixes of the words in a class name; the first word that fits decides. Lightness differs between classes
# that red-green colour blindness would merge: dark forest, light vegetation, orange-red building, mid-brown bare land.
_NAMED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("water", "sea", "river", "lake", "ocean", "pond"), "#2F7FD6"),
    (("wetland", "swamp", "marsh", "flood", "mangrove"), "#1F9E96"),
    (("forest", "tree", "wood", "canopy"), "#0B4F26"),
    (("veg", "grass", "shrub", "scrub", "meadow", "pasture", "range", "lawn", "green"), "#8CCB5E"),
    (("field", "crop", "agri", "farm", "cultiv", "orchard", "paddy"), "#F2CE49"),
    (("road", "street", "pav", "asphalt", "highway", "rail", "bridge"), "#3F3F46"),
    (("build", "house", "roof", "construction"), "#E4512E"),
    (("imperv", "imsurf", "urban", "built", "develop", "settle"), "#8E44AD"),
    (("bare", "barren", "soil", "sand", "land", "unpaved", "ground", "rock", "desert"), "#B98A5A"),
    (("car", "vehicle", "ship", "boat", "plane", "truck"), "#FF8A1F"),
    (("snow", "ice", "cloud"), "#E8F6FF"),
    (("back", "clutter", "other", "unknown", "unlabel"), "#C3A5D9"),
)

# For names that no list can know: Okabe and Ito's colours and some of Paul Tol's, in an order that stays apart.
_SPARE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#CC79A7",
    "#0072B2",
    "#D55E00",
    "#F0E442",
    "#332288",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#6699CC",
    "#661100",
)

_MODELS = {
    "seed": "#8A8F98",
    "seed_model": "#8A8F98",
    "supervised": "#3B6FB6",
    "s4p": "#E08214",
    "finetuned": "#1B9E77",
}

SPLITS = {
    "labeled": "#D55E00",
    "unlabeled": "#A8B3C2",
    "noisy": "#8E6BBF",
    "val": "#E6B800",
    "test": "#0072B2",
    "selected": "#009E73",
}


def class_colors(classes: Sequence[str]) -> list[str]:
    """A colour for each class as ``#RRGGBB``: by its name where the name is a known one, and no colour twice."""
    taken: list[str] = []
    for name in classes:
        wanted = _named_color(name)
        taken.append(wanted if wanted is not None and wanted not in taken else _unused(taken))
    return taken


def model_color(name: str) -> str:
    """The colour that a model has in every plot; names that are not the usual ones get one from their letters."""
    if name in _MODELS:
        return _MODELS[name]
    return _SPARE[sum(name.encode()) % len(_SPARE)]


def to_rgb(color: str) -> tuple[int, int, int]:
    """``#RRGGBB`` as three values of 0..255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def ink_on(color: str) -> str:
    """Black or white, whichever is read more easily on `color` (WCAG relative luminance)."""
    red, green, blue = (_linear(value / 255) for value in to_rgb(color))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#FFFFFF"


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _named_color(name: str) -> str | None:
    for word in re.split(r"[^a-z]+", name.lower()):
        for prefixes, color in _NAMED:
            if word.startswith(prefixes):
                return color
    return None


def _unused(taken: Sequence[str]) -> str:
    """A spare colour far from those taken, or one of evenly turned hues once all are used."""
    free = [color for color in _SPARE if color not in taken]
    if free:
        return max(free, key=lambda color: (_nearest(color, taken), -_SPARE.index(color)))
    turn = len(taken) * 0.618033988749895 % 1.0  # golden ratio: successive hues stay apart however many there are
    red, green, blue = colorsys.hls_to_rgb(turn, 0.35 + 0.3 * (len(taken) % 2), 0.6)
    return f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}"


def _nearest(color: str, taken: Sequence[str]) -> int:
    """Squared distance in RGB to the nearest colour of `taken`."""
    own = to_rgb(color)
    return min((sum((a - b) ** 2 for a, b in zip(own, to_rgb(other), strict=True)) for other in taken), default=1 << 20)


def spare_colours(number: int) -> list[str]:
    """Colours that stay apart, for things that have no colour of their own; they repeat after fourteen."""
    return [_SPARE[i % len(_SPARE)] for i in range(number)]
