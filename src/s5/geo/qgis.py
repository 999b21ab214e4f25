"""QGIS style files: a layer that lies beside one of the same stem takes its colours and names."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def raster_style(classes: Sequence[str], colors: Sequence[str]) -> str:
    """The style of a class map: a colour and a name for each value.

    Args:
        classes: Names; the position is the value.
        colors: ``#RRGGBB`` of each.
    """
    entries = "\n".join(
        f'        <paletteEntry value="{value}" label={quoteattr(name)} color={quoteattr(color)} alpha="255"/>'
        for value, (name, color) in enumerate(zip(classes, colors, strict=True))
    )
    return f"""{_HEAD}<qgis styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>
"""


def polygon_style(classes: Sequence[str], colors: Sequence[str], *, attribute: str = "class") -> str:
    """The style of class polygons: a fill for each value of `attribute`, without outline."""
    categories = "\n".join(
        f'      <category value={quoteattr(name)} label={quoteattr(name)} symbol="{number}" render="true"/>'
        for number, name in enumerate(classes)
    )
    symbols = "\n".join(_fill(number, color) for number, color in enumerate(colors))
    return f"""{_HEAD}<qgis styleCategories="Symbology">
  <renderer-v2 type="categorizedSymbol" attr={quoteattr(attribute)} enableorderby="0" forceraster="0">
    <categories>
{categories}
    </categories>
    <symbols>
{symbols}
    </symbols>
  </renderer-v2>
</qgis>
"""


def _fill(number: int, color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    options = {"color": f"{red},{green},{blue},200", "style": "solid", "outline_style": "no"}
    lines = "".join(f"<Option type='QString' name='{name}' value='{value}'/>" for name, value in options.items())
    return (
        f'      <symbol type="fill" name="{number}" alpha="1">'
        '<layer class="SimpleFill" enabled="1" pass="0" locked="0">'
        f'<Option type="Map">{lines}</Option></layer></symbol>'
    )
