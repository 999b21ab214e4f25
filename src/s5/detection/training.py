"""Training of a detector on the loop of the project."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s5.data.loader import Batch, StepReader, StepSampler, TileSource
from s5.data.transforms import Normalizer, PhotometryConfig, augment_some
from s5.detection.augmentation import BoxGeometryConfig, augment_boxes, make_mosaics
from s5.detection.boxes import from_corners
from s5.detection.detector import HEADS, Detector, create_multi_detector
from s5.detection.evaluation import evaluate
from s5.detection.prediction import PredictConfig, detect_scene
from s5.detection.scenes import DetectionData, Scene, scene_windows
from s5.detection.splitting import crop_annotations
from s5.detection.targets import Targets
from s5.engine import (
    BatchPlaces,
    Compute,
    ComputeConfig,
    Learner,
    LoopConfig,
    OptimizerConfig,
    TrainResult,
    fit,
    launchable,
)
from s5.engine.training import run_folder
from s5.models import ModelConfig, load_model, make_pointer, save_model
from s5.seeds import Draws, seed_of, step_draws
from s5.types import LogFn, log_nothing


@dataclass(frozen=True)
class DetectorConfig:
    """Network head, training and its augmentation.

    Args:
        head: ``"rotated_fcos"``, light, or ``"oriented_rcnn"``, the papers'.
        channels: Width of the pyramid and of what follows it.
        head_convs: Convolutions in each tower of rotated FCOS.
        hidden: Width of Oriented R-CNN's box head.
        anchor_scale: Side of Oriented R-CNN's anchors, in strides of their level.
        proposals: Oriented R-CNN's, of an image.
        part_features: Outputs of each feed-forward layer of the encoder that belong to an expert of the data set; 0
            shares the whole encoder. Used where there are several data sets and the encoder is one of S5's.
        magnify: The network's pixels for one of the scene's: small objects need larger ones.
        steps: Optimiser steps.
        batch_size: Windows a step, of each data set.
        window: Side of the windows that training scenes are cut into, in pixels of the scene.
        overlap: Of neighbouring windows, in pixels.
        object_share: Share of a batch that is drawn from the windows with an object; the rest is drawn from all.
        mosaic: Probability that a window is put together from the quarters of four.
        ema_decay: Decay of the averaged weights, which are validated and kept; in [0, 1).
        photometry: Probability that a window also gets the strong colour augmentation.
        validate_every, checkpoint_every, log_every: Steps; 0 never validates, or writes checkpoints only when stopped.
        keep: Checkpoints kept, beside that of the best validation.
    """

    head: str = "rotated_fcos"
    channels: int = 64
    head_convs: int = 2
    hidden: int = 1024
    anchor_scale: float = 8.0
    proposals: int = 2000
    part_features: int = 256
    magnify: float = 2.0
    steps: int = 600
    batch_size: int = 8
    window: int = 192
    overlap: int = 64
    object_share: float = 0.75
    mosaic: float = 0.0
    ema_decay: float = 0.99
    photometry: float = 0.5
    validate_every: int = 200
    checkpoint_every: int = 200
    keep: int = 2
    log_every: int = 20
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: BoxGeometryConfig = field(default_factory=BoxGeometryConfig)
    strong: PhotometryConfig = field(default_factory=PhotometryConfig)

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {self.head!r}")
        for name in ("channels", "head_convs", "hidden", "proposals", "batch_size", "window"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if not isinstance(self.overlap, int) or not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap: expected 0..window - 1 ({self.window - 1}), got {self.overlap!r}")
        if not 0 < self.magnify <= 16:
            raise ValueError(f"magnify: expected a factor in (0, 16], got {self.magnify!r}")
        if not isinstance(self.part_features, int) or self.part_features < 0:
            raise ValueError(f"part_features: expected a whole number of at least 0, got {self.part_features!r}")
        if not self.anchor_scale > 0:
            raise ValueError(f"anchor_scale: expected a positive number of strides, got {self.anchor_scale!r}")
        for name in ("object_share", "mosaic", "photometry"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], got {getattr(self, name)!r}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected a value in [0, 1), got {self.ema_decay!r}")
        self.loop()

    def loop(self) -> LoopConfig:
        return LoopConfig(self.steps, self.validate_every, self.checkpoint_every, self.keep, self.log_every)


@dataclass(frozen=True)
class _OwnWindows:
    """Which windows of a step a process reads: of each pool, as many as its sampler takes."""

    pools: tuple[tuple[list[int], StepSampler], ...]
    places: BatchPlaces

    def __call__(self, step: int) -> list[int]:
        return self.places.own_of([pool[i] for pool, sampler in self.pools for i in sampler.indices(step)])


class DetectorTraining:
    """Batches of augmented windows and the detection losses of all data sets, summed: a `s5.engine.Method`."""

    def __init__(
        self,
        model: Detector,
        data: Mapping[str, DetectionData],
        config: DetectorConfig,
        compute: Compute,
        *,
        seed: int,
        cache_mb: int,
    ) -> None:
        self.config, self.compute, self.seed = config, compute, seed
        self._places = BatchPlaces.of(config.batch_size, compute, "detection.train.batch_size")
        self.sources = {
            name: WindowSource(name, own, config, compute, seed=seed, cache_mb=cache_mb // len(data))
            for name, own in data.items()
        }
        # Of each data set the windows of a step, and with mosaics the three others of each.
        self.read = StepReader(tuple(s for source in self.sources.values() for s in source.streams(self._places)))
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=False, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        def measure(part: range) -> dict[str, Tensor]:
            return self._losses(step, [self._places.part_of(batch, part) for batch in batches], part)

        return self.learner.learn(step, self._places.parts, measure)

    def _losses(self, step: int, batches: list[Batch], places: range) -> dict[str, Tensor]:
        images, targets = {}, {}
        each = len(batches) // len(self.sources)
        for number, (name, source) in enumerate(self.sources.items()):
            drawn = step_draws(self.seed, source.stream("augment"), step, (places, self._places.whole))
            images[name], targets[name] = source.augmented(batches[number * each : (number + 1) * each], drawn)
        network = self.learner.network.train()
        with self.compute.autocast():
            losses = network(images, targets, self.compute.group.pool)
        if len(losses) == 1:
            return dict(next(iter(losses.values())))
        by_dataset = {f"{name}.{key}": value for name, own in losses.items() for key, value in own.items()}
        return {"loss": torch.stack([own["loss"] for own in losses.values()]).sum(), **by_dataset}

    def evaluated(self) -> Detector:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size * len(self.sources)

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Nothing to warn of."""

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)


