"""Loading weights of any known layout into a network, with a strict account of what was loaded and what was left."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from s5.models.layouts import Parts, recognise
from s5.models.moe import merge_expert, split_dense
from s5.models.vit import PlainViT
from s5.models.weight_files import read_tensors

if TYPE_CHECKING:
    from s5.models.encoders import Encoder

logger = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """What became of a weight file.

    Attributes:
        source: the file, or the hub id.
        layout: what the file was recognised as.
        loaded: part of the network -> tensors loaded into it.
        left: (what, why) -> number of the file's tensors that were not used.
        untouched: parts of the network that keep the values they had.
    """

    source: str
    layout: str
    loaded: dict[str, int] = field(default_factory=dict)
    left: dict[tuple[str, str], int] = field(default_factory=dict)
    untouched: list[str] = field(default_factory=list)

    def leave(self, what: str, why: str, count: int) -> None:
        if count:
            self.left[what, why] = self.left.get((what, why), 0) + count

    def __str__(self) -> str:
        rows = [f"{self.source}: {self.layout}"]
        rows += [f"  {part:<22} {count:>6} loaded" for part, count in self.loaded.items()]
        rows += [f"  {what:<22} {count:>6} left: {why}" for (what, why), count in self.left.items()]
        rows += [f"  {part:<22} {'-':>6} not in the file, left as it was" for part in self.untouched]
        return "\n".join(rows)


def load_weights(
    model: nn.Module, source: str | Path, *, task: str | None = None, only: Collection[str] | None = None
) -> LoadReport:
    """Load a weight file into a network of `create_model` or `create_multi_model`.

    Read are this project's safetensors, S5's released ``*_s4p.pth``, ``*_s4p_upernet.pth`` and ``*_moe_mdf.pth``,
    and encoders: masked autoencoders, timm's, DINOv2, DINOv3 and CLIP. The encoder must fit whole: the position
    embedding is resampled and a 3-band stem adapted, nothing else. Neck, decoder and head are loaded where the file
    has them in the network's shape, and left as they were, with the reason, where it has not.

    Args:
        model: the network; changed in place, and only if everything that must fit does.
        source: local .safetensors or .pth file, or a hub id ``"org/name"`` or ``"org/name:file"``.
        task: whose expert, decoder and head to take from a file of several data sets into a network of one.
        only: names in the network's `state_dict`: these tensors are loaded, every one of them, and no others.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, unsafe or broken files; another network; no `task` where the file has several; one of
            `only` that the file does not have in the network's shape.
    """
    parts = recognise(read_tensors(source))
    report = LoadReport(str(source), parts.layout)
    tasks = list(getattr(model, "datasets", {}))
    if not tasks:
        parts = _of_one_task(parts, task, source)
    elif parts.experts:
        parts = replace(parts, encoder=_experts_of(parts, tasks, source))
    fitted = {"encoder.body.": _fit_encoder(model.encoder, parts, source, report, experts=len(tasks), only=only)}
    wanted = {"neck.": parts.neck}
    if tasks:
        alone = len(parts.heads) == 1  # one data set's decoder starts them all
        for name in tasks:
            theirs = next(iter(parts.heads), "") if alone else name
            wanted[f"decoders.{name}."] = parts.decoders.get(theirs, {})
            wanted[f"heads.{name}."] = parts.heads.get(theirs, {})
        for what in parts.heads.keys() - set(tasks) if not alone else ():
            count = len(parts.decoders.get(what, {})) + len(parts.heads[what])
            report.leave(f"data set {what}", "the network has no such data set", count)
    else:
        wanted["decoder."] = next(iter(parts.decoders.values()), {})
        wanted["head."] = next(iter(parts.heads.values()), {})
    target = model.state_dict()
    for prefix, found in wanted.items():
        fitted[prefix] = _fit_part(target, prefix, found, report, only)
    report.leave("others", "no network of this project has a place for them", len(parts.unused))
    with torch.no_grad():
        for prefix, tensors in fitted.items():
            for name, value in tensors.items():
                target[prefix + name].copy_(value)
    logger.info("%s", report)
    return report


def load_encoder_weights(encoder: Encoder, source: str | Path) -> LoadReport:
    """`load_weights` for an encoder alone; what the file has beside it is left."""
    parts = recognise(read_tensors(source))
    report = LoadReport(str(source), parts.layout)
    if parts.experts:
        parts = _of_one_task(parts, None, source)
    fitted = _fit_encoder(encoder, parts, source, report, experts=0)
    others = sum(map(len, [parts.neck, parts.unused, *parts.decoders.values(), *parts.heads.values()]))
    report.leave("others", "no part of an encoder", others)
    target = encoder.body.state_dict()
    with torch.no_grad():
        for name, value in fitted.items():
            target[name].copy_(value)
    logger.info("%s", report)
    return report


def _of_one_task(parts: Parts, task: str | None, source: str | Path) -> Parts:
    """The dense network of one data set out of a file of several; files of one are returned as they are."""
    if len(parts.heads) <= 1 and not parts.experts:
        return parts
    tasks = list(parts.heads)
    if task not in tasks:
        raise ValueError(f"{source}: the file holds the data sets {tasks}; say which with task=..., got {task!r}")
    encoder = dict(parts.encoder)
    if parts.experts:
        number = tasks.index(task)
        for prefix in _mlp_prefixes(encoder):
            encoder.update(merge_expert(parts.encoder, prefix, number))
        encoder = {name: tensor for name, tensor in encoder.items() if ".experts." not in name}
    others = {f"{name} of {t}": v for t in tasks if t != task for name, v in parts.decoders.get(t, {}).items()}
    return Parts(
        f"{parts.layout}, for {task}",
        parts.kind,
        encoder=encoder,
        neck=parts.neck,
        decoders={task: parts.decoders[task]} if task in parts.decoders else {},
        heads={task: parts.heads[task]},
        unused={**parts.unused, **others},
    )


def _experts_of(parts: Parts, tasks: list[str], source: str | Path) -> dict[str, Tensor]:
    """The encoder's tensors with the experts of these data sets, in their order."""
    there = list(parts.heads)
    missing = [name for name in tasks if name not in there]
    if missing:
        raise ValueError(
            f"{source}: has no expert for the data sets {missing}, only for {there}; build the network for those, or "
            "start it from one of them with from_dense"
        )
    encoder = {name: tensor for name, tensor in parts.encoder.items() if ".experts." not in name}
    for prefix in _mlp_prefixes(parts.encoder):
        for position, name in enumerate(tasks):
            for kind in ("weight", "bias"):
                theirs = f"{prefix}experts.{there.index(name)}.{kind}"
                encoder[f"{prefix}experts.{position}.{kind}"] = parts.encoder[theirs]
    return encoder


