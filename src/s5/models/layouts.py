"""Layouts of weight files: which one a file has, and its tensors under this project's names.

Names of a network here: ``encoder.body.*``, ``neck.*``, ``decoder.*`` and ``head.*``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

# S5's released names (mmsegmentation's ViT and UPerHead) beside this project's; <i> is a number.
_ENCODER_NAMES = (
    ("pos_embed", "pos_embed"),
    ("patch_embed.projection", "patch_embed.proj"),
    ("layers.<i>.ln1", "blocks.<i>.norm1"),
    ("layers.<i>.ln2", "blocks.<i>.norm2"),
    ("layers.<i>.attn.attn.in_proj_weight", "blocks.<i>.attn.qkv.weight"),
    ("layers.<i>.attn.attn.in_proj_bias", "blocks.<i>.attn.qkv.bias"),
    ("layers.<i>.attn.attn.out_proj", "blocks.<i>.attn.proj"),
    ("layers.<i>.ffn.layers.0.0", "blocks.<i>.mlp.fc1"),
    ("layers.<i>.ffn.layers.1", "blocks.<i>.mlp.fc2"),
    ("layers.<i>.ffn.experts.<i>", "blocks.<i>.mlp.experts.<i>"),
)
_NECK_NAMES = (("fpn1.1.ln", "fpn1.1"), ("fpn1", "fpn1"), ("fpn2.0", "fpn2"))
_DECODER_NAMES = (
    ("psp_modules.<i>.1.conv", "pools.<i>.1.0"),
    ("psp_modules.<i>.1.bn", "pools.<i>.1.1"),
    ("bottleneck.conv", "bottleneck.0"),
    ("bottleneck.bn", "bottleneck.1"),
    ("lateral_convs.<i>.conv", "laterals.<i>.0"),
    ("lateral_convs.<i>.bn", "laterals.<i>.1"),
    ("fpn_convs.<i>.conv", "fpn_convs.<i>.0"),
    ("fpn_convs.<i>.bn", "fpn_convs.<i>.1"),
    ("fpn_bottleneck.conv", "fusion.0"),
    ("fpn_bottleneck.bn", "fusion.1"),
)

_PREFIXES = ("", "module.", "model.", "encoder.", "backbone.", "module.encoder.")


def renamer(names: tuple[tuple[str, str], ...], *, back: bool = False) -> Mapping[re.Pattern[str], str]:
    """Patterns and replacements of a table of names; `back` goes from this project's names to the other's."""
    table = {}
    for theirs, ours in names:
        source, target = (ours, theirs) if back else (theirs, ours)
        pattern = re.escape(source).replace("<i>", r"(\d+)")
        for group in range(1, target.count("<i>") + 1):
            target = target.replace("<i>", rf"\{group}", 1)
        table[re.compile(rf"^{pattern}(?=\.|$)")] = target
    return table


_TO_OURS = {
    "encoder": renamer(_ENCODER_NAMES),
    "neck": renamer(_NECK_NAMES),
    "decoder": renamer(_DECODER_NAMES),
}
_TO_RELEASED = {
    "encoder": renamer(_ENCODER_NAMES, back=True),
    "neck": renamer(_NECK_NAMES, back=True),
    "decoder": renamer(_DECODER_NAMES, back=True),
}


def rename(name: str, table: Mapping[re.Pattern[str], str]) -> str | None:
    """The name under the other layout, or None where the table does not know it."""
    for pattern, target in table.items():
        renamed, count = pattern.subn(target, name)
        if count:
            return renamed
    return None


def released_name(part: str, name: str) -> str | None:
    """This project's `name` within a part ("encoder", "neck", "decoder") as S5 released it."""
    return rename(name, _TO_RELEASED[part])


@dataclass
class Parts:
    """A file's tensors, part by part, under this project's names within the part.

    Attributes:
        layout: what the file was recognised as, for people.
        kind: "s5" (this project), "released" (S5's), or "encoder" (anything else, under the file's own names).
        decoders, heads: one for each data set; a single one has the name "".
        unused: tensors that no network of this project has a place for, under the file's own names.
    """

    layout: str
    kind: str
    encoder: dict[str, Tensor] = field(default_factory=dict)
    neck: dict[str, Tensor] = field(default_factory=dict)
    decoders: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    heads: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    unused: dict[str, Tensor] = field(default_factory=dict)

    @property
    def experts(self) -> int:
        """Number of experts in each feed-forward layer; 0 in a dense network."""
        found = [re.match(r"blocks\.0\.mlp\.experts\.(\d+)\.weight$", name) for name in self.encoder]
        return sum(match is not None for match in found)


