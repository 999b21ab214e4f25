"""Models on disk: safetensors with a header that rebuilds the network, and JSON pointers to them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from s5.files import replacing, sha256_of
from s5.models.multi import MultiDatasetModel, create_multi_model
from s5.models.segmentation import SegmentationModel, create_model

logger = logging.getLogger(__name__)

_HEADER = "s5"

M = TypeVar("M", bound=nn.Module)


class Stored(Protocol):
    """A network that can be stored: `architecture` has the keywords of the function that builds it."""

    architecture: dict[str, Any]

    def state_dict(self) -> dict[str, Any]: ...


def save_model(model: Stored, path: Path, *, metadata: Mapping[str, Any]) -> None:
    """Write weights, architecture and `metadata` as one safetensors file, whole or not at all.

    Equal weights and metadata give equal bytes: keep paths, times and run ids out of `metadata`.

    Args:
        model: the network, on any device.
        path: target; its folder is made where missing.
        metadata: JSON-able; "classes", "ignore_index", "background" and "statistics" make the file serve by itself.

    Raises:
        OSError: the file cannot be written (disk full, no permission); `path` is then as it was before.
    """
    # One key only: the header is a hash map, and several keys would come in any order.
    header = {_HEADER: json.dumps({**metadata, "architecture": model.architecture}, sort_keys=True, allow_nan=False)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in sorted(model.state_dict().items())}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(f"{path}: the model could not be written ({error}); free some space and repeat") from error


def load_model(path: Path, *, task: str | None = None) -> tuple[SegmentationModel, dict[str, Any]]:
    """Rebuild a network that `save_model` wrote.

    Args:
        task: of a network for several data sets, the one whose dense network is wanted.

    Returns:
        The network in evaluation mode on the CPU, and the metadata it was stored with; of a network for several data
        sets, those of `task`. Random states stay as they were.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, not one of this project's, or holds NaN; it has several data sets and no
            `task` is given, or one that it does not have.
    """
    tensors, metadata = _read(path)
    datasets = metadata["architecture"].get("datasets")
    if datasets is None:
        return _rebuild(create_model, tensors, metadata, path), metadata
    if task is None:
        raise ValueError(f"{path}: the network is for the data sets {list(dict(datasets))}; say which with task=...")
    model = _rebuild(create_multi_model, tensors, metadata, path).for_task(task)
    of_each = metadata.pop("datasets", {})
    return model, {**metadata, **of_each.get(task, {}), "architecture": model.architecture}


def load_network(path: Path, create: Callable[..., M]) -> tuple[M, dict[str, Any]]:
    """`load_model` for a network of another kind, which `create` builds from its architecture."""
    tensors, metadata = _read(path)
    return _rebuild(create, tensors, metadata, path), metadata


def load_multi_model(path: Path) -> tuple[MultiDatasetModel, dict[str, Any]]:
    """`load_model` for a network of several data sets, whole."""
    tensors, metadata = _read(path)
    if "datasets" not in metadata["architecture"]:
        raise ValueError(f"{path}: the network is for one data set; use load_model")
    return _rebuild(create_multi_model, tensors, metadata, path), metadata


def _rebuild(create: Callable[..., M], tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> M:
    with torch.random.fork_rng(devices=[]):
        try:
            model = create(**metadata["architecture"])
            model.load_state_dict(tensors)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path}: its weights do not fit the network that its header describes ({error}); "
                "read it with the version of s5 that wrote it, or train it again"
            ) from error
    return model.eval()


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a stored model alone, without reading its weights. Raises as `load_model`."""
    return _read(path, weights=False)[1]


def _read(path: Path, *, weights: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file; train it first, or check the path")
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            if header is not None and weights:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy it again or train it again") from error
    metadata = _parse(header)
    if metadata is None:
        raise ValueError(
            f"{path}: no model of this project (its header has no {_HEADER!r} entry with an architecture); "
            "to start from an encoder's weights, give the file as encoder_weights"
        )
    broken = next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), None)
    if broken is not None:
        raise ValueError(f"{path}: {broken} holds NaN or infinite values; the training diverged, use an earlier model")
    return tensors, metadata


def _parse(header: str | None) -> dict[str, Any] | None:
    try:
        metadata = json.loads(header) if header is not None else None
    except json.JSONDecodeError:
        return None
    if isinstance(metadata, dict) and isinstance(metadata.get("architecture"), dict):
        return metadata
    return None


def make_pointer(weights: Path, *, root: Path, step: int, config: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """Describe a stored model in JSON: its path relative to `root`, its SHA-256, and how it was made.

    Args:
        weights: the safetensors file.
        root: the project's folder.
        step: optimiser steps behind the weights.
        config: the settings they were trained with.
        extra: further JSON-able facts.

    Raises:
        ValueError: `weights` does not lie under `root`.
    """
    try:
        relative = weights.resolve().relative_to(root.resolve())
    except ValueError as error:
        raise ValueError(f"{weights}: a model must lie in the project's folder {root} to be pointed at") from error
    return {"path": relative.as_posix(), "sha256": sha256_of(weights), "step": step, "config": dict(config), **extra}


def open_pointer(pointer: Mapping[str, Any], root: Path) -> Path:
    """The weights that a pointer names, checked against its SHA-256.

    Raises:
        FileNotFoundError: the weights are gone.
        ValueError: the pointer lacks a key, or the weights are not those it was made for.
    """
    lacking = [key for key in ("path", "sha256") if key not in pointer]
    if lacking:
        raise ValueError(f"model pointer: expected the keys path and sha256, {lacking} missing in {sorted(pointer)}")
    path = root / str(pointer["path"])
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the weights of the model pointer are gone; restore the file, or run its pipeline again"
        )
    found = sha256_of(path)
    if found != pointer["sha256"]:
        raise ValueError(
            f"{path}: the weights have changed since the pointer was made (sha256 {found[:12]}..., expected "
            f"{str(pointer['sha256'])[:12]}...); restore the file, or run the pipeline that makes it again"
        )
    return path
