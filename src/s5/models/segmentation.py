"""A segmentation network: encoder, neck, decoder, head; and the one factory that builds them all."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from s5.models.dpt import DPTDecoder, ReassemblePyramid
from s5.models.encoders import Encoder, create_encoder, pooled
from s5.models.layers import resize
from s5.models.light import LightDecoder
from s5.models.neck import LevelPyramid, PlainPyramid
from s5.models.upernet import UPerNetDecoder

Neck = PlainPyramid | LevelPyramid | ReassemblePyramid
Decoder = UPerNetDecoder | DPTDecoder | LightDecoder

DECODERS: dict[str, Callable[..., Decoder]] = {
    "upernet": UPerNetDecoder,
    "dpt": DPTDecoder,
    "light": LightDecoder,
}


class SegmentationModel(nn.Module):
    """Images of any size to per-pixel logits; build it with `create_model`.

    Inputs are padded at the bottom and right to the encoder's stride, and the logits are cropped back.

    Attributes:
        architecture: JSON-able keywords with which `create_model` builds the same network again.
        frozen: names of the parts that `freeze` was told of.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        neck: Neck,
        *,
        dropout: float,
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck
        self.decoder = decoder
        self.head = create_head(decoder.channels, architecture["classes"], dropout)
        self.architecture = architecture
        self.frozen: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return int(self.architecture["classes"])

    @property
    def bands(self) -> int:
        return int(self.architecture["bands"])

    def forward(self, x_BCHW: Tensor, change_maps: Callable[[list[Tensor]], list[Tensor]] | None = None) -> Tensor:
        """Logits [B, K, H, W] at the input's size, for normalised images of any height and width.

        Args:
            x_BCHW: the images.
            change_maps: applied to the encoder's maps before the decoder gets them.
        """
        maps = self._encode(x_BCHW)
        return self.decode(x_BCHW, maps if change_maps is None else change_maps(maps))

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
        return self.decode(x_BCHW, maps), pooled(maps[-1])

    def freeze(self, *parts: str) -> None:
        """Keep parts, such as "encoder", as they are: no gradients, and evaluation mode whatever `train` is told."""
        for part in parts:
            self.get_submodule(part).requires_grad_(False)
        self.frozen = (*self.frozen, *parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode but for the frozen parts: their batch statistics stand still, and they drop nothing."""
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(part).eval()
        return self

    def _encode(self, x_BCHW: Tensor) -> list[Tensor]:
        check_bands(x_BCHW, self.bands)
        maps: list[Tensor] = self.encoder(pad_to_multiple(x_BCHW, self.encoder.multiple))
        return maps

    def decode(self, x_BCHW: Tensor, maps: list[Tensor]) -> Tensor:
        """Logits at the size of `x_BCHW`, from the maps that an encoder made of it, padded."""
        return to_size_of(x_BCHW, self.head(self.decoder(self.neck(maps))), self.encoder.multiple)


def create_head(channels: int, classes: int, dropout: float) -> nn.Sequential:
    """Channel dropout and a 1 x 1 convolution, as S5's released head."""
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1))


def check_bands(x_BCHW: Tensor, bands: int) -> None:
    """Raises ValueError where a network of `bands` is given something else."""
    if x_BCHW.ndim != 4 or x_BCHW.shape[1] != bands:
        raise ValueError(
            f"model: expected images [B, {bands}, H, W], got shape {tuple(x_BCHW.shape)}; "
            "check the data's bands against the model's"
        )


def to_size_of(x_BCHW: Tensor, coarse_BKHW: Tensor, multiple: int) -> Tensor:
    """Coarse logits of an image padded to `multiple`, at the image's own size."""
    height, width = x_BCHW.shape[-2:]
    padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    # Corners aligned, as S5's released head does.
    return resize(coarse_BKHW, padded, align_corners=True)[..., :height, :width]


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
    encoder_options: Mapping[str, Any] | None = None,
    decoder_options: Mapping[str, Any] | None = None,
    checkpointing: bool = False,
) -> SegmentationModel:
    """Build a segmentation network from one of S5's or timm's encoders and one of this project's decoders.

    Args:
        encoder: "s5_vit_b", "s5_vit_l", "s5_vit_h", their "_rvsa", or a timm name; plain ViTs get S5's pyramid neck.
        decoder: "upernet" (S5's), "dpt" (Ranftl et al., with a neck of its own for plain ViTs) or "light" (for CPUs).
        classes: number of classes, at least 2.
        bands: input bands, at least 1.
        decoder_channels: width of the decoder (S5: 256).
        dropout: channel dropout before the head, in [0, 1).
        drop_path: stochastic depth rate of the encoder, in [0, 1).
        encoder_weights: file or hub id for the encoder (`s5.models.load_weights`), or None for a random start.
        image_size: side in px that position embeddings are made for; None takes the encoder's own.
        encoder_options: further arguments of the encoder (`s5.models.create_encoder`).
        decoder_options: further arguments of the decoder, such as UPerNet's `pool_scales`.
        checkpointing: the encoder forgets activations and computes them again in the backward pass.

    Raises:
        ValueError: a value out of range, an unknown name (the nearest are suggested), weights that do not fit.
        FileNotFoundError: `encoder_weights` names no file.
    """
    _check_ranges(classes, bands, decoder_channels, dropout, drop_path, image_size)
    body = create_encoder(
        encoder,
        bands=bands,
        drop_path=drop_path,
        image_size=image_size,
        weights=encoder_weights,
        options=encoder_options,
        checkpointing=checkpointing,
    )
    architecture = {
        "encoder": encoder,
        "decoder": decoder,
        "classes": classes,
        "bands": bands,
        "decoder_channels": decoder_channels,
        "dropout": dropout,
        "drop_path": drop_path,
        "image_size": image_size,
        "encoder_options": dict(encoder_options or {}),
        "decoder_options": dict(decoder_options or {}),
    }
    neck, head = create_decoder(decoder, body, decoder_channels, decoder_options)
    return SegmentationModel(body, head, neck, dropout=dropout, architecture=architecture)


def create_decoder(
    name: str, encoder: Encoder, channels: int, options: Mapping[str, Any] | None = None
) -> tuple[Neck, Decoder]:
    """The neck that makes four levels of an encoder's maps, and the decoder that reads them.

    Raises:
        ValueError: an unknown decoder (the nearest is suggested), or an option that it does not have.
    """
    if name not in DECODERS:
        near = difflib.get_close_matches(name, DECODERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"decoder: expected one of {sorted(DECODERS)}, got {name!r}{hint}")
    neck: Neck
    if not encoder.is_plain:
        neck = LevelPyramid(encoder.channels, encoder.strides)
    elif name == "dpt":
        neck = ReassemblePyramid(encoder.channels[-1])
    else:
        neck = PlainPyramid(encoder.channels[-1])
    try:
        return neck, DECODERS[name](neck.channels, channels, **dict(options or {}))
    except TypeError as error:
        raise ValueError(f"decoder {name!r}: {error}; take it out of decoder_options") from error


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
