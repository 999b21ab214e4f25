"""A detector: one of the project's encoders, its pyramid, and a head for each data set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from s5.detection.fcos import RotatedFCOSHead
from s5.detection.oriented_rcnn import OrientedRCNNHead
from s5.detection.targets import Targets
from s5.losses import Pool, alone
from s5.models import Encoder, create_encoder
from s5.models.moe import merge_expert, split_dense
from s5.models.multi import expert_layers
from s5.models.neck import PYRAMID_STRIDES, LevelPyramid, PlainPyramid
from s5.models.segmentation import check_bands, pad_to_multiple

HEADS = ("rotated_fcos", "oriented_rcnn")


class Head(Protocol):
    """What follows the neck, for one data set.

    Given the neck's maps [B, C, H, W], the image's height and width, and `targets`, it returns its losses, of which
    ``loss`` is the sum and the only one with a gradient. Without `targets` it returns ``boxes`` [B, N, 5] in pixels of
    the image, not necessarily le90, and their ``scores`` [B, N, K]; both in float32, doubles still in them.
    """

    def __call__(
        self, maps: list[Tensor], shape: tuple[int, int], targets: Targets | None = None, pool: Pool = alone
    ) -> dict[str, Tensor]: ...


class Detector(nn.Module):
    """Encoder and neck for all data sets; FPN and head, and the encoder's experts, for each (S5, AAAI 2026: MoE-MDF).

    Build it with `create_detector`, or `create_multi_detector` for several data sets.

    Attributes:
        datasets: name -> number of classes, in the order of heads and experts.
        architecture: JSON-able keywords with which `create_multi_detector` builds the same network again.
    """

    def __init__(
        self,
        encoder: nn.Module,
        neck: PlainPyramid | LevelPyramid,
        heads: list[nn.Module],
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.neck = neck
        self.heads = nn.ModuleList(heads)
        self.architecture = architecture
        self.datasets: dict[str, int] = dict(architecture["datasets"])

    def forward(
        self, images: Mapping[str, Tensor], targets: Mapping[str, Targets] | None = None, pool: Pool = alone
    ) -> dict[str, dict[str, Tensor]]:
        """What `Head` says, for the images [B, C, H, W] of each data set; all go through in one pass.

        Args:
            images: Normalised, of any size; by name of the data set.
            targets: Of the same data sets.
            pool: Sums over the processes that share the batch.
        """
        return {
            name: self._of_dataset(name, x_BCHW, None if targets is None else targets[name], pool)
            for name, x_BCHW in images.items()
        }

    def _of_dataset(self, name: str, x_BCHW: Tensor, targets: Targets | None, pool: Pool) -> dict[str, Tensor]:
        check_bands(x_BCHW, int(self.architecture["bands"]))
        position = self.position_of(name)
        padded = pad_to_multiple(x_BCHW, self.encoder.multiple)
        maps = self.encoder(padded, position) if self.has_experts else self.encoder(padded)
        head: Head = self.heads[position]
        return head(self.neck(maps), (x_BCHW.shape[-2], x_BCHW.shape[-1]), targets, pool)

    @property
    def has_experts(self) -> bool:
        return bool(self.architecture["part_features"])

    def position_of(self, dataset: str) -> int:
        """The position of a data set among heads and experts.

        Raises:
            ValueError: no such data set (the nearest is suggested).
        """
        names = list(self.datasets)
        if dataset not in names:
            near = difflib.get_close_matches(dataset, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"detector: expected one of the data sets {names}, got {dataset!r}{hint}")
        return names.index(dataset)

    def for_dataset(self, dataset: str) -> Detector:
        """The detector that this one is for one data set: a copy, its expert merged, without extra cost."""
        position = self.position_of(dataset)
        own = [[dataset, self.datasets[dataset]]]
        model = create_multi_detector(**{**self.architecture, "datasets": own, "part_features": 0})
        state = {}
        for name, tensor in self.state_dict().items():
            if name.startswith(f"heads.{position}."):
                state[name.replace(f"heads.{position}.", "heads.0.", 1)] = tensor
            elif not name.startswith("heads."):
                state[name] = tensor
        for prefix in expert_layers(self.encoder.body):
            state.update(merge_expert(state, f"encoder.body.{prefix}", position))
        model.load_state_dict({name: tensor for name, tensor in state.items() if ".experts." not in name})
        return model.train(self.training)

    def start_encoder_from(self, encoder: nn.Module) -> None:
        """Take the weights of a dense encoder; experts start as copies of its last feed-forward rows.

        Raises:
            RuntimeError: it is another encoder.
        """
        state = encoder.state_dict()
        for prefix in expert_layers(self.encoder):
            part = int(self.architecture["part_features"])
            state.update(split_dense(state, prefix, len(self.datasets), part))
        self.encoder.load_state_dict(state)


def create_detector(encoder: str = "resnet18", *, classes: int, name: str = "objects", **options: Any) -> Detector:
    """Build a detector for one data set.

    Args:
        encoder: As for `s5.models.create_model`.
        classes: Number of classes, at least 1.
        name: Of the data set.
        options: As `create_multi_detector` takes them.
    """
    return create_multi_detector(encoder, datasets={name: classes}, part_features=0, **options)


def create_multi_detector(
    encoder: str = "resnet18",
    *,
    datasets: Mapping[str, int] | Iterable[tuple[str, int]],
    part_features: int = 256,
    head: str = "rotated_fcos",
    bands: int = 3,
    channels: int = 64,
    head_convs: int = 2,
    hidden: int = 1024,
    anchor_scale: float = 8.0,
    proposals: int = 2000,
    drop_path: float = 0.0,
    encoder_weights: str | Path | None = None,
    image_size: int | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    checkpointing: bool = False,
) -> Detector:
    """Build a detector on one of S5's or timm's encoders, with a head for each data set.

    Args:
        encoder: As for `s5.models.create_model`.
        datasets: name -> number of classes, at least 1, in the order of the experts.
        part_features: Outputs of each feed-forward layer that belong to the data set's expert (the papers' 256); 0
            shares the whole encoder. Experts need one of S5's encoders.
        head: ``"rotated_fcos"``, light, or ``"oriented_rcnn"``, the papers'.
        bands: Input bands.
        channels: Width of the pyramid and of what follows it (the papers' 256).
        head_convs: Convolutions in each tower of rotated FCOS.
        hidden: Width of Oriented R-CNN's box head.
        anchor_scale: Side of Oriented R-CNN's anchors, in strides of their level.
        proposals: Oriented R-CNN's, of an image.
        drop_path, encoder_weights, image_size, encoder_options, checkpointing: As for `s5.models.create_model`.

    Raises:
        ValueError: a value out of range, or an encoder that there is not.
    """
    datasets = dict(datasets)
    counts = {"bands": bands, "channels": channels, "head_convs": head_convs, "hidden": hidden, "proposals": proposals}
    for name, count in {**counts, **{f"classes of {name!r}": number for name, number in datasets.items()}}.items():
        if count < 1:
            raise ValueError(f"detector: {name} must be at least 1, got {count}")
    if not datasets:
        raise ValueError("detector: expected at least one data set with its number of classes, got none")
    if head not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {head!r}")
    experts: dict[str, Any] = {}
    if part_features:
        if not encoder.startswith("s5_vit"):
            raise ValueError(
                f"part_features: only S5's encoders (s5_vit_b, ...) have experts, got encoder {encoder!r}; "
                "set part_features to 0 to share the whole encoder"
            )
        experts = {"experts": len(datasets), "part_features": part_features}

    def encoder_with(more: Mapping[str, Any], weights: str | Path | None) -> Encoder:
        return create_encoder(
            encoder, bands=bands, drop_path=drop_path, image_size=image_size, weights=weights,
            options={**(encoder_options or {}), **more}, checkpointing=checkpointing,
        )  # fmt: skip

    body = encoder_with(experts, None if experts else encoder_weights)
    neck: PlainPyramid | LevelPyramid = (
        PlainPyramid(body.channels[-1]) if body.is_plain else LevelPyramid(body.channels, body.strides)
    )
    patch = body.strides[-1]
    strides = (patch // 4, patch // 2, patch, 2 * patch) if body.is_plain else PYRAMID_STRIDES

    def head_for(classes: int) -> nn.Module:
        if head == "rotated_fcos":
            return RotatedFCOSHead(neck.channels, strides, classes=classes, channels=channels, head_convs=head_convs)
        return OrientedRCNNHead(
            neck.channels, strides, classes=classes, channels=channels, hidden=hidden, anchor_scale=anchor_scale,
            proposals=proposals,
        )  # fmt: skip

    architecture = {
        "encoder": encoder,
        "datasets": [[name, classes] for name, classes in datasets.items()],  # as JSON keeps an order
        "part_features": part_features,
        "head": head,
        **counts,
        "anchor_scale": anchor_scale,
        "drop_path": drop_path,
        "image_size": image_size,
        "encoder_options": dict(encoder_options or {}),
    }
    model = Detector(body, neck, [head_for(classes) for classes in datasets.values()], architecture)
    if experts and encoder_weights is not None:
        model.start_encoder_from(encoder_with({}, encoder_weights))
    return model
