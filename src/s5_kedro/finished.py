"""Finished models that a parameter names: a pointer beside its weights, or the weights themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s5_kedro.project import find_file, project_root


def finished_model(path: str, key: str) -> dict[str, Any]:
    """The pointer of a finished model, with `weights` the path of its file.

    Args:
        path: A model pointer (.json) or weights (.safetensors).
        key: The parameter that names it, for messages.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is neither a pointer nor weights.
    """
    found = find_file(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"{key}: there is no file {path}; expected a model pointer (.json) or weights (.safetensors), absolute or "
            "relative to the project"
        )
    if found.suffix == ".safetensors":
        return {"weights": found}
    if found.suffix != ".json":
        raise ValueError(f"{key}: expected a .json or .safetensors file, got {found.name}")
    from s5.models import open_pointer

    pointer = json.loads(found.read_text(encoding="utf-8"))
    if not isinstance(pointer, dict) or "path" not in pointer:
        raise ValueError(f"{key}: {path} is no model pointer (no 'path' in it)")
    return {**pointer, "weights": open_pointer(pointer, _project_of(found, str(pointer["path"])))}


def _project_of(pointer_file: Path, weights: str) -> Path:
    """The project that a pointer belongs to: this one, or a folder above the pointer that holds its weights."""
    return next((f for f in (project_root(), *pointer_file.parents) if (f / weights).is_file()), project_root())
