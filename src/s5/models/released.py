"""S5's released checkpoints: whole networks out of them, and back into their layout (papers: 1.3, 1.4)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s5.files import replacing
from s5.models.encoders import Encoder, create_encoder, tap_blocks
from s5.models.layouts import Parts, recognise, released_name
from s5.models.multi import MultiDatasetModel, create_multi_model
from s5.models.neck import PlainPyramid
from s5.models.segmentation import SegmentationModel, create_model, pad_to_multiple
from s5.models.vit import S5_ENCODERS
from s5.models.weight_files import find_weights, read_tensors
from s5.models.weights import load_weights

_HEADS = {size["width"]: size["heads"] for size in S5_ENCODERS.values()}
_POOL_SCALES = (1, 2, 3, 6)


class EncoderModel(nn.Module):
    """An encoder with its pyramid, out of a file that holds no decoder: images to the four maps of `features`."""

    def __init__(self, encoder: Encoder, neck: PlainPyramid) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Maps of strides 4, 8, 16 and 32 of the padded input."""
        levels: list[Tensor] = self.neck(self.encoder(pad_to_multiple(x_BCHW, self.encoder.multiple)))
        return levels

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        return self.forward(x_BCHW)


def from_released(
    path: str | Path, num_heads: int | None = None, out_indices: Sequence[int] | None = None, task: str | None = None
) -> SegmentationModel | MultiDatasetModel | EncoderModel:
    """Build the network of one of S5's released checkpoints from the file alone, in evaluation mode.

    Sizes, classes, decoder width and experts are read from the tensors. Heads and taps cannot be: they are the
    papers' for the widths 768, 1024 and 1280, and must be given for others (taps: four evenly spaced by default).

    Args:
        path: ``*_s4p.pth``, ``*_s4p_upernet.pth`` or ``*_moe_mdf.pth``; or a hub id.
        num_heads: attention heads.
        out_indices: the four blocks whose outputs are used, from 0.
        task: of a file of several data sets, the one whose dense network is wanted; None builds all of them.

    Returns:
        A `SegmentationModel` (one data set, or `task` given), a `MultiDatasetModel` whose data sets have the
        file's names (called ``model(x, task)``), or an `EncoderModel` for a file without decoder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not one of S5's layouts, a file that holds code or NaN or is cut short, sizes that contradict.
    """
    tensors = read_tensors(path)
    parts = recognise(tensors)
    if parts.kind != "released" or "patch_embed.proj.weight" not in parts.encoder:
        raise ValueError(
            f"{path}: expected one of S5's released layouts, found {parts.layout}; load it into a network of "
            "create_model with load_weights"
        )
    encoder = _encoder_arguments(parts, path, num_heads, out_indices)
    model: SegmentationModel | MultiDatasetModel | EncoderModel
    with torch.random.fork_rng(devices=[]):
        if not parts.heads:
            if task is not None:
                raise ValueError(f"{path}: the file holds an encoder alone, and no data set {task!r}; leave task out")
            body = create_encoder(
                encoder["encoder"],
                bands=encoder["bands"],
                drop_path=encoder["drop_path"],
                image_size=encoder["image_size"],
                options=encoder["encoder_options"],
            )
            model = EncoderModel(body, PlainPyramid(body.channels[-1]))
        elif len(parts.heads) == 1 or task is not None:
            if task is not None and task not in parts.heads:
                raise ValueError(f"{path}: the file holds the data sets {list(parts.heads)}, got task {task!r}")
            name = task if task is not None else next(iter(parts.heads))
            model = create_model(**encoder, **_decoder_arguments(parts, name, path), classes=_classes(parts, name))
        else:
            first = next(iter(parts.heads))
            experts = parts.encoder.get("blocks.0.mlp.experts.0.bias")
            model = create_multi_model(
                **encoder,
                **_decoder_arguments(parts, first, path),
                datasets={name: _classes(parts, name) for name in parts.heads},
                part_features=0 if experts is None else len(experts),
            )
    load_weights(model, find_weights(path), task=task)
    # What their files hold and no network uses (a class token, a classifier inside the decoder): for the way back.
    model.released_unused = parts.unused  # type: ignore[assignment]
    return model.eval()


