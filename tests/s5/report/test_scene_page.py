"""The page of a scene's map: whole by itself, and true to the map."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from s5.geo.raster import describe, write_geotiff
from s5.inference import SceneModel, ScenePictures
from s5.report import draw_scene
from s5.types import BandStatistics

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES, COLORS = ("</script>", "lake & sea", "wood"), ("#FF0000", "#0000FF", "#00FF00")


@pytest.fixture
def labels() -> np.ndarray:
    return np.kron(np.array([[0, 1], [2, 255]]), np.ones((40, 60))).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, labels: np.ndarray) -> Path:
    grid: dict[str, Any] = {"crs": "EPSG:32632", "transform": (0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    write_geotiff(tmp_path / "scene.tif", np.full((3, *labels.shape), 90, np.uint8), **grid)
    write_geotiff(tmp_path / "classes.tif", labels, nodata=255, **grid)
    statistics = BandStatistics(("r", "g", "b"), (0,) * 3, (255,) * 3, (0.5,) * 3, (0.2,) * 3)
    model = SceneModel(nn.Identity(), NAMES, statistics, COLORS, "0123456789abcdef")
    areas = [{"class": name, "pixels": 2400, "area_m2": 6e6, "share": 1 / 3} for name in NAMES]
    areas += [{"class": "nodata", "pixels": 2400, "area_m2": None, "share": None}]
    info = describe(tmp_path / "scene.tif")
    pictures = ScenePictures(tmp_path / "scene.tif", tmp_path / "classes.tif", model, info, areas, ["look <here>"])
    assert draw_scene(pictures, tmp_path) == ["quicklook.png", "index.html"]
    return tmp_path


def test_the_page_holds_the_map(folder: Path, labels: np.ndarray) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 1  # that of the page itself
    assert "lake &amp; sea" in page
    assert "look &lt;here&gt;" in page
    assert "6.00 km²" in page
    assert "2,400 px" in page
    assert re.findall(r'(?:src|href)="(?!data:,)([^"]+)"', page) == ["classes.tif", "quicklook.png"]
    found = re.search(r"const facts = (.+);\n", page)
    assert found is not None
    facts = json.loads(found.group(1))
    assert (facts["width"], facts["height"], facts["crs"]) == (120, 80, "EPSG:32632")
    assert facts["names"] == {"255,0,0": NAMES[0], "0,0,255": NAMES[1], "0,255,0": NAMES[2]}
    with Image.open(io.BytesIO(base64.b64decode(facts["classes"].split(",")[1]))) as image:
        shown = np.asarray(image.convert("RGBA"))
    expected = np.array([[255, 0, 0, 255], [0, 0, 255, 255], [0, 255, 0, 255]], np.uint8)
    np.testing.assert_array_equal(shown[labels < 255], expected[labels[labels < 255]])
    assert (shown[labels == 255, 3] == 0).all()


def test_the_quicklook_shows_scene_and_map(folder: Path) -> None:
    with Image.open(folder / "quicklook.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (80, 248, 3)
    assert pixels[10, 10].tolist() == [90, 90, 90]
    assert pixels[10, 138].tolist() == [255, 0, 0]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render the page with")
def test_a_browser_draws_the_map_over_the_scene(folder: Path) -> None:
    page, shot = folder / "index.html", folder / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [str(CHROMIUM), *flags, f"--screenshot={shot}", "--window-size=900,600", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for color in ([255, 0, 0], [0, 0, 255], [0, 255, 0]):
        mixed = 0.6 * np.array(color) + 0.4 * 90  # the map over the scene at 60 %
        assert (np.abs(pixels - mixed).max(1) < 12).mean() > 0.02
