"""Checkpoints that are whole or absent, each a folder ``step_<N>`` with its own hashes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from s5.files import sha256_of, write_json

logger = logging.getLogger(__name__)

_STATE, _SEAL = "state.pt", "checkpoint.json"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write ``folder/step_<N>`` under a temporary name, sync, rename; then remove all but the last `keep`.

    Args:
        state: Tensors, numbers, strings and containers of them: what ``torch.load(weights_only=True)`` reads.
    """
    target = folder / f"step_{step}"
    temporary = folder / f".step_{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with (temporary / _STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    write_json(temporary / _SEAL, {"step": step, "sha256": sha256_of(temporary / _STATE)})
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step_{old}", ignore_errors=True)
    return target


def load_last_checkpoint(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint under `folder`, or None; one that is cut short or changed is skipped aloud."""
    for step in reversed(_steps(folder)):
        path = folder / f"step_{step}"
        try:
            seal = json.loads((path / _SEAL).read_text(encoding="utf-8"))
            if seal["sha256"] != sha256_of(path / _STATE):
                raise ValueError("its hash differs from the one written with it")
            state: dict[str, Any] = torch.load(path / _STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever is wrong with it, the one before may be whole
            logger.warning("Checkpoint %s is not whole (%s); taking the one before it.", path.name, error)
            continue
        return step, state
    return None


def _steps(folder: Path) -> list[int]:
    names = (path.name.removeprefix("step_") for path in folder.glob("step_*"))
    return sorted(int(name) for name in names if name.isdigit())
