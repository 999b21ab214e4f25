"""Reading a pretrained encoder from a local file, with a strict account of what fitted."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# Where checkpoints keep the encoder: timm's own files at the top, this project's under "encoder.body.".
_PREFIXES = ("", "encoder.body.", "module.", "model.", "encoder.", "backbone.", "module.encoder.")
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .pth file, by name. A pickle is read with `weights_only=True` or not at all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no weight file, or a pickle that wants to run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file; give the path of a local .safetensors or .pth file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch or copy it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: the file holds more than tensors, or is no checkpoint at all, and is not read, since loading it "
            "could run code; save its state_dict() alone, or convert it to safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole PyTorch checkpoint ({error}); fetch or copy it again") from error
    return _unwrap(content, path)


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


def load_encoder_weights(encoder: nn.Module, path: Path) -> None:
    """Fill `encoder.body` from a file: every tensor of the encoder must be there, in its shape; heads are left out.

    The first convolution of a 3-band checkpoint is adapted to other band counts as timm does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something is missing, has another shape, or is not finite.
    """
    body: Any = encoder.body
    wanted: dict[str, Tensor] = body.state_dict()
    found = _best_prefix(read_tensors(path), wanted)
    matched, missing, misfit = {}, [], []
    for name, target in wanted.items():
        source = found.get(_plain_name(name))
        if source is None:
            # A step counter: older files have none, and it has no effect on the outputs.
            if not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif (fitted := _fit(source, target)) is None:
            misfit.append(f"{name} {tuple(source.shape)} for {tuple(target.shape)}")
        else:
            matched[name] = fitted
    unused = len(found) - len(matched) - len(misfit)
    counts = f"{len(matched)} of {len(wanted)} tensors fit, {len(missing)} missing, {len(misfit)} of another shape"
    if missing or misfit:
        examples = ", ".join((misfit + missing)[:3])
        raise ValueError(
            f"{path}: not the weights of encoder {encoder.name!r}: {counts} (e.g. {examples}); "
            "give the file of this encoder, or choose the encoder that the file was made with"
        )
    broken = [name for name, value in matched.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"{path}: {broken[0]} holds NaN or infinite values; the file is damaged, take another")
    body.load_state_dict(matched, strict=False)
    logger.info("%s: %s, %d left out (heads)", path, counts, unused)


def _plain_name(name: str) -> str:
    # timm's feature networks rename "stages.0.conv" to "stages_0.conv": compare without the difference.
    return name.replace(".", "_")


def _best_prefix(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {_plain_name(name) for name in wanted}
    candidates = [
        {_plain_name(k.removeprefix(prefix)): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in _PREFIXES
    ]
    return max(candidates, key=lambda candidate: len(names & candidate.keys()))


def _fit(source: Tensor, target: Tensor) -> Tensor | None:
    if source.shape == target.shape:
        return source
    is_stem = source.ndim == target.ndim == 4 and source.shape[1] == 3
    if is_stem and source.shape[:1] + source.shape[2:] == target.shape[:1] + target.shape[2:]:
        adapted: Tensor = adapt_input_conv(target.shape[1], source)
        return adapted
    return None
