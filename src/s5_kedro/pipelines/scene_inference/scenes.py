"""The scenes that a run maps."""

from __future__ import annotations

import logging
from collections import Counter
from glob import glob
from pathlib import Path

from s5_kedro.project import find_card, find_file, project_root

_log = logging.getLogger(__name__)

# A scene that nobody asked for is mapped only where that takes little time.
_MOST_PIXELS = 2048 * 2048


def find_scenes(images: str | None, dataset: str) -> dict[str, str]:
    """Name of each scene's output folder -> what rasterio opens, by name.

    Args:
        images: `scene.images`.
        dataset: The dataset card, of which a test image is taken where `images` is None.

    Raises:
        FileNotFoundError: there is no such file, or no raster among them.
        ValueError: two scenes have one name.
    """
    if images is None:
        return _one_of_dataset(dataset)
    if images.startswith("/vsi") or "://" in images:
        return {Path(images).stem: images}
    return _named([str(path) for path in _local(images)])


def _local(images: str) -> list[Path]:
    from s5.data.card import is_glob
    from s5.data.listing import IMAGE_SUFFIXES

    found = find_file(images)
    if found is not None and found.is_file():
        return [found]
    if found is not None:
        paths = sorted(found.iterdir())
    else:
        pattern = Path(images).expanduser()
        bases = [Path()] if pattern.is_absolute() else [Path.cwd(), project_root()]
        matches = [sorted(glob(str(base / pattern), recursive=True)) for base in bases] if is_glob(images) else []  # noqa: PTH207
        paths = [Path(name) for name in next((names for names in matches if names), [])]
    scenes = [path.resolve() for path in paths if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    if not scenes:
        what = "holds no raster" if paths else "there is no such file, folder or match"
        raise FileNotFoundError(
            f"scene.images: {images}: {what}; give a raster, a folder of rasters "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}), a glob, or a GDAL path such as /vsicurl/https://..."
        )
    return scenes


def _named(scenes: list[str]) -> dict[str, str]:
    stems = Counter(Path(scene).stem for scene in scenes)
    names = [Path(scene).stem if stems[Path(scene).stem] == 1 else Path(scene).name for scene in scenes]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"scene.images: several scenes are called {twice[0]}; map them in separate runs, or rename them"
        )
    return dict(zip(names, scenes, strict=True))


def _one_of_dataset(dataset: str) -> dict[str, str]:
    from s5.data.card import load_card
    from s5.data.listing import list_split
    from s5.geo.raster import UnreadableRasterError, describe

    card = load_card(find_card(dataset))
    for name in ("test", "val", "labeled"):
        entries = list_split(card, card.splits[name])[0] if name in card.splits else []
        for entry in entries:
            try:
                info = describe(entry.image)
            except UnreadableRasterError:
                continue
            if info.height * info.width <= _MOST_PIXELS and len(card.bands) in (
                info.bands,
                info.bands + info.has_alpha,
            ):
                return {entry.image.stem: str(entry.image)}
    _log.warning("scene: no image of the dataset has at most 2048 x 2048 pixels; give scenes to map with scene.images")
    return {}
