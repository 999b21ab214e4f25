"""One encoder for several data sets, each with its own decoder, head and, with experts, feed-forward rows (MoE-MDF)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self

from torch import Tensor, nn

from s5.models.moe import MoEMlp, merge_expert, split_dense
from s5.models.segmentation import (
    Decoder,
    Neck,
    SegmentationModel,
    check_bands,
    create_decoder,
    create_head,
    create_model,
    pad_to_multiple,
    to_size_of,
)


class MultiDatasetModel(nn.Module):
    """S5's network for several data sets (AAAI 2026, MoE-MDF): the data set chooses expert, decoder and head.

    Build it with `create_multi_model` or `from_dense`.

    Attributes:
        datasets: name -> number of classes, in the order of the experts.
        architecture: JSON-able keywords with which `create_multi_model` builds the same network again.
        learning: names of the data sets whose own parts alone are trained (`train_only`); None trains everything.
    """

    def __init__(
        self,
        encoder: nn.Module,
        neck: Neck,
        decoders: Mapping[str, Decoder],
        *,
        dropout: float,
        architecture: dict[str, Any],
    ) -> None:
        super().__init__()
        self.datasets: dict[str, int] = dict(architecture["datasets"])
        self.architecture = architecture
        self.learning: tuple[str, ...] | None = None
        self.encoder: Any = encoder
        self.neck = neck
        self.decoders = nn.ModuleDict(dict(decoders))
        self.heads = nn.ModuleDict(
            {name: create_head(decoders[name].channels, classes, dropout) for name, classes in self.datasets.items()}
        )

    @property
    def has_experts(self) -> bool:
        return bool(self.architecture["part_features"])

    def forward(self, x_BCHW: Tensor, task: str) -> Tensor:
        """Logits [B, K, H, W] of one data set at the input's size, for normalised images of any height and width."""
        maps = self.neck(self._encode(x_BCHW, task))
        return to_size_of(x_BCHW, self.heads[task](self.decoders[task](maps)), self.encoder.multiple)

    def features(self, x_BCHW: Tensor, task: str) -> list[Tensor]:
        """The four maps that the decoder of a data set reads, strides 4, 8, 16 and 32, of the padded input."""
        levels: list[Tensor] = self.neck(self._encode(x_BCHW, task))
        return levels

    def position_of(self, task: str) -> int:
        """The position of a data set among the experts.

        Raises:
            ValueError: no such data set (the nearest is suggested).
        """
        names = list(self.datasets)
        if task not in names:
            near = difflib.get_close_matches(str(task), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"task: expected one of the data sets {names}, got {task!r}{hint}")
        return names.index(task)

    def parts_of(self, task: str) -> list[nn.Module]:
        """What belongs to one data set alone: its decoder, its head and, in each layer that has them, its expert."""
        position = self.position_of(task)
        experts = [module.experts[position] for module in self.encoder.modules() if isinstance(module, MoEMlp)]
        return [self.decoders[task], self.heads[task], *experts]

    def train_only(self, *tasks: str) -> None:
        """Keep all but these data sets' own parts as it is: no gradients, and evaluation mode whatever `train` says."""
        self.requires_grad_(False)
        for task in tasks:
            for part in self.parts_of(task):
                part.requires_grad_(True)
        self.learning = tasks
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode but for what `train_only` keeps as it is."""
        super().train(mode and self.learning is None)
        for task in self.learning or ():
            for part in self.parts_of(task):
                part.train(mode)
        self.training = mode
        return self

    def for_task(self, task: str) -> SegmentationModel:
        """The dense network that this one is for one data set: a copy, its expert merged, without extra cost."""
        position = self.position_of(task)
        plain = {key: value for key, value in self.architecture.items() if key not in ("datasets", "part_features")}
        model = create_model(**plain, classes=self.datasets[task])
        state = {}
        for name, tensor in self.state_dict().items():
            for part in ("decoders", "heads"):
                if name.startswith(f"{part}.{task}."):
                    state[name.replace(f"{part}.{task}.", f"{part[:-1]}.", 1)] = tensor
            if name.startswith(("encoder.", "neck.")):
                state[name] = tensor
        if self.has_experts:
            for prefix in expert_layers(self.encoder.body):
                state.update(merge_expert(state, f"encoder.body.{prefix}", position))
            state = {name: tensor for name, tensor in state.items() if ".experts." not in name}
        model.load_state_dict(state)
        return model.train(self.training)

    def _encode(self, x_BCHW: Tensor, task: str) -> list[Tensor]:
        check_bands(x_BCHW, int(self.architecture["bands"]))
        position = self.position_of(task)
        padded = pad_to_multiple(x_BCHW, self.encoder.multiple)
        maps: list[Tensor] = self.encoder(padded, position) if self.has_experts else self.encoder(padded)
        return maps


def expert_layers(body: nn.Module) -> list[str]:
    """The names of the feed-forward layers with experts, each with a dot at its end."""
    return [f"{name}." for name, module in body.named_modules() if isinstance(module, MoEMlp)]


def create_multi_model(
    encoder: str,
    decoder: str = "upernet",
    *,
    datasets: Mapping[str, int] | Iterable[tuple[str, int]],
    part_features: int = 256,
    encoder_options: Mapping[str, Any] | None = None,
    dropout: float = 0.1,
    **options: Any,
) -> MultiDatasetModel:
    """Build a network for several data sets from nothing. From a trained dense one, take `from_dense`.

    Args:
        datasets: name -> number of classes, in the order of the experts; names become parts of tensor names and hold
            no dot.
        part_features: outputs of each feed-forward layer that belong to the data set's expert (the papers' 256);
            0 shares the whole encoder. Experts need one of S5's encoders.
        options: as `create_model` takes them.

    Raises:
        ValueError: no data set, a bad name or class count, experts in another encoder than S5's.
    """
    datasets = dict(datasets)
    _check_datasets(datasets)
    if not isinstance(part_features, int) or part_features < 0:
        raise ValueError(f"part_features: expected a whole number of at least 0, got {part_features!r}")
    expert_options: dict[str, Any] = {}
    if part_features:
        if not encoder.startswith("s5_vit"):
            raise ValueError(
                f"part_features: only S5's encoders (s5_vit_b, ...) have experts, got encoder {encoder!r}; "
                "set part_features to 0 to share the whole encoder"
            )
        expert_options = {"experts": len(datasets), "part_features": part_features}
    first = next(iter(datasets.values()))
    dense = create_model(
        encoder,
        decoder,
        classes=first,
        dropout=dropout,
        encoder_options={**(encoder_options or {}), **expert_options},
        **options,
    )
    architecture = {
        **{key: value for key, value in dense.architecture.items() if key != "classes"},
        "encoder_options": dict(encoder_options or {}),
        "datasets": [[name, classes] for name, classes in datasets.items()],  # as JSON keeps an order
        "part_features": part_features,
    }
    decoders = {name: _another_decoder(dense) for name in datasets}
    return MultiDatasetModel(dense.encoder, dense.neck, decoders, dropout=dropout, architecture=architecture)


def from_dense(dense: SegmentationModel, datasets: Mapping[str, int], *, part_features: int = 256) -> MultiDatasetModel:
    """A network for several data sets that starts as a trained dense one: for each of them it gives its outputs.

    The shared rows of a feed-forward layer are the dense one's first, each expert is a copy of its last
    `part_features`, and each data set has a copy of its decoder (S5's `load_moe_ffn_weights`; papers: 1.4). A data set
    with as many classes as the dense network has also a copy of its head; any other starts at random.

    Raises:
        ValueError: as `create_multi_model`.
    """
    options = {key: value for key, value in dense.architecture.items() if key != "classes"}
    model = create_multi_model(**options, datasets=datasets, part_features=part_features)
    state = dense.encoder.body.state_dict()
    for prefix in expert_layers(model.encoder.body):
        state.update(split_dense(state, prefix, len(datasets), part_features))
    reference = next(dense.parameters())
    model.to(device=reference.device, dtype=reference.dtype)
    model.encoder.body.load_state_dict(state)
    model.neck.load_state_dict(dense.neck.state_dict())
    for name, classes in datasets.items():
        model.decoders[name].load_state_dict(dense.decoder.state_dict())
        if classes == dense.num_classes:
            model.heads[name].load_state_dict(dense.head.state_dict())
    return model.train(dense.training)


def add_dataset(
    model: MultiDatasetModel, name: str, classes: int, *, like: str | SegmentationModel
) -> MultiDatasetModel:
    """A trained network with one more data set: a new expert, decoder and head beside those that it has.

    Args:
        model: the network; it is left as it is.
        name: of the new data set.
        classes: its number of classes.
        like: what the expert and the decoder are copied from: another data set of `model`, or a dense network of the
            same sizes, such as the one that `model` began from. A head with as many classes is copied too, any other
            starts at random.

    Raises:
        ValueError: `model` has a data set of this name, `like` is none of its data sets, or a network of other sizes.
    """
    if name in model.datasets:
        raise ValueError(f"add: the network has a data set {name!r} already; give the new one another name")
    options = {key: value for key, value in model.architecture.items() if key != "datasets"}
    grown = create_multi_model(**options, datasets={**model.datasets, name: classes})
    if isinstance(like, str):
        layers, decoder, head = _expert_rows(model, model.position_of(like)), model.decoders[like], model.heads[like]
        same_head = model.datasets[like] == classes
    else:
        _check_sizes(like, model)
        layers = _last_rows(like, expert_layers(model.encoder.body), int(options["part_features"]))
        decoder, head, same_head = like.decoder, like.head, like.num_classes == classes
    state = {**grown.state_dict(), **model.state_dict()}
    for layer, value in layers.items():
        prefix, kind = layer.rsplit(".", 1)
        state[f"encoder.body.{prefix}.experts.{len(model.datasets)}.{kind}"] = value
    state |= {f"decoders.{name}.{key}": value for key, value in decoder.state_dict().items()}
    if same_head:
        state |= {f"heads.{name}.{key}": value for key, value in head.state_dict().items()}
    grown.load_state_dict(state)
    reference = next(model.parameters())
    return grown.to(device=reference.device, dtype=reference.dtype).train(model.training)


def _expert_rows(model: MultiDatasetModel, position: int) -> dict[str, Tensor]:
    state = model.encoder.body.state_dict()
    return {
        f"{prefix}{kind}": state[f"{prefix}experts.{position}.{kind}"]
        for prefix in expert_layers(model.encoder.body)
        for kind in ("weight", "bias")
    }


def _last_rows(dense: SegmentationModel, layers: list[str], part_features: int) -> dict[str, Tensor]:
    state = dense.encoder.body.state_dict()
    return {
        f"{prefix}{kind}": state[f"{prefix}fc2.{kind}"][-part_features:]
        for prefix in layers
        for kind in ("weight", "bias")
    }


def _check_sizes(dense: SegmentationModel, model: MultiDatasetModel) -> None:
    own = {key: value for key, value in model.architecture.items() if key not in ("datasets", "part_features")}
    other = {key: value for key, value in dense.architecture.items() if key != "classes"}
    differ = sorted(key for key in own.keys() | other.keys() if own.get(key) != other.get(key))
    if differ:
        raise ValueError(
            f"add: the dense network to copy from has another {differ[0]} ({other.get(differ[0])!r}) than the network "
            f"({own.get(differ[0])!r}); take the one that it began from, or the name of one of its data sets"
        )


def _another_decoder(dense: SegmentationModel) -> Decoder:
    architecture = dense.architecture
    _, decoder = create_decoder(
        architecture["decoder"], dense.encoder, architecture["decoder_channels"], architecture["decoder_options"]
    )
    return decoder


def _check_datasets(datasets: Mapping[str, int]) -> None:
    if not datasets:
        raise ValueError("datasets: expected at least one name with its number of classes, got none")
    for name, classes in datasets.items():
        if not name or "." in name:
            raise ValueError(f"datasets: a name must not be empty or hold a dot, got {name!r}")
        if not isinstance(classes, int) or classes < 2:
            raise ValueError(f"datasets: {name!r} needs at least 2 classes, got {classes!r}")
