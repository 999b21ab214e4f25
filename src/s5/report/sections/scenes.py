"""The maps of scenes, with links to their pages."""

from __future__ import annotations

from s5.report.inputs import ReportInputs, SceneLink
from s5.report.markup import Html, element, join
from s5.report.sections.parts import figure, section


def scenes(inputs: ReportInputs) -> Html | None:
    """Scene and map side by side, and what can be opened."""
    if not inputs.scenes:
        return None
    text = "Mapped with the fine-tuned model; the page moves and zooms, GeoTIFF and GeoPackage lie beside it for QGIS."
    return section(
        "scenes", "Maps of scenes", element("p", text, class_="lead"), [_one(scene) for scene in inputs.scenes]
    )


def _one(scene: SceneLink) -> Html:
    links = [element("a", title, href=href) for title, href in scene.links.items()]
    caption = [element("strong", scene.name), ": ", *(part for link in links for part in (link, " "))]
    if scene.quicklook is None:
        return element("p", caption)
    return figure(scene.quicklook, f"{scene.name} and its map", join(caption))
