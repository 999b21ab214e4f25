"""Which network is built: the `model` parameter group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """The network of a run; classes and bands come from the dataset card.

    Args:
        encoder: ``"s5_vit_b"``, ``"s5_vit_l"``, ``"s5_vit_h"``, their ``"_rvsa"``, or a timm model name.
        decoder: ``"upernet"``, ``"dpt"`` or ``"light"``.
        decoder_channels: Width of the decoder.
        dropout: Dropout before the classifier, in [0, 1).
        drop_path: Stochastic depth of the encoder, in [0, 1).
        encoder_weights: A file or hub id with encoder weights to start from, or None for a random start.
        image_size: Input size for which a ViT's position embedding is made, in pixels; None takes the network's own.
        encoder_options: Further arguments of the encoder, such as width, depth and heads of ``"s5_vit"``.
        decoder_options: Further arguments of the decoder, such as UPerNet's pool_scales.
        checkpointing: Forget the encoder's activations and compute them again in the backward pass: less memory.
    """

    encoder: str = "resnet18"
    decoder: str = "upernet"
    decoder_channels: int = 64
    dropout: float = 0.1
    drop_path: float = 0.0
    encoder_weights: str | None = None
    image_size: int | None = None
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    decoder_options: Mapping[str, Any] = field(default_factory=dict)
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, str) or not self.encoder:
            raise ValueError(f"model.encoder: expected a timm model name such as 'resnet18', got {self.encoder!r}")
        if not isinstance(self.decoder_channels, int) or self.decoder_channels < 1:
            raise ValueError(f"model.decoder_channels: expected a positive whole number, got {self.decoder_channels!r}")
        for name in ("encoder_options", "decoder_options"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise ValueError(f"model.{name}: expected a mapping of option to value, got {given!r}")
        for name in ("dropout", "drop_path"):
            value = getattr(self, name)
            if not 0.0 <= float(value) < 1.0:
                raise ValueError(f"model.{name}: expected a probability in [0, 1), got {value!r}")