def _mlp_prefixes(encoder: Mapping[str, Tensor]) -> list[str]:
    return [name.removesuffix("fc2.weight") for name in encoder if name.endswith(".mlp.fc2.weight")]


def _fit_part(
    target: Mapping[str, Tensor],
    prefix: str,
    found: Mapping[str, Tensor],
    report: LoadReport,
    only: Collection[str] | None,
) -> dict[str, Tensor]:
    """The tensors of one part, all or none; of those in `only`, all, or ValueError."""
    whole = {name.removeprefix(prefix): tensor for name, tensor in target.items() if name.startswith(prefix)}
    wanted = whole if only is None else {name: tensor for name, tensor in whole.items() if prefix + name in only}
    part = prefix.rstrip(".")
    if whole and not wanted:
        report.leave(part, "not asked for", len(found))
        return {}
    if not wanted or not found:
        if only and wanted:
            raise ValueError(f"{report.source}: has no {part}, but {len(wanted)} of its tensors are asked for")
        if wanted:
            report.untouched.append(part)
        report.leave(part, "the network has no such part", len(found))
        return {}
    misfit = [n for n in wanted if n in found and found[n].shape != wanted[n].shape]
    missing = [n for n in wanted if n not in found and not n.endswith("num_batches_tracked")]
    if misfit or missing:
        why = f"{(misfit + missing)[0]} is {'of another shape' if misfit else 'missing'}"
        if only:
            raise ValueError(f"{report.source}: its {part} does not fit this network: {why}")
        report.leave(part, why, len(found))
        report.untouched.append(part)
        return {}
    report.loaded[part] = len(wanted.keys() & found.keys())
    report.leave(part, "not asked for", len(found.keys() & (whole.keys() - wanted.keys())))
    report.leave(part, "the network has no such tensor", len(found.keys() - whole.keys()))
    return {name: tensor for name, tensor in found.items() if name in wanted}


