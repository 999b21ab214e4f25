"""Checkpoints that are whole or not taken: folders ``step_<N>``, each sealed by a manifest of its files' hashes.

``tensors.safetensors`` holds every tensor of a state, ``state.json`` the rest of it with the tensors' names in their
places, and ``manifest.json``, written last, the size and SHA-256 of both. Nothing is pickled, so that a checkpoint of
unknown origin can be wrong but cannot run code.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from s5.files import sha256_of, sync_to_disk

logger = logging.getLogger(__name__)

_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_CONTENT = (_TENSORS, _STATE)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they lie; made where missing.
        keep: How many of the last ones are kept, at least 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._skipped: set[int] = set()

    def steps(self) -> list[int]:
        """The steps of all checkpoints that are there, whole or not, in order."""
        names = (path.name.removeprefix("step_") for path in self.folder.glob("step_*"))
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, state: dict[str, Any], *, best: int | None = None) -> Path:
        """Write ``step_<N>`` under a temporary name, sync and rename it, then remove what is no longer kept.

        Args:
            state: Tensors, numbers, text, None, and lists, tuples and dicts of them.
            best: Step of a checkpoint that is kept beside the last ones.

        Raises:
            OSError: it cannot be written (disk full); the checkpoints there are as they were.
            TypeError: `state` holds something else.
        """
        tensors = _Tensors()
        rest = json.dumps(tensors.taken_from(state, "state"), allow_nan=False, separators=(",", ":"))
        target, temporary = self._path(step), self._hidden(step)
        for left in self.folder.glob(".step_*.tmp"):  # by a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            try:
                safetensors.torch.save_file(tensors.named, temporary / _TENSORS)
            except SafetensorError as error:
                raise OSError(f"{temporary / _TENSORS}: {error}") from error
            (temporary / _STATE).write_text(rest, encoding="utf-8")
            manifest = {"step": step, "files": {name: _seal(temporary / name) for name in _CONTENT}}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            for path in (temporary / _MANIFEST, temporary):
                sync_to_disk(path)
            self._remove(step)  # there is one where a damaged one was skipped
            temporary.rename(target)
            sync_to_disk(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._skipped.discard(step)
        self._prune(step, best)
        return target

    def load_last(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest whole checkpoint, tensors on the CPU; None where there is none.

        One that is cut short, changed or unreadable is skipped with a warning that says why.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, _read(self._path(step), step)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                logger.warning("Checkpoint %s is skipped: %s", self._path(step), error)
                self._skipped.add(step)
        if steps:
            logger.warning("No checkpoint in %s is whole: starting again from step 0", self.folder)
        return None

    def _prune(self, step: int, best: int | None) -> None:
        # One of a later step, or one that was skipped, must not take the place of a whole one.
        whole = [one for one in self.steps() if one <= step and one not in self._skipped]
        kept = {*whole[-self.keep :], *({best} & set(whole))}
        for old in self.steps():
            if old not in kept:
                with suppress(OSError):  # what cannot be removed is in nobody's way
                    self._remove(old)

    def _remove(self, step: int) -> None:
        """Out of sight first, so that a process killed meanwhile leaves nothing that looks like a checkpoint."""
        if self._path(step).exists():
            self._path(step).rename(self.folder / f".step_{step}.old.tmp")
            shutil.rmtree(self.folder / f".step_{step}.old.tmp", ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def _hidden(self, step: int) -> Path:
        return self.folder / f".step_{step}.tmp"


def _seal(path: Path) -> dict[str, Any]:
    sync_to_disk(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _read(path: Path, step: int) -> dict[str, Any]:
    """The state in a checkpoint's folder; any error of those that `load_last` skips where it is not whole."""
    manifest = _json(path / _MANIFEST)
    if manifest["step"] != step:
        raise ValueError(f"{_MANIFEST} is that of step {manifest['step']}")
    for name in _CONTENT:
        seal, file = manifest["files"][name], path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != seal["bytes"]:
            raise ValueError(f"{name} has {file.stat().st_size} bytes, expected {seal['bytes']}: it was cut short")
        if sha256_of(file) != seal["sha256"]:
            raise ValueError(f"{name} has another SHA-256 than {_MANIFEST} says: it was changed or damaged")
    tensors = safetensors.torch.load_file(path / _TENSORS)
    state: dict[str, Any] = _put_back(_json(path / _STATE), tensors)
    return state


def _json(path: Path) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing: it was not written to its end") from error
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds a {type(value).__name__}, expected an object")
    return value


class _Tensors:
    """Takes the tensors out of a state; what JSON cannot hold becomes an object whose key starts with ``$``."""

    def __init__(self) -> None:
        self.named: dict[str, torch.Tensor] = {}
        self._storages: set[int] = set()

    def taken_from(self, value: Any, name: str) -> Any:
        """`value` for JSON, the tensors in it named after their place."""
        if isinstance(value, torch.Tensor):
            return self._take(value, name)
        if isinstance(value, float) and not math.isfinite(value):
            return {"$float": repr(float(value))}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            items = [self.taken_from(item, f"{name}/{place}") for place, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
            pairs = [(key, self.taken_from(item, f"{name}/{key}")) for key, item in value.items()]
            plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
            return dict(pairs) if plain else {"$items": pairs}
        raise TypeError(
            f"checkpoint: {name} is a {type(value).__name__}; expected tensors, numbers, text, None, and lists, tuples "
            "and dicts (keys: text or whole numbers) of them: let state_dict() give it as such"
        )

    def _take(self, value: torch.Tensor, name: str) -> dict[str, Any]:
        while name in self.named:  # {"a": {"b": t}, "a/b": u}
            name += "'"
        flat = value.detach().cpu().contiguous()
        storage = flat.untyped_storage().data_ptr()
        if storage in self._storages:  # safetensors refuses tensors that share memory, as tied weights do
            flat = flat.clone()
        self._storages.add(storage)
        self.named[name] = flat
        taken: dict[str, Any] = {"$tensor": name}
        # Fused optimisers walk through a parameter and its moments side by side: the layout belongs to the state.
        if value.stride() != torch.empty(value.shape, device="meta").stride() and _is_dense(value):
            taken["stride"] = list(value.stride())
        return taken


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether every element has a place of its own and there is no gap, in whatever order of dimensions."""
    filled = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != filled:
                return False
            filled *= size
    return True


def _put_back(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_back(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        # A copy: the file under a tensor that was mapped into memory is removed while the run goes on.
        stored = tensors[value["$tensor"]]
        stride = value.get("stride", stored.stride())
        return torch.empty_strided(stored.shape, tuple(stride), dtype=stored.dtype).copy_(stored)
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(_put_back(value["$tuple"], tensors))
    items = value["$items"] if "$items" in value else value.items()
    return {key: _put_back(item, tensors) for key, item in items}