def export_released(model: nn.Module, path: str | Path) -> None:
    """Write a network of S5's encoder and UPerNet in the layout of S5's release, whole or not at all.

    A `SegmentationModel` becomes an ``*_s4p_upernet.pth``, a `MultiDatasetModel` a ``*_moe_mdf.pth`` and an
    `EncoderModel` an ``*_s4p.pth``. Tensors that their files hold and no network uses are written as they were read,
    or as zeros.

    Raises:
        ValueError: a network that S5's layout has no names for.
    """
    prefix = "" if isinstance(model, EncoderModel) else "module."
    inner = "" if isinstance(model, EncoderModel) else "encoder."
    out: dict[str, Tensor] = {}
    tasks = list(getattr(model, "datasets", {}))
    for full, tensor in model.state_dict().items():
        out[prefix + _released_full_name(full, inner, tasks)] = tensor.detach().cpu().contiguous().clone()
    unused = getattr(model, "released_unused", None) or _unused(model, prefix, inner, tasks)
    with replacing(Path(path)) as temporary:
        torch.save({"model": {**out, **unused}}, temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


def _released_full_name(full: str, encoder_prefix: str, tasks: list[str]) -> str:
    first, _, rest = full.partition(".")
    name: str | None = None
    if full.startswith("encoder.body."):
        name = released_name("encoder", rest.removeprefix("body."))
        name = None if name is None else encoder_prefix + name
    elif first == "neck":
        name = released_name("neck", rest)
        name = None if name is None else encoder_prefix + name
    elif first in ("decoder", "decoders"):
        task, inner = ("", rest) if first == "decoder" else rest.split(".", 1)
        name = released_name("decoder", inner)
        suffix = "" if task in ("", *tasks[:1]) else f"_{task}"  # the first data set's decoder has none
        name = None if name is None else f"semsegdecoder{suffix}.decode_head.{name}"
    elif first == "head":
        name = f"semseghead.{rest}"
    elif first == "heads":
        task, inner = rest.split(".", 1)
        name = f"semseghead_{task}.{inner}"
    if name is None:
        raise ValueError(f"export_released: S5's layout has no name for {full}; it holds S5's ViT and UPerNet alone")
    return name


def _unused(model: Any, prefix: str, inner: str, tasks: list[str]) -> dict[str, Tensor]:
    """The tensors that S5's code wants to find although nothing reads them."""
    unused = {f"{prefix}{inner}cls_token": torch.zeros(1, 1, model.encoder.body.width)}
    decoders = {} if isinstance(model, EncoderModel) else {"": model.decoder} if not tasks else dict(model.decoders)
    for number, (task, decoder) in enumerate(decoders.items()):
        suffix = f"_{task}" if number else ""
        name = f"{prefix}semsegdecoder{suffix}.decode_head.conv_seg"
        unused[f"{name}.weight"] = torch.zeros(1, decoder.channels, 1, 1)
        unused[f"{name}.bias"] = torch.zeros(1)
    return unused


def _encoder_arguments(
    parts: Parts, path: str | Path, num_heads: int | None, out_indices: Sequence[int] | None
) -> dict[str, Any]:
    encoder = parts.encoder
    width, bands, patch = (int(encoder["patch_embed.proj.weight"].shape[i]) for i in (0, 1, 2))
    depth = 1 + max(int(name.split(".")[1]) for name in encoder if name.startswith("blocks."))
    tokens = int(encoder["pos_embed"].shape[1]) if "pos_embed" in encoder else 0
    grid = math.isqrt(tokens)
    if grid * grid != tokens or not tokens:
        raise ValueError(f"{path}: expected a position embedding of a square grid without class token, got {tokens}")
    heads = num_heads or _HEADS.get(width)
    if heads is None:
        raise ValueError(
            f"{path}: the number of attention heads cannot be read from a file; a width of {width} is none of the "
            f"papers' ({sorted(_HEADS)}), so give num_heads"
        )
    taps = tap_blocks(depth, width) if out_indices is None else tuple(int(i) for i in out_indices)
    name, options = "s5_vit", {"width": width, "depth": depth, "heads": heads}
    for known, sizes in S5_ENCODERS.items():
        if sizes == options:
            name, options = known, {}
    hidden = int(encoder["blocks.0.mlp.fc1.weight"].shape[0])
    if hidden != 4 * width:
        options["mlp_ratio"] = hidden / width  # type: ignore[assignment]
    if patch != 16:
        options["patch"] = patch
    if taps != tap_blocks(depth, width):
        options["taps"] = list(taps)  # type: ignore[assignment]
    return {
        "encoder": name,
        "encoder_options": options,
        "bands": bands,
        "image_size": grid * patch,
        "drop_path": 0.1,
    }


def _decoder_arguments(parts: Parts, task: str, path: str | Path) -> dict[str, Any]:
    decoder = parts.decoders.get(task)
    if not decoder or "fusion.0.weight" not in decoder:
        raise ValueError(f"{path}: the file has a head but no whole decoder for {task or 'it'}; the file is cut")
    pools = {name.split(".")[1] for name in decoder if name.startswith("pools.")}
    if len(pools) != len(_POOL_SCALES):
        raise ValueError(
            f"{path}: the decoder has {len(pools)} pooled maps, S5's has {len(_POOL_SCALES)} (scales {_POOL_SCALES}); "
            "build the network with create_model(decoder_options={'pool_scales': ...}) and use load_weights"
        )
    return {"decoder": "upernet", "decoder_channels": int(decoder["fusion.0.weight"].shape[0])}


def _classes(parts: Parts, task: str) -> int:
    return int(parts.heads[task]["1.weight"].shape[0])
