"""The weights that fine-tuning starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from s5_kedro.project import find_file, newest_model, project_root

_WEIGHTS = (".safetensors", ".pth", ".pt")


def start_pointer(path: str | None, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """The pointer to start from.

    Args:
        path: `finetune.init`: a file, or the name of a trained model of the catalog, such as ``"noisy_model"``.
        trained: The pointer of the catalog's `s4p_model`, used where there is no `path`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is neither a pointer nor weights.
    """
    if path is None:
        if trained is None:
            raise FileNotFoundError(
                "s4p_model: there is none yet; make it with kedro run --pipelines=s4p_pretrain, or start from another "
                "model with --params=finetune.init=POINTER_OR_WEIGHTS"
            )
        return dict(trained)
    from s5.files import sha256_of

    found = newest_model(path) or find_file(path)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"finetune.init: there is no file {path}; expected a pointer (.json) or weights (.safetensors, .pth), "
            "absolute or relative to the project"
        )
    if found.suffix in _WEIGHTS:
        return {"path": str(found), "sha256": sha256_of(found)}
    pointer = json.loads(found.read_text(encoding="utf-8")) if found.suffix == ".json" else None
    if not isinstance(pointer, dict) or "path" not in pointer:
        raise ValueError(f"finetune.init: expected a model pointer or weights, got {found.name}")
    folders = (project_root(), *found.parents)
    home = next((folder for folder in folders if (folder / pointer["path"]).is_file()), project_root())
    return {**pointer, "path": str(home / pointer["path"])}
