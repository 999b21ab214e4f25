"""The notebook is executed, cell by cell, on a finished run."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # jupyter_client and zmq announce their own deprecations when they are imported.
    warnings.simplefilter("ignore")
    nbformat = pytest.importorskip("nbformat", reason="the notebook extra is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the notebook extra is not installed")

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


def test_no_outputs_are_committed() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_shows_a_finished_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S5_PROJECT_PATH", str(finished))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with warnings.catch_warnings():
        # jupyter_client starts the kernel's sockets in ways that newer Pythons warn about.
        warnings.simplefilter("ignore")
        client = nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {}})
        client.execute(cwd=str(NOTEBOOK.parent))
    pictures = _outputs(notebook, "image/png") + _outputs(notebook, "image/jpeg")
    assert len(pictures) == 6
    assert all(len(base64.b64decode(picture)) > 5000 for picture in pictures)
    tables = "".join(_outputs(notebook, "text/html"))
    assert "supervised" in tables
    assert "miou" in tables
    said = "".join(_outputs(notebook, "text/plain"))
    assert "points over supervised" in said


def _outputs(notebook: object, kind: str) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [o["data"][kind] for cell in cells for o in cell.outputs if kind in o.get("data", {})]
