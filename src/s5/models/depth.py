"""How deep in its network a parameter lies: for learning rates by layer, for transfer and for studies of layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from s5.models.encoders import SLIM_ENCODERS
from s5.models.lora import name_without_lora

_AFTER = "."  # no parameter has this name: it is grouped as what a matcher does not know
_OF_WRAPPERS = ("out_indices", "feature_cls")

DECODER_BLOCKS = 5
# Blocks of neck and decoder in the order in which the network computes them: one for each level, coarse to fine, with
# what of the neck makes that level, and what fuses all levels. A group is the number of a level, fine to coarse from 0.
_LEVELS = re.compile(r"(?:decoder\.(?:laterals|fusions|fpn_convs)|neck\.(?:projections|resamplings))\.(\d)\.")
_PLAIN_LEVELS = re.compile(r"neck\.fpn(\d)\.")  # S5's names: from 1
_DEEPEST = ("decoder.pools.", "decoder.bottleneck.")  # UPerNet's pyramid pooling
_LAST = ("decoder.fusion.", "decoder.smooth.")


@dataclass(frozen=True)
class NetworkDepths:
    """Where each weight and buffer of a segmentation network lies between image and logits.

    Attributes:
        depths: by name in the network's `state_dict`: 0 for the encoder's stem, 1 to `layers` for its layers, then
            `DECODER_BLOCKS` blocks of the decoder (with the neck), then the head.
        layers: number of the encoder's layers, L.
    """

    depths: dict[str, int]
    layers: int

    @property
    def head(self) -> int:
        """The depth of the head: one more than that of the decoder's last block."""
        return self.layers + DECODER_BLOCKS + 1

    def name_of(self, depth: int) -> str:
        """What a depth is called: "stem", "layer 3", "decoder 2" or "head"."""
        if depth == 0:
            return "stem"
        if depth <= self.layers:
            return f"layer {depth}"
        return "head" if depth == self.head else f"decoder {depth - self.layers}"


def network_depths(model: nn.Module) -> NetworkDepths:
    """Depths of all that a segmentation network's `state_dict` holds.

    Encoders are counted by `layer_depths`. Every decoder has five blocks: one for each level of the pyramid from the
    coarsest to the finest (UPerNet: pyramid pooling first), and the convolution that ends it. What the neck makes for
    a level counts with that level's block. Buffers, such as batch statistics, count with the weights of their module.

    Raises:
        ValueError: the network has no encoder of this library, or a part that no rule places.
    """
    found, layers = layer_depths(model)
    owners = {name.rpartition(".")[0]: depth for name, depth in found.items()}
    depths = {}
    for name in model.state_dict():
        if name.startswith("encoder."):
            depths[name] = found[name] if name in found else _depth_of_buffer(name, owners)
        elif name.startswith("head."):
            depths[name] = layers + DECODER_BLOCKS + 1
        else:
            depths[name] = layers + _block_of(name)
    return NetworkDepths(depths, layers)


def _depth_of_buffer(name: str, owners: Mapping[str, int]) -> int:
    """The depth of the weights beside a buffer, or of the deepest ones below the nearest module that has any."""
    module = name.rpartition(".")[0]
    while module:
        inside = [depth for owner, depth in owners.items() if owner == module or owner.startswith(f"{module}.")]
        if inside:
            return owners.get(module, max(inside))
        module = module.rpartition(".")[0]
    raise ValueError(f"depths: nothing tells where the buffer {name!r} lies")


def _block_of(name: str) -> int:
    levels, plain = _LEVELS.match(name), _PLAIN_LEVELS.match(name)
    if levels or plain:
        level = int(levels[1]) if levels else int(plain[1]) - 1  # type: ignore[index]
        return 4 - level
    if name.startswith(_DEEPEST):
        return 1
    if name.startswith(_LAST):
        return DECODER_BLOCKS
    raise ValueError(f"depths: no rule places {name!r} in a decoder's blocks; add it to s5.models.depth")