class WindowSource:
    """One data set's windows: which of them a step sees, and how these look after augmentation."""

    def __init__(
        self, name: str, data: DetectionData, config: DetectorConfig, compute: Compute, *, seed: int, cache_mb: int
    ) -> None:
        self.name, self.config, self.compute = name, config, compute
        self.windows = TrainingWindows(data, config, cache_mb=cache_mb)
        self._normalizer = Normalizer(data.statistics, compute.device)
        with_objects = self.windows.with_objects()
        everything = list(range(len(self.windows)))
        drawn = round(config.object_share * config.batch_size) if with_objects else 0
        pools = tuple(
            (pool, StepSampler(len(pool), number, seed=seed, stream=self.stream(stream)))
            for stream, pool, number in (
                ("objects", with_objects, drawn),
                ("all", everything, config.batch_size - drawn),
            )
            if number > 0
        )
        others = (
            (
                (
                    everything,
                    StepSampler(len(everything), config.batch_size, seed=seed, stream=self.stream(f"mosaic{i}")),
                ),
            )
            for i in range(3 if config.mosaic else 0)
        )
        self._pools = (pools, *others)

    def stream(self, what: str) -> str:
        """The name of a stream of draws that is this data set's own."""
        return f"detector/{self.name}/{what}"

    def streams(self, places: BatchPlaces) -> list[tuple[TileSource, _OwnWindows]]:
        """What is read for a step: the windows, and with mosaics three times as many others."""
        return [(self.windows.reader, _OwnWindows(pools, places)) for pools in self._pools]

    def augmented(self, batches: list[Batch], drawn: Draws) -> tuple[Tensor, Targets]:
        """What the network takes, and the boxes in it."""
        quarters = [self._moved(batch, drawn) for batch in batches]
        images, valid, boxes, labels = quarters[0]
        if self.config.mosaic:
            images, valid, boxes, labels = make_mosaics(quarters, self.config.mosaic, self.config.augmentation, drawn)
        scaled = augment_some(self._normalizer.scale(images), self.config.strong, self.config.photometry, drawn)
        seeds = (drawn.rand(len(images), 1)[:, 0].double() * 2**31).long().tolist()
        return self._normalizer.ready(scaled), Targets.of(boxes, labels, valid, seeds)

    def _moved(self, batch: Batch, drawn: Draws) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        boxes, labels = zip(*(self.windows.objects(i) for i in batch.indices), strict=True)
        return augment_boxes(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.valid),
            boxes,
            labels,
            self.config.augmentation,
            magnify=self.config.magnify,
            drawn=drawn,
        )


