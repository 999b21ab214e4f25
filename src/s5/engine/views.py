"""A network under a protocol: whole images, resized ones or windows; mirrored and magnified views, averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.data.protocol import EvaluationProtocol
from s5.geo.windows import tile_windows

Network = Callable[[Tensor], Tensor]
"""Normalised images [B, C, H, W] to logits [B, K, H, W]."""

_AXES = {"horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}


def predict_probabilities(network: Network, images: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """Class probabilities of images, as a protocol has them: the mean over its views.

    Args:
        network: Logits of normalised images.
        images: Normalised, [B, C, H, W].
        protocol: What the network sees.

    Returns:
        [B, K, H, W] float32; the K of a pixel add up to 1.
    """
    total: Tensor | None = None
    for scale in protocol.scales:
        scaled = _resized(images, scale)
        for axes in ((), *(_AXES[flip] for flip in protocol.flips)):
            seen = _seen(network, scaled.flip(axes) if axes else scaled, protocol)
            view = _to_size(seen.flip(axes) if axes else seen, images.shape[-2:])
            total = view if total is None else total + view
    assert total is not None
    return total / (len(protocol.scales) * (1 + len(protocol.flips)))


def predict_classes(network: Network, images: Tensor, valid: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """The likeliest class of each pixel, int64 [B, H, W].

    Tiles of a batch are padded to one size. Where the protocol resizes or slides, each image is cut down to its own
    size first, so that neither the padding nor the other images of the batch change what is predicted.

    Args:
        network: Logits of normalised images.
        images: Normalised, [B, C, H, W].
        valid: Which pixels hold data, bool [B, H, W].
        protocol: What the network sees.
    """
    if protocol.is_plain:
        return network(images).max(1).indices  # argmax is 20 times slower on CPUs
    if protocol.mode == "whole" or bool(valid.all()):
        return predict_probabilities(network, images, protocol).max(1).indices
    classes = torch.zeros(images.shape[0], *images.shape[-2:], dtype=torch.int64, device=images.device)
    for place, (image, holds_data) in enumerate(zip(images, valid, strict=True)):
        height, width = _extent(holds_data.any(1)), _extent(holds_data.any(0))
        own = predict_probabilities(network, image[None, :, :height, :width], protocol)
        classes[place, :height, :width] = own.max(1).indices[0]
    return classes


def _seen(network: Network, images: Tensor, protocol: EvaluationProtocol) -> Tensor:
    if protocol.mode == "window":
        return _windows(network, images, protocol)
    if protocol.mode == "resize":
        assert protocol.size is not None
        return _to_size(_probabilities(network, _to_size(images, (protocol.size, protocol.size))), images.shape[-2:])
    return _probabilities(network, images)


def _windows(network: Network, images: Tensor, protocol: EvaluationProtocol) -> Tensor:
    assert protocol.size is not None
    height, width = images.shape[-2:]
    total: Tensor | None = None
    weights = torch.zeros(height, width, device=images.device)
    for window in tile_windows(height, width, size=protocol.size, stride=protocol.step):
        rows = slice(window.row, window.row + window.height)
        cols = slice(window.col, window.col + window.width)
        weight = _weight(window.height, window.width, protocol.blend).to(images.device)
        seen = _probabilities(network, images[..., rows, cols])
        if total is None:
            total = torch.zeros(*seen.shape[:2], height, width, device=images.device)
        total[..., rows, cols] += seen * weight
        weights[rows, cols] += weight
    assert total is not None
    return total / weights


def _weight(height: int, width: int, blend: str) -> Tensor:
    """What a pixel of a window counts, over 0, [h, w]."""
    if blend == "mean":
        return torch.ones(height, width)
    rows, cols = (_ramp(extent) for extent in (height, width))
    return torch.outer(rows, cols)


def _ramp(extent: int) -> Tensor:
    place = torch.arange(extent, dtype=torch.float32)
    return torch.minimum(place + 1, extent - place) / ((extent + 1) // 2)


def _probabilities(network: Network, images: Tensor) -> Tensor:
    return network(images.contiguous(memory_format=torch.channels_last)).float().softmax(1)


def _resized(images: Tensor, scale: float) -> Tensor:
    height, width = images.shape[-2:]
    return _to_size(images, (max(1, round(height * scale)), max(1, round(width * scale))))


def _to_size(images: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, tuple(size), mode="bilinear", align_corners=False)


def _extent(holds_data: Tensor) -> int:
    """One more than the last place that holds data; 1 where none does."""
    places = holds_data.nonzero()
    return int(places[-1]) + 1 if len(places) else 1
