"""A scene's map for eyes: a quick-look picture, and a page to move about in that needs no server and no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s5.inference import ScenePictures
from s5.report.display import color_mask, display_rgb
from s5.report.markup import Html, element
from s5.report.palette import to_rgb

_LONGEST_MAP = 3072  # pixels of the embedded map
_LONGEST_SCENE = 2048
_LONGEST_QUICKLOOK = 1024
_KINDS = {
    "classes.tif": "the map, with colour table and overviews",
    "probabilities.tif": "probability of each class",
    "entropy.tif": "entropy, 0 certain to 1",
    "polygons.gpkg": "polygons with area and mean confidence",
    "polygons.parquet": "polygons with area and mean confidence",
    "areas.csv": "area of each class",
    "zone_areas.csv": "area of each class in each zone",
    "quicklook.png": "picture",
}


def draw_scene(pictures: ScenePictures, folder: Path) -> list[str]:
    """Write ``quicklook.png`` and ``index.html`` into `folder`; returns their names.

    The page lists the products that `folder` holds by then.
    """
    model = pictures.model
    scene = _scene_rgb(pictures, _LONGEST_SCENE)
    labels = _labels(pictures.classes, _LONGEST_MAP)
    _quicklook(pictures, scene).save(folder / "quicklook.png", optimize=True)
    info = pictures.info
    title = Path(pictures.image).stem
    data = {
        "width": info.width,
        "height": info.height,
        "transform": info.transform,
        "crs": _short(info.crs),
        "geographic": max(abs(info.transform[0]), abs(info.transform[1])) < 1e-2,
        "names": {",".join(map(str, to_rgb(c))): n for c, n in zip(model.colors, model.classes, strict=True)},
        "scene": _embedded(Image.fromarray(scene), "JPEG", quality=85),
        "classes": _embedded(_paletted(labels, model.colors), "PNG", optimize=True, transparency=255),
    }
    facts = f"{info.width:,} x {info.height:,} pixels, {_short(info.crs) or 'no CRS'}; model {model.identity[:12]}"
    products = [name for name in _KINDS if (folder / name).is_file()]
    listed = [element("li", element("a", name, href=name), ": ", _KINDS[name]) for name in products]
    parts = {
        "TITLE": element("span", title)[len("<span>") : -len("</span>")],
        "FACTS": element("span", facts),
        "NOTES": "".join(element("p", note, class_="note") for note in pictures.notes),
        "TABLE": _table(pictures.areas, model.colors),
        "FILES": element("ul", listed),
        # "<" is written so that no name can end the script.
        "DATA": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    }
    page = files("s5.report").joinpath("scene_page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"@@{name}@@", text)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return ["quicklook.png", "index.html"]


def _scene_rgb(pictures: ScenePictures, longest: int) -> NDArray[np.uint8]:
    from s5.geo.raster import read_shrunk

    statistics = pictures.model.statistics
    bands = list(range(1, len(statistics.bands) + 1))
    return display_rgb(read_shrunk(pictures.image, longest, bands=bands), statistics)


def _labels(classes: Path, longest: int) -> NDArray[np.uint8]:
    from s5.geo.raster import read_shrunk

    labels: NDArray[np.uint8] = read_shrunk(classes, longest, bands=[1])[0]
    return labels


def _quicklook(pictures: ScenePictures, scene: NDArray[np.uint8]) -> Image.Image:
    """Scene and map side by side."""
    labels = _labels(pictures.classes, _LONGEST_QUICKLOOK)
    size = (labels.shape[1], labels.shape[0])
    sheet = Image.new("RGB", (2 * size[0] + 8, size[1]), "white")
    sheet.paste(Image.fromarray(scene).resize(size, Image.Resampling.BILINEAR), (0, 0))
    sheet.paste(Image.fromarray(color_mask(labels, pictures.model.colors)), (size[0] + 8, 0))
    return sheet


def _paletted(labels: NDArray[np.uint8], colors: Sequence[str]) -> Image.Image:
    image = Image.fromarray(labels)
    palette = [value for color in colors for value in to_rgb(color)]
    image.putpalette(palette + [0] * (768 - len(palette)))
    return image


def _embedded(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _table(areas: Sequence[Mapping[str, Any]], colors: Sequence[str]) -> Html:
    rows = []
    for number, row in enumerate(areas):
        color = colors[number] if number < len(colors) else "transparent"
        share = "" if row["share"] is None else f"{row['share']:.1%}"
        head = element("th", element("i", style=f"background:{color}"), row["class"], scope="row")
        rows.append(element("tr", head, element("td", _area(row)), element("td", share)))
    return element("table", element("tbody", rows))


def _area(row: Mapping[str, Any]) -> str:
    square_metres = row["area_m2"]
    if square_metres is None:
        return f"{row['pixels']:,} px"
    for unit, size in (("km²", 1e6), ("ha", 1e4)):
        if square_metres >= size:
            return f"{square_metres / size:,.2f} {unit}"
    return f"{square_metres:,.0f} m²"


def _short(crs: str) -> str:
    """A CRS by its code, or by the name that its WKT begins with."""
    return crs if len(crs) < 30 else crs.split('"')[1]
