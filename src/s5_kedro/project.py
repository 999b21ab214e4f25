"""Where the project lies and which dataset card a run is about."""

from __future__ import annotations

import logging
from pathlib import Path

DEMO = "demo"
_DEMO_FOLDER = Path("data/01_raw/demo")
_log = logging.getLogger(__name__)
_root: list[Path] = []


def set_project_root(path: Path) -> None:
    """Remember the project folder of this process; a hook calls it when the context is there."""
    _root[:] = [path.resolve()]


def project_root() -> Path:
    """The project folder; the working directory where no Kedro context was made."""
    return _root[0] if _root else Path.cwd()


def find_file(path: str | Path) -> Path | None:
    """A file or folder named by a parameter: absolute, or relative to where the user stands or to the project."""
    given = Path(str(path)).expanduser()
    candidates = [given] if given.is_absolute() else [Path.cwd() / given, project_root() / given]
    return next((candidate.resolve() for candidate in candidates if candidate.exists()), None)


def newest_model(name: str) -> Path | None:
    """The newest version of a model pointer of the catalog, by name, such as ``"noisy_model"``; None without one."""
    found = (project_root() / "data" / "06_models" / f"{name}.json").glob(f"*/{name}.json")
    return max(found, default=None)


def find_card(dataset: str) -> Path:
    """The dataset card of a run; the demo world is generated on its first use.

    Args:
        dataset: `demo`, the path of a dataset.yml, or of a folder that holds one.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if dataset == DEMO:
        return _demo_card()
    found = find_file(dataset)
    if found is not None and found.is_dir():
        found = found / "dataset.yml"
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"dataset: there is no file {found or dataset}; give the path of a dataset card with "
            "--params=dataset=PATH/TO/dataset.yml, or 'demo' for the demo world"
        )
    return found


def _demo_card() -> Path:
    from s5.data.demo import make_demo_world

    folder = project_root() / _DEMO_FOLDER
    if not folder.is_dir():
        _log.info("Generating the demo world in %s", _DEMO_FOLDER)
    return make_demo_world(folder)