def _fit_encoder(
    encoder: Any,
    parts: Parts,
    source: str | Path,
    report: LoadReport,
    *,
    experts: int,
    only: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The encoder's tensors in the shapes of `encoder.body`, every one of them that is in `only`, or ValueError."""
    body: nn.Module = encoder.body
    whole = body.state_dict()
    wanted = whole if only is None else {name: whole[name] for name in whole if f"encoder.body.{name}" in only}
    if not wanted:
        report.leave("encoder", "not asked for", len(parts.encoder))
        return {}
    found = dict(parts.encoder)
    if isinstance(body, PlainViT):
        found = _for_plain_vit(body, found, report)
        if experts and not parts.experts and any(".experts." in name for name in whole):
            part_features = int(whole["blocks.0.mlp.experts.0.bias"].shape[0])
            for prefix in _mlp_prefixes(found):
                found.update(split_dense(found, prefix, experts, part_features))
    elif parts.kind == "encoder":
        found = _as_timm_reads_it(encoder, found)
    by_plain_name = {_plain_name(name): (name, tensor) for name, tensor in found.items()}
    matched: dict[str, Tensor] = {}
    missing, misfit, used = [], [], set()
    for name, target in wanted.items():
        source_name, tensor = by_plain_name.get(_plain_name(name), (None, None))
        if tensor is None:
            # A step counter: older files have none, and it has no effect on the outputs.
            if not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif (fitted := _fit(tensor, target)) is None:
            misfit.append(f"{name} {tuple(tensor.shape)} for {tuple(target.shape)}")
        else:
            matched[name] = fitted
            used.add(source_name)
    if missing or misfit:
        counts = f"{len(matched)} of {len(wanted)} tensors fit, {len(missing)} missing, {len(misfit)} of another shape"
        examples = ", ".join((misfit + missing)[:3])
        raise ValueError(
            f"{source}: not the weights of encoder {encoder.name!r}: {parts.layout}; {counts} (e.g. {examples}); "
            "give the file of this encoder, or choose the encoder that the file was made with"
        )
    report.loaded["encoder"] = len(matched)
    left, unasked = found.keys() - used, {_plain_name(name) for name in whole.keys() - wanted.keys()}
    not_asked = {name for name in left if _plain_name(name) in unasked}
    report.leave("encoder", "not asked for", len(not_asked))
    report.leave("encoder", "heads and others that the encoder does not have", len(left - not_asked))
    return matched


def _plain_name(name: str) -> str:
    # timm's feature networks rename "stages.0.conv" to "stages_0.conv": compare without the difference.
    return name.replace(".", "_")


def _fit(source: Tensor, target: Tensor) -> Tensor | None:
    if source.shape == target.shape:
        return source
    is_stem = source.ndim == target.ndim == 4 and source.shape[1] == 3
    if is_stem and source.shape[:1] + source.shape[2:] == target.shape[:1] + target.shape[2:]:
        adapted: Tensor = adapt_input_conv(target.shape[1], source)
        return adapted
    return None


def _for_plain_vit(body: PlainViT, found: dict[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """A ViT's tensors as S5's ViT has them: no class token, layer scales folded in, embeddings resampled."""
    fitted = {name.removeprefix("visual.trunk."): tensor for name, tensor in found.items()}  # open_clip's wrapper
    for name in [n for n in fitted if n.endswith((".ls1.gamma", ".ls2.gamma"))]:
        gamma = fitted.pop(name)
        layer = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        if f"{layer}.weight" in fitted:
            fitted[f"{layer}.weight"] = gamma[:, None] * fitted[f"{layer}.weight"]
            fitted[f"{layer}.bias"] = gamma * fitted[f"{layer}.bias"]
    positions = fitted.get("pos_embed")
    if positions is not None and positions.ndim == 3 and positions.shape[-1] == body.width:
        tokens = positions.shape[1]
        grid = int(tokens**0.5)
        if grid * grid != tokens:
            positions = positions[:, tokens - grid * grid :]  # the class token comes first
            report.leave("class token", "S5's network has none", tokens - grid * grid)
        if grid != body.grid:
            positions = resample_abs_pos_embed(positions, [body.grid, body.grid], [grid, grid], num_prefix_tokens=0)
        fitted["pos_embed"] = positions
    patches = fitted.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4 and patches.shape[-1] != body.patch:
        fitted["patch_embed.proj.weight"] = resample_patch_embed(patches, [body.patch, body.patch])
    return fitted


def _as_timm_reads_it(encoder: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """A foreign file through the filter that timm keeps beside the network (DINOv2, DINOv3, CLIP, other releases)."""
    if "_conv_stem.weight" in found:
        # EfficientNet-PyTorch numbers its blocks through, timm by stage: the same tensors in the same order.
        return dict(zip(encoder.body.state_dict(), found.values(), strict=False))
    room = sys.modules[timm.models.model_entrypoint(encoder.name).__module__]
    convert = getattr(room, "checkpoint_filter_fn", None)
    if convert is None:
        return found
    try:
        converted: dict[str, Tensor] = convert(dict(found), encoder.body)
    except (KeyError, AttributeError, RuntimeError, ValueError, AssertionError, IndexError):
        return found  # not a file of this network: the account that follows says what is wrong
    return converted
