"""Styles as QGIS reads them: well-formed, a name and a colour for each class, whatever stands in a name."""

from __future__ import annotations

from xml.etree import ElementTree

from s5.geo.qgis import polygon_style, raster_style

NAMES, COLORS = ("field & <meadow>", 'the "lake"', "road"), ("#112233", "#FF0000", "#0000FF")


def test_a_raster_has_a_colour_and_a_name_for_each_value() -> None:
    style = ElementTree.fromstring(raster_style(NAMES, COLORS))
    assert style.tag == "qgis"
    renderer = style.find("pipe/rasterrenderer")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [(e.get("value"), e.get("label"), e.get("color")) for e in renderer.iter("paletteEntry")]
    assert entries == [(str(value), *both) for value, both in enumerate(zip(NAMES, COLORS, strict=True))]


def test_polygons_are_filled_by_their_class() -> None:
    style = ElementTree.fromstring(polygon_style(NAMES, COLORS))
    renderer = style.find("renderer-v2")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "class")
    fills = {
        symbol.get("name"): option.get("value")
        for symbol in renderer.iter("symbol")
        for option in symbol.iter("Option")
        if option.get("name") == "color"
    }
    found = [(c.get("value"), c.get("label"), fills[c.get("symbol")]) for c in renderer.iter("category")]
    colors = ["17,34,51,200", "255,0,0,200", "0,0,255,200"]
    assert found == [(name, name, color) for name, color in zip(NAMES, colors, strict=True)]
