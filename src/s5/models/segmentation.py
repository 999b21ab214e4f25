"""A segmentation network: encoder, neck, decoder, head; and the one factory that builds them all."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from s5.models.encoders import Encoder, create_encoder, pooled
from s5.models.layers import resize
from s5.models.light import LightDecoder
from s5.models.neck import LevelPyramid, PlainPyramid
from s5.models.upernet import UPerNetDecoder

DECODERS: dict[str, type[UPerNetDecoder] | type[LightDecoder]] = {"upernet": UPerNetDecoder, "light": LightDecoder}


class SegmentationModel(nn.Module):
    """Images of any size to per-pixel logits; build it with `create_model`.

    Inputs are padded at the bottom and right to the encoder's stride, and the logits are cropped back.

    Attributes:
        architecture: JSON-able keywords with which `create_model` builds the same network again.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: UPerNetDecoder | LightDecoder,
        neck: PlainPyramid | LevelPyramid,
        *,
        dropout: float,
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck
        self.decoder = decoder
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(decoder.channels, architecture["classes"], 1))
        self.architecture = architecture

    @property
    def num_classes(self) -> int:
        return int(self.architecture["classes"])

    @property
    def bands(self) -> int:
        return int(self.architecture["bands"])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, K, H, W] at the input's size, for normalised images of any height and width."""
        return self._logits(x_BCHW, self._encode(x_BCHW))

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """The four maps that the decoder reads, strides 4, 8, 16 and 32, of the padded input."""
        levels: list[Tensor] = self.neck(self._encode(x_BCHW))
        return levels

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """The mean over pixels of the encoder's deepest map: [B, D] float32, not normalised."""
        return pooled(self._encode(x_BCHW)[-1])

    def forward_with_embedding(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` and `embed` from one pass through the encoder."""
        maps = self._encode(x_BCHW)
        return self._logits(x_BCHW, maps), pooled(maps[-1])

    def _encode(self, x_BCHW: Tensor) -> list[Tensor]:
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.bands:
            raise ValueError(
                f"model: expected images [B, {self.bands}, H, W], got shape {tuple(x_BCHW.shape)}; "
                "check the data's bands against the model's"
            )
        maps: list[Tensor] = self.encoder(pad_to_multiple(x_BCHW, self.encoder.multiple))
        return maps

    def _logits(self, x_BCHW: Tensor, maps: list[Tensor]) -> Tensor:
        coarse_BKHW = self.head(self.decoder(self.neck(maps)))
        # Corners aligned, as S5's released head does.
        logits_BKHW = resize(coarse_BKHW, self._padded_size(x_BCHW), align_corners=True)
        return logits_BKHW[..., : x_BCHW.shape[-2], : x_BCHW.shape[-1]]

    def _padded_size(self, x_BCHW: Tensor) -> tuple[int, int]:
        height, width = x_BCHW.shape[-2:]
        multiple = self.encoder.multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_to_multiple(x_BCHW: Tensor, multiple: int) -> Tensor:
    """Pad bottom and right to multiples of `multiple`: by reflection, or by repeating the edge of a small image."""
    height, width = x_BCHW.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return x_BCHW
    # Reflection can give at most one pixel less than there is.
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(x_BCHW, (0, right, 0, bottom), mode=mode)


def create_model(
    encoder: str = "resnet18",
    decoder: str = "upernet",
    *,
    classes: int,
    bands: int = 3,
    decoder_channels: int = 64,
    dropout: float = 0.1,
    drop_path: float = 0.0,
    encoder_weights: str | Path | None = None,
    image_size: int | None = None,
) -> SegmentationModel:
    """Build a segmentation network from any timm encoder and one of this project's decoders.

    Args:
        encoder: timm name; plain ViTs get S5's pyramid neck.
        decoder: "upernet" (S5's) or "light" (for CPUs).
        classes: number of classes, at least 2.
        bands: input bands, at least 1.
        decoder_channels: width of the decoder (S5: 256).
        dropout: channel dropout before the head, in [0, 1).
        drop_path: stochastic depth rate of the encoder, in [0, 1).
        encoder_weights: local .safetensors or .pth file for the encoder, or None for a random start.
        image_size: side in px that position embeddings are made for; None takes the encoder's own.

    Raises:
        ValueError: a value out of range, an unknown name (the nearest are suggested), weights that do not fit.
        FileNotFoundError: `encoder_weights` names no file.
    """
    _check_ranges(classes, bands, decoder_channels, dropout, drop_path, image_size)
    if decoder not in DECODERS:
        near = difflib.get_close_matches(decoder, DECODERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"decoder: expected one of {sorted(DECODERS)}, got {decoder!r}{hint}")
    body = create_encoder(encoder, bands=bands, drop_path=drop_path, image_size=image_size, weights=encoder_weights)
    neck = PlainPyramid(body.channels[-1]) if body.is_plain else LevelPyramid(body.channels, body.strides)
    architecture = {
        "encoder": encoder,
        "decoder": decoder,
        "classes": classes,
        "bands": bands,
        "decoder_channels": decoder_channels,
        "dropout": dropout,
        "drop_path": drop_path,
        "image_size": image_size,
    }
    head = DECODERS[decoder](neck.channels, decoder_channels)
    return SegmentationModel(body, head, neck, dropout=dropout, architecture=architecture)


def _check_ranges(
    classes: int, bands: int, decoder_channels: int, dropout: float, drop_path: float, image_size: int | None
) -> None:
    if classes < 2:
        raise ValueError(f"classes: a segmentation needs at least 2 classes, got {classes}")
    for name, count in (("bands", bands), ("decoder_channels", decoder_channels), ("image_size", image_size)):
        if count is not None and count < 1:
            raise ValueError(f"{name}: expected a positive number, got {count}")
    for name, rate in (("dropout", dropout), ("drop_path", drop_path)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name}: expected a rate in [0, 1), got {rate}")
