from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render the page with")
@pytest.mark.parametrize(("width", "dark"), [(1300, True), (420, False)])
def test_a_browser_shows_the_page(tmp_path: Path, report_html: str, width: int, dark: bool) -> None:
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(report_html, encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *scheme),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", f"--window-size={width},1600"),
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert pixels.shape[0] == 1600
    background = np.median(pixels[:, -3:])
    assert background < 60 if dark else background > 200
    # Cards, pictures and text all over the page, not a blank sheet or one column of unstyled text.
    assert pixels.std() > 20
    assert (np.abs(pixels - background) > 40).any(axis=1).mean() > 0.35
