"""What finds classes in images by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from s5.files import sha256_of
from s5.purification.prompts import class_prompts, prompts_digest

GROUNDERS = ("qwen_vl", "sam3", "clip_dense", "clipseg", "embedded")
PRECISIONS = ("fp32", "bf16", "4bit")
CODE = "1"
"""Raised when the same model would be read otherwise, so that evidence is asked for anew."""


class Grounder(Protocol):
    """An image in, evidence of each class out.

    Attributes:
        key: All that its answers depend on: model, version, prompts.
    """

    key: dict[str, str]

    def ground(self, images_BCHW: Tensor) -> Tensor:
        """uint8 RGB images [B, 3, H, W] in; float32 [B, K + 1, h, w] in [0, 1] out, channel K being "unknown"; h and w
        may be smaller than H and W, and cover the same ground."""
        ...


@dataclass(frozen=True)
class GroundingConfig:
    """Which model is asked, and how.

    Args:
        name: One of `GROUNDERS`.
        model: A local folder or hub id; of ``clip_dense`` also a name that open_clip knows, such as ``"ViT-B-32"``; of
            ``embedded`` the folder that `s5.purification.embedded.train_embedded` filled.
        weights: A local file in open_clip's format, for a `model` that is a name (RemoteCLIP, GeoRSCLIP).
        sam: SAM or SAM 2 for the boxes of ``qwen_vl``, folder or hub id; boxes are filled without it.
        precision: ``"fp32"``, ``"bf16"`` or ``"4bit"`` (needs bitsandbytes and a GPU).
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        scale: ``clip_dense`` and ``embedded``: factor by which tiles are enlarged before they are cut into windows of
            the model's own size; None fits a ``clip_dense`` window to the tile, and leaves ``embedded`` at 1.
        temperature: ``clip_dense`` and ``embedded``: of the softmax over classes; None takes the model's own.
        max_new_tokens: ``qwen_vl``: how long an answer may be.

    Raises:
        ValueError: a value that cannot be; the message names it.
    """

    name: str = "embedded"
    model: str = ""
    weights: str | None = None
    sam: str | None = None
    precision: str = "fp32"
    device: str = "auto"
    scale: float | None = None
    temperature: float | None = None
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.name not in GROUNDERS:
            raise ValueError(f"grounder.name: expected one of {GROUNDERS}, got {self.name!r}")
        if not self.model:
            raise ValueError(f"grounder.model: {self.name} needs a folder or hub id, got {self.model!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"grounder.precision: expected one of {PRECISIONS}, got {self.precision!r}")
        if self.precision == "4bit" and self.name in ("clip_dense", "embedded"):
            raise ValueError(f"grounder.precision: {self.name} runs in 'fp32' or 'bf16', got '4bit'")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"grounder.device: expected 'auto', 'cpu' or 'cuda', got {self.device!r}")
        for name in ("scale", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"grounder.{name}: expected a number over 0 or null, got {value!r}")
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ValueError(f"grounder.max_new_tokens: expected at least 1, got {self.max_new_tokens!r}")

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "fp32" else torch.bfloat16


def create_grounder(
    config: GroundingConfig,
    classes: Sequence[str],
    prompts: Mapping[str, Sequence[str]] | None = None,
    background: str | None = None,
) -> Grounder:
    """Build a grounder by its name.

    Args:
        config: Which.
        classes: In the card's order: that of the channels.
        prompts: The card's; defaults stand in for classes without (`s5.purification.prompts`).
        background: A class that is what nothing else is. Models that find things (``qwen_vl``, ``sam3``, ``clipseg``)
            are not asked for it: their evidence for it is 0, and what they do not find is unknown.

    Raises:
        ImportError: the libraries of the extra ``s5[vlm]`` are not installed.
        ValueError: prompts or background of classes that there are not.
        OSError: the model is not there.
    """
    if background is not None and background not in classes:
        raise ValueError(f"background: {background!r} is not one of the classes {list(classes)}")
    phrases = class_prompts(classes, prompts)
    if config.name in ("clip_dense", "embedded"):
        from s5.purification.clip import ClipDense

        return ClipDense.load(config, phrases)
    if config.name == "qwen_vl":
        from s5.purification.qwen import QwenVL

        return QwenVL.load(config, phrases, background)
    if config.name == "sam3":
        from s5.purification.text_masks import Sam3Text

        return Sam3Text.load(config, phrases, background)
    from s5.purification.text_masks import ClipSeg

    return ClipSeg.load(config, phrases, background)


def grounder_record(
    config: GroundingConfig, prompts: Mapping[str, Sequence[str]], background: str | None = None
) -> dict[str, str]:
    """The key of a grounder: name, model with the SHA-256 of what of it is local, settings, prompts, code."""
    record = {"grounder": config.name, "code": CODE, "precision": config.precision}
    for part in ("model", "weights", "sam"):
        given = getattr(config, part)
        if given:
            local = Path(given).exists()
            record[part] = f"sha256:{weights_digest(Path(given))}" if local else given
    for setting in ("scale", "temperature", "max_new_tokens"):
        record[setting] = str(getattr(config, setting))
    return {**record, "background": background or "", "prompts": prompts_digest(prompts)}


def weights_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files directly in a folder."""
    if path.is_file():
        return sha256_of(path)
    parts = [f"{file.name}:{sha256_of(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def with_unknown(evidence: Tensor) -> Tensor:
    """Scores [B, K, h, w] that need not sum to 1, with "unknown" added: 1 minus the highest of a pixel's scores."""
    evidence = evidence.float().clamp(0, 1)
    return torch.cat([evidence, 1 - evidence.amax(1, keepdim=True)], 1)
