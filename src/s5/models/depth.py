"""How deep in its encoder a parameter lies, for learning rates that fall towards the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from s5.models.lora import name_without_lora

_AFTER = "."  # no parameter has this name: it is grouped as what a matcher does not know
_OF_WRAPPERS = ("out_indices", "feature_cls")


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
    if not timm.is_model(name):
        return None
    kept = {key: value for key, value in options.items() if key not in _OF_WRAPPERS}
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