def recognise(tensors: Mapping[str, Tensor]) -> Parts:
    """Which layout these tensors have, and what part each belongs to."""
    if any(name.startswith("encoder.body.") for name in tensors):
        return _own(tensors)
    if any(re.search(r"(^|\.)layers\.0\.ln1\.weight$", name) for name in tensors):
        return _released(tensors)
    return _foreign(tensors)


def _own(tensors: Mapping[str, Tensor]) -> Parts:
    parts = Parts("this project's network", "s5")
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if name.startswith("encoder.body."):
            parts.encoder[name.removeprefix("encoder.body.")] = tensor
        elif first == "neck":
            parts.neck[rest] = tensor
        elif first == "decoder":
            parts.decoders.setdefault("", {})[rest] = tensor
        elif first == "head":
            parts.heads.setdefault("", {})[rest] = tensor
        elif first in ("decoders", "heads"):
            task, _, inner = rest.partition(".")
            getattr(parts, first).setdefault(task, {})[inner] = tensor
        else:
            parts.unused[name] = tensor
    return parts


def _released(tensors: Mapping[str, Tensor]) -> Parts:
    parts = Parts("S5's release", "released")
    for full, tensor in tensors.items():
        name = full.removeprefix("module.")
        if (found := re.match(r"semsegdecoder(?:_(.+?))?\.decode_head\.(.+)", name)) is not None:
            renamed = rename(found[2], _TO_OURS["decoder"])
            if renamed is not None:
                parts.decoders.setdefault(found[1] or "", {})[renamed] = tensor
                continue
        elif (found := re.match(r"semseghead(?:_(.+?))?\.(1\..+)", name)) is not None:
            parts.heads.setdefault(found[1] or "", {})[found[2]] = tensor
            continue
        else:
            inner = name.removeprefix("encoder.")
            if (renamed := rename(inner, _TO_OURS["encoder"])) is not None:
                parts.encoder[renamed] = tensor
                continue
            if (renamed := rename(inner, _TO_OURS["neck"])) is not None:
                parts.neck[renamed] = tensor
                continue
        parts.unused[full] = tensor
    _name_the_decoder_without_suffix(parts)
    if not parts.heads:
        parts.layout += ", encoder alone"
    elif len(parts.heads) == 1:
        parts.layout += ", one data set"
    else:
        parts.layout += f", {len(parts.heads)} data sets" + (" with experts" if parts.experts else "")
    return parts


def _name_the_decoder_without_suffix(parts: Parts) -> None:
    """In a file of several data sets the first one's decoder has no suffix, its head has."""
    without = [task for task in parts.heads if task not in parts.decoders]
    if "" in parts.decoders and "" not in parts.heads and len(without) == 1:
        parts.decoders[without[0]] = parts.decoders.pop("")
        parts.decoders = {task: parts.decoders[task] for task in parts.heads if task in parts.decoders}


def _foreign(tensors: Mapping[str, Tensor]) -> Parts:
    def depth(prefix: str) -> int:
        return sum(name.startswith(prefix) for name in tensors) if prefix else 0

    # The longest prefix that nearly all names share is a wrapper around the encoder, not a part of it.
    prefix = max((p for p in _PREFIXES if depth(p) > 0.5 * len(tensors)), key=len, default="")
    encoder = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    unused = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    return Parts(_name_of(encoder), "encoder", encoder=encoder, unused=unused)


def _name_of(encoder: Mapping[str, Tensor]) -> str:
    if any(name.startswith("decoder_blocks.") for name in encoder):
        return "a masked autoencoder"
    if any("rope_embed" in name or "storage_tokens" in name for name in encoder):
        return "DINOv3"
    if "mask_token" in encoder and any(name.endswith("ls1.gamma") for name in encoder):
        return "DINOv2"
    if any("transformer.resblocks" in name for name in encoder):
        return "CLIP's image encoder"
    if "_conv_stem.weight" in encoder:
        return "EfficientNet-PyTorch"
    if any(name.startswith("blocks.0.") for name in encoder):
        return "a ViT"
    return "an encoder"
