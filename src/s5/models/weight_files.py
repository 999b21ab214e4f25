"""Tensors from weight files, local or from a hub. No pickle that could run code is ever opened."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_WRAPPERS = ("state_dict", "model", "teacher", "state_dict_ema", "model_ema")
_HUB_ID = re.compile(r"^(hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>[\w./-]+))?$")
_HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")


def find_weights(source: str | Path) -> Path:
    """The local file of a path, or of a hub id such as ``"timm/resnet18.a1_in1k"`` or ``"org/name:file.pth"``.

    Raises:
        FileNotFoundError: no such file, and no hub id; or the hub could not be reached or has no such file.
    """
    path = Path(source)
    if path.is_file():
        return path
    match = _HUB_ID.match(str(source))
    if match is None or (match["file"] is None and path.suffix in (".pth", ".pt", ".safetensors", ".bin")):
        raise FileNotFoundError(
            f"{source}: no such weight file; give a local .safetensors or .pth file, or a hub id such as "
            "'timm/resnet18.a1_in1k' or 'org/name:file.pth'"
        )
    return _fetch(match["repo"], match["file"])


def _fetch(repo: str, file: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    failures = []
    for name in [file] if file else _HUB_FILES:
        try:
            return Path(hf_hub_download(repo, name))
        except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
            failures.append(f"{name}: {type(error).__name__}")
    raise FileNotFoundError(
        f"{repo}: nothing could be fetched from the hub ({', '.join(failures)}) and there is no such local file; "
        "check the name and the connection, or give the path of a local file"
    )


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .pth file, by name. A pickle is read with `weights_only=True` or not at all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no weight file, a pickle that wants to run code, or holds NaN or infinite values.
    """
    path = find_weights(source)
    tensors = _unwrap(read_checkpoint(path), path)
    broken = next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), None)
    if broken is not None:
        raise ValueError(f"{path}: {broken} holds NaN or infinite values; the file is damaged, take another")
    return tensors


def read_checkpoint(path: Path) -> Any:
    """The content of a weight file as it is. Raises as `read_tensors`."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch or copy it again") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: the file holds more than tensors, or is no checkpoint at all, and is not read, since loading it "
            "could run code; save its state_dict() alone, or convert it to safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole PyTorch checkpoint ({error}); fetch or copy it again") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        inner = next((content[key] for key in _WRAPPERS if key in content), None)
        if inner is None:
            break
        content = inner
    raise ValueError(f"{path}: expected a state dict of tensors, found none; save model.state_dict() alone")
