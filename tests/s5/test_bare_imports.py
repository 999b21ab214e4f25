"""The training half of the library runs on a machine that has torch, torchvision, timm and numpy alone."""

import subprocess
import sys

import pytest

BARE = """
import sys
ABSENT = {"kedro", "kedro_datasets", "mlflow", "rasterio", "geopandas", "pyogrio", "shapely", "pandas", "pyarrow",
          "sklearn", "matplotlib", "torchmetrics"}
sys.modules.update(dict.fromkeys(ABSENT))  # None there makes an import fail, and find_spec say that there is none
import {module}
"""


@pytest.mark.parametrize(
    "module", ["s5.models", "s5.losses", "s5.metrics", "s5.engine", "s5.semisup", "s5.finetuning", "s5.detection"]
)
def test_room_imports_without_the_rest(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE.replace("{module}", module)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