def layer_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each parameter of a network's encoder: 0 for stem and embeddings, 1 to L for the layers.

    Layers as BEiT (Bao et al., ICLR 2022) and MAE (He et al., CVPR 2022) count them. Each network says itself what its
    layers are (timm's `group_matcher`): mostly blocks, with the downsampling before them; whole stages in some (PVT,
    MaxViT, CrossViT). For the few that do not, a layer is a stage of the feature maps. What comes after the last
    layer, or is not known to the matcher, counts with the last layer.

    Args:
        model: a network with an `encoder` (`s5.models.Encoder`); adapters count with the weights that they adapt.

    Returns:
        Depths by the parameters' names in `model`, and L. Neck, decoder and head have no entry.

    Raises:
        ValueError: the network has no encoder of this library, or nothing tells its layers apart.
    """
    encoder: Any = getattr(model, "encoder", None)
    body: Any = getattr(encoder, "body", None)
    if body is None:
        raise ValueError(
            f"layer_decay: {type(model).__name__} has no encoder with a body to tell depths from; build the network "
            "with s5.models.create_model, or set optimizer.layer_decay to 1"
        )
    architecture: Mapping[str, Any] = getattr(model, "architecture", {})
    plain = {name: name_without_lora(name) for name, _ in body.named_parameters()}
    depths = _depths(encoder.name, body, list(plain.values()), architecture.get("encoder_options") or {})
    return {f"encoder.body.{name}": depths[plain[name]] for name in plain}, max(depths.values())


def _depths(name: str, body: Any, parameters: Sequence[str], options: Mapping[str, Any]) -> dict[str, int]:
    # timm's wrappers keep a network whole, as `model` or `body`, or take it apart and rename its modules.
    prefix = next((p for p in ("model.", "body.") if all(name.startswith(p) for name in parameters)), "")
    inner = getattr(body, prefix[:-1]) if prefix else body
    if hasattr(inner, "group_matcher"):
        return _match({p: p.removeprefix(prefix) for p in parameters}, inner.group_matcher(coarse=False))
    whole = _whole_network(name, options)
    if hasattr(whole, "group_matcher"):
        original = {_flat(n): n for n, _ in whole.named_parameters()}
        return _match({p: original.get(_flat(p), p) for p in parameters}, whole.group_matcher(coarse=False))
    return _by_stage(name, body, prefix, parameters)


def _whole_network(name: str, options: Mapping[str, Any]) -> Any:
    """The timm network before it was taken apart, without memory for its weights; None if timm has none such."""
    name, slim = SLIM_ENCODERS.get(name, (name, {}))
    if not timm.is_model(name):
        return None
    kept = {key: value for key, value in {**slim, **options}.items() if key not in _OF_WRAPPERS}
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=False, **kept)


def _match(names: Mapping[str, str], matcher: dict[str, Any] | Callable[[str], Any]) -> dict[str, int]:
    """Depths by the keys of `names`; the values are what the matcher calls these parameters."""
    named = SimpleNamespace(named_parameters=lambda: ((name, None) for name in (*names.values(), _AFTER)))
    found: dict[str, int] = group_parameters(named, matcher, reverse=True)
    after = found.pop(_AFTER)
    last = max((depth for depth in found.values() if depth < after), default=0)
    return {key: min(found[name], last) for key, name in names.items()}


def _by_stage(name: str, body: Any, prefix: str, parameters: Sequence[str]) -> dict[str, int]:
    """Depth by the stages of the feature maps, in their order; what stands between two counts with the first."""
    info: Any = getattr(body, "feature_info", None)
    if not hasattr(info, "module_name"):
        raise ValueError(
            f"layer_decay: encoder {name!r} does not say what its layers are; set optimizer.layer_decay to 1"
        )
    stages = [f"{_flat(prefix + stage)}_" for stage in info.module_name()]
    found, current = {}, -1
    for parameter in parameters:
        current = next((i for i, stage in enumerate(stages) if _flat(parameter).startswith(stage)), current)
        found[parameter] = current
    ranks = {stage: rank for rank, stage in enumerate(sorted(set(found.values())))}
    return {parameter: ranks[stage] for parameter, stage in found.items()}


def _flat(name: str) -> str:
    # timm's feature networks rename "stages.0.conv" to "stages_0.conv": compare without the difference.
    return name.replace(".", "_")
