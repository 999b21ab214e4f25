"""Finished models that a parameter names by path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from s5_kedro.project import find_file, newest_model, project_root


def given_model(parameter: str, path: str, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """The pointer of a finished model, with `weights` the path of its file; weights alone have nothing else.

    Args:
        parameter: Name, for messages.
        path: Of a model pointer (.json) or weights (.safetensors), absolute or relative to the project; or the name of
            a trained model of the catalog, such as ``"noisy_model"``, whose newest version it is then.
        also: Suffixes of further kinds of weights.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is neither a pointer nor weights.
    """
    found = newest_model(path) or find_file(path)
    kinds = ", ".join((".safetensors", *also))
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"{parameter}: there is no file {path}; expected a model pointer (.json) or weights ({kinds}), absolute or "
            "relative to the project"
        )
    if found.suffix in (".safetensors", *also):
        return {"weights": found}
    if found.suffix != ".json":
        raise ValueError(f"{parameter}: expected a model pointer (.json) or weights ({kinds}), got {found.name}")
    from s5.models import open_pointer

    pointer = json.loads(found.read_text(encoding="utf-8"))
    if not isinstance(pointer, dict) or "path" not in pointer:
        raise ValueError(f"{parameter}: {path} is no model pointer (no 'path' in it)")
    # The project that it belongs to: this one, or a folder above the pointer that holds its weights.
    folders = (project_root(), *found.parents)
    root = next((folder for folder in folders if (folder / str(pointer["path"])).is_file()), project_root())
    return {**pointer, "weights": open_pointer(pointer, root)}
