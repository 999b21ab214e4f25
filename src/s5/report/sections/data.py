"""What the run was given: tiles, classes, bands, places, and what could not be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from s5.report.footprints import has_footprints, plot_footprints
from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, table
from s5.report.palette import SPLITS, class_colors
from s5.report.reasons import kind_of
from s5.report.sections.parts import bar, counted, figure, folded, section, shown_of, swatch

_ORDER = ("labeled", "unlabeled", "noisy", "val", "test")
_MOST_FILES = 200


def data(inputs: ReportInputs) -> Html | None:
    """Splits, classes, bands and a map."""
    parts = [_splits(inputs.manifest), _classes(inputs), _bands(inputs.statistics), _map(inputs)]
    if not any(parts):
        return None
    return section("data", "Data", _sentence(inputs), *parts)


def quarantine(inputs: ReportInputs) -> Html | None:
    """Files that were not used, with the reason."""
    files = inputs.quarantine
    if files is None:
        return None
    if files.empty:
        return section("quarantine", "Quarantine", element("p", "Every file could be used.", class_="lead"))
    kinds = files["kind"] if "kind" in files else files["reason"].map(kind_of)
    counts = sorted(
        ((len(part), str(kind)) for kind, part in files.groupby(kinds)), key=lambda pair: (-pair[0], pair[1])
    )
    listed = [
        [element("code", str(row["path"])), str(row["reason"])] for row in files.head(_MOST_FILES).to_dict("records")
    ]
    return section(
        "quarantine",
        "Quarantine",
        element("p", f"{counted(len(files), 'file')} could not be used, or only in part.", class_="lead"),
        table(["kind", "files"], [[kind.replace("_", " "), f"{count:,}"] for count, kind in counts]),
        folded("Files", element("p", shown_of(len(files), _MOST_FILES)), table(["path", "reason"], listed)),
    )


def _sentence(inputs: ReportInputs) -> Html | None:
    frame = inputs.manifest
    if frame is None:
        return None
    text = f"{counted(len(frame), 'tile')} of {counted(frame['image'].nunique(), 'image')}"
    places = sorted(c for c in frame["crs"].dropna().unique() if c) if "crs" in frame else []
    text += f", in {', '.join(_short(c) for c in places[:4])}" if places else ", without georeference"
    return element("p", text + ".", class_="lead")


def _short(crs: str) -> str:
    return crs if len(crs) <= 24 else crs.split('"')[1] if '"' in crs else crs[:24]


def _splits(manifest: pd.DataFrame | None) -> Html | None:
    if manifest is None or manifest.empty:
        return None
    present = list(manifest["split"].unique())
    rows = []
    for split in [*(s for s in _ORDER if s in present), *(s for s in present if s not in _ORDER)]:
        part = manifest[manifest["split"] == split]
        rows.append(
            [
                swatch(SPLITS.get(split, "#888888"), split),
                f"{len(part):,}",
                f"{part['image'].nunique():,}",
                f"{part['group'].nunique():,}" if "group" in part else "–",
                _sizes(part),
                f"{(part['height'].astype(float) * part['width']).sum() / 1e6:,.2f}",
                f"{part['valid_share'].mean():.1%}" if "valid_share" in part else "–",
                f"{part['mask'].notna().sum():,}",
            ]
        )
    head = ["split", "tiles", "images", "groups", "tile size, px", "Mpx", "valid pixels", "tiles with mask"]
    return table(head, rows)


def _sizes(part: pd.DataFrame) -> str:
    sizes = part.groupby(["height", "width"]).size().sort_values(ascending=False)
    height, width = sizes.index[0]
    return f"{height} × {width}" + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else "")


def _classes(inputs: ReportInputs) -> Html | None:
    """A bar a split, cut by the shares of the classes, and the shares in numbers."""
    names = inputs.classes
    pixels = _class_pixels(inputs)
    if not names or not pixels:
        return None
    colors = class_colors(names)
    shares = {split: _percent(counts, names) for split, counts in pixels.items()}
    stacks = []
    for split, values in shares.items():
        cuts = [
            element("i", style=f"--v:{value:.3f};--c:{color}", title=f"{name} {value:.1f} %")
            for name, color, value in zip(names, colors, values, strict=True)
        ]
        stacks.append([split, element("td", element("div", cuts, class_="stack"))])
    numbers = [
        [swatch(color, name), *(bar(values[i], color) for values in shares.values())]
        for i, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    background = (inputs.label_space or {}).get("background")
    text = f"Shares of the labelled pixels.{f' Background is {background}.' if background else ''}"
    return element(
        "div",
        element("h3", "Classes"),
        element("p", text, class_="lead"),
        table(["split", "classes"], stacks),
        table(["class", *(f"{split}, %" for split in shares)], numbers),
    )


def _class_pixels(inputs: ReportInputs) -> dict[str, Mapping[str, int]]:
    """As counted, else from the rows of a confusion matrix, which are the truth of the evaluated split."""
    if inputs.class_pixels:
        return dict(inputs.class_pixels)
    if not inputs.confusion:
        return {}
    matrix = next(iter(inputs.confusion.values()))
    split = str((inputs.evaluation or {}).get("split", "test"))
    return {split: {name: int(sum(row)) for name, row in zip(inputs.classes, matrix, strict=True)}}


def _percent(counts: Mapping[str, int], names: list[str]) -> list[float]:
    total = sum(counts.get(name, 0) for name in names)
    return [100.0 * counts.get(name, 0) / total if total else 0.0 for name in names]


def _bands(statistics: Mapping[str, Any] | None) -> Html | None:
    if statistics is None:
        return None
    columns = ("low", "high", "mean", "std")
    rows = [
        [str(band), *(f"{statistics[column][i]:.4g}" for column in columns)]
        for i, band in enumerate(statistics["bands"])
    ]
    text = (
        "Raw values low and high become 0 and 1; mean and deviation are of the scaled values. Stored with each model."
    )
    return element(
        "div",
        element("h3", "Bands"),
        element("p", text, class_="lead"),
        table(["band", "low", "high", "mean", "standard deviation"], rows),
    )


def _map(inputs: ReportInputs) -> Html | None:
    if inputs.manifest is None or not has_footprints(inputs.manifest):
        return None
    taken = () if inputs.pool is None else [str(tile) for tile in inputs.pool["tile_id"]]
    caption = "Footprints of the tiles, north up. The manifest is GeoParquet: QGIS opens it on the spot."
    image = plot_footprints(inputs.manifest, taken)
    return element("div", element("h3", "Places"), figure(image, "Map of tile footprints", caption))
