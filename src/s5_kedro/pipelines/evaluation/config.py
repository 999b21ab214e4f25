"""What is evaluated, and on which tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s5.data.protocol import read_protocol

_SPLITS = ("test", "val", "labeled")


@dataclass(frozen=True)
class EvaluationConfig:
    """The `evaluation` parameter group.

    Args:
        split: Which split the models are measured on.
        batch_size: Tiles in a forward pass.
        gallery_tiles: Tiles shown in the prediction gallery.
        models: Name -> model pointer (.json) or weights (.safetensors); where any is given, these are evaluated
            in place of the catalog's `supervised`, `s4p` and `finetuned`.
        protocol: Name of a preset, or the fields of `s5.data.protocol.EvaluationProtocol`; None takes the card's.
    """

    split: str = "test"
    batch_size: int = 16
    gallery_tiles: int = 6
    models: Mapping[str, str] = field(default_factory=dict)
    protocol: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ValueError(f"evaluation.split: expected one of {', '.join(_SPLITS)}, got {self.split!r}")
        for name in ("batch_size", "gallery_tiles"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name}: expected at least 1, got {getattr(self, name)}")
        if self.protocol not in (None, "null"):
            read_protocol(self.protocol)
        if not isinstance(self.models, Mapping):
            raise ValueError(f"evaluation.models: expected evaluation.models.NAME=PATH, got {self.models!r}")
        for name, path in self.models.items():
            if not isinstance(path, str) or not path:
                raise ValueError(f"evaluation.models.{name}: expected the path of a pointer or weights, got {path!r}")
