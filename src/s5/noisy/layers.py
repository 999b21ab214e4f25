"""The layers of a network beside those of another: what each gives for the same tiles, and what it knows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s5.data.loader import Batch, TileSource, iterate_tiles
from s5.data.transforms import Normalizer
from s5.engine import Compute
from s5.metrics import ConfusionMatrix, segmentation_scores
from s5.models import NetworkDepths, SegmentationModel, network_depths
from s5.noisy.cka import LinearCKA
from s5.noisy.probe import RidgeProbe
from s5.types import BandStatistics, LabelSpace

logger = logging.getLogger(__name__)

_MOST_PREFIX_TOKENS = 16  # class and register tokens before those of the image
_PROBED_EVERY = 4  # pixels: the finest level of the pyramid


@contextmanager
def layer_outputs(model: SegmentationModel) -> Iterator[dict[int, Tensor]]:
    """Within it each forward pass leaves the output of every layer, as [B, D, h, w], by its depth.

    Depths are those of `s5.models.network_depths`, from the stem to the decoder's last block. Of the modules that lie
    at one depth alone, the output of the one that is called last counts: for a block the block's own output. A layer
    that gives neither a map nor a sequence of tokens is left out.
    """
    places = network_depths(model)
    outputs: dict[int, Tensor] = {}
    side: list[tuple[int, int]] = []

    def note_size(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        outputs.clear()
        side[:] = [(int(inputs[0].shape[-2]), int(inputs[0].shape[-1]))]

    def note(depth: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        found = _as_map(output, *side[0]) if side else None
        if found is not None:
            outputs[depth] = found

    handles = [model.encoder.register_forward_pre_hook(note_size)]
    handles += [
        model.get_submodule(name).register_forward_hook(partial(note, depth))
        for name, depth in _modules_of_one_depth(model, places).items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def compare_layers(
    model: SegmentationModel,
    twin: SegmentationModel,
    source: TileSource,
    statistics: BandStatistics,
    *,
    batch_size: int,
    compute: Compute,
) -> dict[str, float | None]:
    """Linear CKA of each layer to the same layer of a network of the same kind, over the valid pixels of all tiles.

    A row of the matrices is a position of the layer's map. Both networks must be on the device and in evaluation mode.

    Returns:
        CKA in [0, 1] by the layer's name, from the stem to the decoder's last block.
    """
    places, sums = network_depths(model), dict[int, LinearCKA]()
    normalize = Normalizer(statistics, compute.device)
    with layer_outputs(model) as own, layer_outputs(twin) as other:
        for batch in iterate_tiles(source, batch_size):
            valid = compute.to_device(batch.valid)
            with torch.inference_mode(), compute.autocast():
                images = normalize(compute.to_device(batch.images))
                model(images)
                twin(images)
            for depth in sorted(own.keys() & other.keys()):
                x, y = own[depth], other[depth]
                chosen = F.interpolate(valid[:, None].float(), x.shape[-2:], mode="nearest")[:, 0] > 0.5
                sums.setdefault(depth, LinearCKA()).update(_rows(x, chosen), _rows(y, chosen))
    return {places.name_of(depth): found.value() for depth, found in sorted(sums.items())}


def probe_layers(
    model: SegmentationModel,
    fit_on: TileSource,
    score_on: TileSource,
    statistics: BandStatistics,
    labels: LabelSpace,
    *,
    batch_size: int,
    compute: Compute,
    ridge: float = 1e-3,
) -> dict[str, float | None]:
    """mIoU in percent of a linear probe on each layer: `RidgeProbe`, fitted on some tiles and scored on others.

    It is fitted at every fourth pixel, to which the layer's map is interpolated, and scored at every pixel: the probe's
    logits are interpolated to the tile's size, as a linear head's are. The network must be in evaluation mode.

    Returns:
        mIoU by the layer's name, from the stem to the decoder's last block; None where no pixel is labelled.
    """
    places, probes = network_depths(model), dict[int, RidgeProbe]()
    for batch, outputs in _passes(model, fit_on, statistics, batch_size, compute):
        masks = compute.to_device(batch.masks)[
            :, _PROBED_EVERY // 2 :: _PROBED_EVERY, _PROBED_EVERY // 2 :: _PROBED_EVERY
        ]
        chosen = masks != labels.ignore_index
        for depth, output in outputs.items():
            fine = _fitted_to(output, batch.masks.shape[-2:], model.encoder.multiple, masks.shape[-2:])
            probes.setdefault(depth, RidgeProbe(labels.num_classes, ridge=ridge)).update(
                _rows(fine, chosen), masks[chosen]
            )
    solved = {depth: probe.solve() for depth, probe in sorted(probes.items())}
    matrices = {depth: ConfusionMatrix(labels.num_classes, labels.ignore_index) for depth in solved}
    for batch, outputs in _passes(model, score_on, statistics, batch_size, compute):
        size = batch.masks.shape[-2:]
        for depth, (weights, bias) in solved.items():
            logits = F.conv2d(outputs[depth].float(), weights[:, :, None, None], bias)
            logits = _fitted_to(logits, size, model.encoder.multiple, size)
            matrices[depth].update(logits.max(1).indices, compute.to_device(batch.masks))
    return {places.name_of(d): segmentation_scores(m.matrix, labels.classes)["miou"] for d, m in matrices.items()}


def _passes(
    model: SegmentationModel, source: TileSource, statistics: BandStatistics, batch_size: int, compute: Compute
) -> Iterator[tuple[Batch, Mapping[int, Tensor]]]:
    normalize = Normalizer(statistics, compute.device)
    with layer_outputs(model) as outputs:
        for batch in iterate_tiles(source, batch_size):
            with torch.inference_mode(), compute.autocast():
                model(normalize(compute.to_device(batch.images)))
            yield batch, outputs


def _rows(map_BDHW: Tensor, chosen_BHW: Tensor) -> Tensor:
    """The features at the chosen positions, [N, D] in float32."""
    return map_BDHW.permute(0, 2, 3, 1)[chosen_BHW].float()


def _fitted_to(map_BDHW: Tensor, size: torch.Size, multiple: int, wanted: torch.Size) -> Tensor:
    """The map of a padded image, interpolated to `wanted` positions of the image as it was."""
    padded = [-(-side // multiple) * multiple for side in size]
    if padded == list(size):
        return F.interpolate(map_BDHW.float(), tuple(wanted), mode="bilinear", align_corners=False)
    scale = [want / side for want, side in zip(wanted, size, strict=True)]
    whole = [round(side * factor) for side, factor in zip(padded, scale, strict=True)]
    fine = F.interpolate(map_BDHW.float(), whole, mode="bilinear", align_corners=False)
    return fine[..., : wanted[0], : wanted[1]]


def _modules_of_one_depth(model: SegmentationModel, places: NetworkDepths) -> dict[str, int]:
    """The largest modules of encoder, neck and decoder all of whose weights and buffers lie at one depth."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        depths = {places.depths[f"{name}.{own}"] for own in module.state_dict()} if name else set()
        if len(depths) == 1 and not any(name.startswith(f"{outer}.") for outer in found):
            depth = depths.pop()
            if depth < places.head:
                found[name] = depth
    return {name: depth for name, depth in found.items() if not name.startswith("neck.")}


def _as_map(output: Any, height: int, width: int) -> Tensor | None:
    """A layer's output as [B, D, h, w] for an input of `height` x `width` pixels; None for anything else.

    A map is told from one with its channels last by its sides, which stand in the ratio of the image's.
    """
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        if second * width == third * height:
            return output
        return output.permute(0, 3, 1, 2) if first * width == second * height else None
    tokens = output.shape[1]
    for stride in (1, 2, 4, 7, 8, 14, 16, 28, 32, 64):
        rows, columns = height // stride, width // stride
        prefix = tokens - rows * columns
        if rows * columns and 0 <= prefix <= _MOST_PREFIX_TOKENS:
            grid: Tensor = output[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
            return grid
    return None
