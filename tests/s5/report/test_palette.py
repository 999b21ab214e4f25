from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from s5.report.palette import IGNORED, class_colors, ink_on, model_color, to_rgb

# Viénot, Brettel and Mollon (1999): what a dichromat sees, on linear RGB.
_DEUTERANOPIA = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
_PROTANOPIA = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])


def _lab(color: str, deficiency: np.ndarray | None = None) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour, as a colour-blind reader sees it."""
    srgb = np.array(to_rgb(color)) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    if deficiency is not None:
        linear = np.clip(deficiency @ linear, 0, 1)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = matrix @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_usual_classes_are_told_apart_by_all_readers() -> None:
    for classes in (
        ["field", "forest", "water", "road", "building"],
        ["building", "land_unpaved", "road", "vegetation", "water"],
        ["water", "forest", "field", "impervious"],
    ):
        colors = [*class_colors(classes), IGNORED]
        for deficiency in (None, _DEUTERANOPIA, _PROTANOPIA):
            seen = [_lab(c, deficiency) for c in colors]
            nearest = min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])
            assert nearest > 11, (classes, nearest)


def test_names_decide_the_color() -> None:
    water, forest = class_colors(["Open Water", "forest_land"])
    red, green, blue = to_rgb(water)
    assert blue > max(red, green)
    red, green, blue = to_rgb(forest)
    assert green > max(red, blue)
    assert class_colors(["water"]) == class_colors(["WATER"])


@given(st.lists(st.text(max_size=12), min_size=1, max_size=60, unique=True))
def test_every_class_has_its_own_color(classes: list[str]) -> None:
    colors = class_colors(classes)
    assert len(set(colors)) == len(classes)
    assert all(len(c) == 7 and to_rgb(c) for c in colors)
    assert colors == class_colors(classes)


def test_two_names_of_one_kind_differ() -> None:
    assert len(set(class_colors(["road", "street", "asphalt", "railway"]))) == 4


def test_ink_is_readable() -> None:
    assert ink_on("#FFFFFF") == "#000000"
    assert ink_on("#101010") == "#FFFFFF"


def test_models_have_fixed_colors() -> None:
    assert len({model_color(n) for n in ("seed_model", "supervised", "s4p", "finetuned")}) == 4
    assert model_color("mine") == model_color("mine")