class TrainingWindows:
    """The windows of all training scenes, and the objects in each."""

    def __init__(self, data: DetectionData, config: DetectorConfig, *, cache_mb: int) -> None:
        import pandas as pd  # light to import, as s5.data is

        from s5.data.tiles import TileReader

        rows: list[tuple[Any, ...]] = []
        self._objects: list[tuple[Tensor, Tensor]] = []
        for scene in data.training():
            for window in scene_windows(scene, size=config.window, overlap=config.overlap):
                name = f"{scene.image}:{window.row}_{window.col}"
                rows.append((name, scene.image, None, window.row, window.col, window.height, window.width))
                self._objects.append(_objects_in(scene, window, data.classes))
        columns = ["tile_id", "image", "mask", "row", "col", "height", "width"]
        self.reader = TileReader(
            pd.DataFrame(rows, columns=columns), bands=len(data.statistics.bands), size=config.window, cache_mb=cache_mb
        )

    def __len__(self) -> int:
        return len(self._objects)

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes float32 [M, 5] and labels [M] of a window; -1 is to be ignored."""
        return self._objects[index]

    def with_objects(self) -> list[int]:
        return [i for i, (_, labels) in enumerate(self._objects) if bool((labels >= 0).any())]


def _objects_in(scene: Scene, window: Any, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    found = crop_annotations(scene.annotations, window)
    places = {name: place for place, name in enumerate(classes)}
    labels = [-1 if difficult else places.get(n, -1) for n, difficult in zip(found.names, found.difficult, strict=True)]
    return from_corners(torch.from_numpy(found.corners)).float(), torch.tensor(labels, dtype=torch.int64)


@launchable
def train_detector(
    data: Mapping[str, DetectionData],
    model: ModelConfig,
    config: DetectorConfig,
    predict: PredictConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Path | None = None,
    log: LogFn = log_nothing,
) -> TrainResult:
    """Train a detector on one data set, or on several jointly: encoder and neck are shared, and losses summed.

    The weights kept have the best mAP50 on ``val``, the mean over the data sets that have one, or are the last.

    Args:
        data: By name; the first is that of the run.
        model: Its encoder is the detector's; its decoder is not used.
        name: The stage; weights go to ``<project>/data/06_models/<name>/<run key>/model.safetensors``.
        init: Weights of a segmentation network of this project, such as an S4P model's, whose encoder is taken.

    Raises:
        ValueError: no scene to learn from, data sets of other bands, or weights of another encoder.
        Interrupted: the process was asked to stop; run again to go on.
    """
    network = start_detector(data, model, config, seed=seed, init=init)
    settings = {"model": asdict(model), name: asdict(config), "predict": asdict(predict), "seed": seed}
    started = None if init is None else _sha256(init)
    inputs = {"data": {key: own.fingerprint() for key, own in data.items()}, "init": started}
    folder, resolved = run_folder(project / "data" / "06_models" / name, settings, inputs, compute)
    network.to(resolved.device)
    if not resolved.is_sharded:  # FSDP2 takes contiguous weights alone
        network.to(memory_format=torch.channels_last)
    trained = copy.deepcopy(network).cpu() if resolved.is_sharded else network  # a network of whole weights
    method = DetectorTraining(network, data, config, resolved, seed=seed, cache_mb=compute.cache_mb)
    state = fit(
        method,
        config.loop(),
        name=name,
        seed=seed,
        folder=folder / "checkpoints",
        validate=validator(data, config, predict, resolved),
        score_name="val_map50",
        log=log,
        read_threads=compute.read_threads,
        read_processes=compute.read_processes,
        pin=resolved.device.type == "cuda",
        group=resolved.group,
        profile_steps=compute.profile_steps,
    )
    if not resolved.group.is_first:
        return TrainResult({}, state.history)
    trained.load_state_dict(state.best_weights)
    facts = {key: {"classes": list(own.classes), "statistics": own.statistics.to_dict()} for key, own in data.items()}
    save_model(trained, folder / "model.safetensors", metadata={"datasets": facts, "magnify": config.magnify})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the run is over: the next one starts afresh
    pointer = make_pointer(
        folder / "model.safetensors",
        root=project,
        step=state.best_step,
        config=json.loads(json.dumps({**settings, "precision": resolved.precision})),
        seed=seed,
        val_map50=state.best_score if math.isfinite(state.best_score) else None,
        selected_on="val" if any(own.split("val") for own in data.values()) else "last",
        steps_total=config.steps,
        windows_seen=config.steps * config.batch_size * len(data),
        init=None if init is None else {"sha256": started},
        resumed_from=state.resumed_from,
    )
    return TrainResult(pointer, state.history)


def start_detector(
    data: Mapping[str, DetectionData], model: ModelConfig, config: DetectorConfig, *, seed: int, init: Path | None
) -> Detector:
    """The network before its first step, its encoder from `init` where that is given.

    Raises:
        ValueError: data sets of other bands, or weights of another encoder.
    """
    bands = {name: len(own.statistics.bands) for name, own in data.items()}
    if len(set(bands.values())) > 1:
        raise ValueError(f"detection: data sets that train jointly need as many bands each, got {bands}")
    torch.manual_seed(seed_of(seed, "init", 0))
    network = create_multi_detector(
        model.encoder,
        datasets={name: len(own.classes) for name, own in data.items()},
        part_features=config.part_features if len(data) > 1 and model.encoder.startswith("s5_vit") else 0,
        head=config.head,
        bands=next(iter(bands.values())),
        channels=config.channels,
        head_convs=config.head_convs,
        hidden=config.hidden,
        anchor_scale=config.anchor_scale,
        proposals=config.proposals,
        drop_path=model.drop_path,
        encoder_weights=model.encoder_weights,
        image_size=model.image_size,
        encoder_options=model.encoder_options,
        checkpointing=model.checkpointing,
    )
    if init is not None:
        trained, _ = load_model(init)
        try:
            network.start_encoder_from(trained.encoder)
        except RuntimeError as error:
            raise ValueError(
                f"{init}: its encoder {trained.encoder.name!r} does not fit {model.encoder!r} with "
                f"{next(iter(bands.values()))} bands; set model.encoder to that of the weights"
            ) from error
    return network


def validator(
    data: Mapping[str, DetectionData], config: DetectorConfig, predict: PredictConfig, compute: Compute
) -> Callable[[nn.Module], float] | None:
    """mAP50 on the val scenes in percent, the mean over the data sets; None where none has an object there."""
    judged = {name: own for name, own in data.items() if any(len(s.annotations) for s in own.split("val"))}
    if not judged:
        return None

    def score(network: nn.Module) -> float:
        assert isinstance(network, Detector)
        return float(
            np.mean([_val_map50(network, name, own, config, predict, compute) for name, own in judged.items()])
        )

    return score


def _val_map50(
    network: Detector, name: str, data: DetectionData, config: DetectorConfig, predict: PredictConfig, compute: Compute
) -> float:
    scenes, normalizer = data.split("val"), Normalizer(data.statistics, compute.device)
    found = {
        scene.image: detect_scene(
            network, scene, data.classes, normalizer, predict, compute,
            magnify=config.magnify, bands=len(data.statistics.bands), dataset=name,
        )
        for scene in scenes
    }  # fmt: skip
    value = evaluate(found, {scene.image: scene.annotations for scene in scenes}, data.classes, 0.5, "area")["map"]
    return 0.0 if value is None else 100 * float(np.float64(value))


def _sha256(path: Path) -> str:
    from s5.files import sha256_of

    return sha256_of(path)
