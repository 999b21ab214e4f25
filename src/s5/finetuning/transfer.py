"""What a network takes over from trained weights, and what becomes of it: part by part, to any depth."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from s5.models import (
    DECODER_BLOCKS,
    LoadReport,
    NetworkDepths,
    SegmentationModel,
    load_weights,
    network_depths,
    read_metadata,
)

logger = logging.getLogger(__name__)

MODES = ("tuned", "frozen", "retrained")
_PARTS = ("encoder", "decoder", "head")


@dataclass(frozen=True)
class TransferConfig:
    """What is taken over from trained weights, after Yosinski et al. (NeurIPS 2014) and CromSS (TGRS 2025).

    Each part is ``"tuned"`` (taken over and trained on), ``"frozen"`` (taken over and kept as it is) or
    ``"retrained"`` (from a random start). A part may be taken over up to a depth: what lies behind it is retrained.

    Args:
        encoder, decoder, head: What becomes of each part; the neck is of the decoder. The head can only be taken over
            by a network of the same classes, the decoder by one with the same decoder.
        encoder_layers: Layers of the encoder that are taken over, counted from the input as `s5.models.layer_depths`
            does; 0 takes the stem alone, None all of them.
        decoder_blocks: Blocks of the decoder that are taken over, counted from the deepest level; None takes all five.
    """

    encoder: str = "tuned"
    decoder: str = "tuned"
    head: str = "tuned"
    encoder_layers: int | None = None
    decoder_blocks: int | None = None

    def __post_init__(self) -> None:
        for part in _PARTS:
            mode = getattr(self, part)
            if mode not in MODES:
                near = difflib.get_close_matches(str(mode), MODES, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"transfer.{part}: expected one of {', '.join(MODES)}, got {mode!r}{hint}")
        for name, part, most in (("encoder_layers", "encoder", None), ("decoder_blocks", "decoder", DECODER_BLOCKS)):
            count = getattr(self, name)
            if count is None:
                continue
            if isinstance(count, bool) or not isinstance(count, int) or count < 0 or (most and not count <= most):
                whole = f"a whole number in 0..{most}" if most else "a whole number of at least 0"
                raise ValueError(f"transfer.{name}: expected {whole}, or null for all, got {count!r}")
            if getattr(self, part) == "retrained":
                raise ValueError(
                    f"transfer.{name}: nothing of a retrained {part} is taken over, got {count}; set transfer.{name} "
                    f"to null, or transfer.{part} to tuned or frozen"
                )

    @property
    def takes_all(self) -> bool:
        """Whether the whole network is taken over."""
        modes = {self.encoder, self.decoder, self.head}
        return "retrained" not in modes and self.encoder_layers is None and self.decoder_blocks is None


def transfer_weights(
    model: SegmentationModel, source: str | Path, config: TransferConfig, *, classes: Sequence[str]
) -> LoadReport:
    """Take weights over into a network as `config` says, and freeze what is not to be trained.

    What was loaded and what was left is logged as a table of counts. A part that is retrained keeps the values that it
    has. Frozen layers get no gradients, their batch statistics stand still, and they drop nothing.

    Args:
        model: a network of `create_model` with its random start; changed in place.
        source: a weight file of this project, or any other that `s5.models.load_weights` reads.
        classes: what the network is to tell apart.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a part that is taken over does not fit this network, or its head is for other classes; the encoder
            has fewer layers than `encoder_layers`.
    """
    places = network_depths(model)
    taken = _names(places, config, [part for part in _PARTS if getattr(config, part) != "retrained"])
    if config.head != "retrained":
        _check_classes(source, classes)
    try:
        report = load_weights(model, source, only=taken)
    except ValueError as error:
        raise ValueError(
            f"{error}; to take over only what fits, set transfer.decoder (another decoder) or transfer.head (other "
            "classes) to retrained"
        ) from error
    frozen = _names(places, config, [part for part in _PARTS if getattr(config, part) == "frozen"])
    model.freeze(*_modules_within(model, frozen))
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)  # those beside other modules, such as position embeddings
    logger.info("Taken over: %d tensors, %d of them frozen; retrained: %d", *_counts(model, taken, frozen))
    return report


def _names(places: NetworkDepths, config: TransferConfig, parts: Collection[str]) -> set[str]:
    """Names of what is taken over of `parts`."""
    layers = places.layers if config.encoder_layers is None else config.encoder_layers
    if layers > places.layers:
        raise ValueError(f"transfer.encoder_layers: the encoder has {places.layers} layers, got {layers}")
    blocks = DECODER_BLOCKS if config.decoder_blocks is None else config.decoder_blocks
    within = {
        "encoder": range(layers + 1),
        "decoder": range(places.layers + 1, places.layers + blocks + 1),
        "head": range(places.head, places.head + 1),
    }
    depths = {depth for part in parts for depth in within[part]}
    return {name for name, depth in places.depths.items() if depth in depths}


def _check_classes(source: str | Path, classes: Sequence[str]) -> None:
    """A head's rows are classes: equal numbers of other classes would fit, and mean nothing."""
    if not str(source).endswith(".safetensors"):
        return
    known = read_metadata(Path(source)).get("classes", classes)
    if list(known) != list(classes):
        raise ValueError(
            f"{source}: its head is for the classes {list(known)}, the data has {list(classes)}; set transfer.head to "
            "retrained"
        )


def _modules_within(model: nn.Module, names: Collection[str]) -> list[str]:
    """The largest modules all of whose weights and buffers are among `names`."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = [f"{name}.{own}" for own in module.state_dict()]
        covered = any(name.startswith(f"{outer}.") for outer in found)
        if name and inside and not covered and all(own in names for own in inside):
            found.append(name)
    return found


def _counts(model: nn.Module, taken: Collection[str], frozen: Collection[str]) -> tuple[int, int, int]:
    return len(taken), len(frozen), len(model.state_dict()) - len(taken)
