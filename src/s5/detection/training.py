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

from s5.data.loader import Batch, StepReader, StepSampler
from s5.data.transforms import Normalizer, PhotometryConfig, augment_some
from s5.detection.assignment import Targets, detection_loss
from s5.detection.augmentation import BoxGeometryConfig, augment_boxes
from s5.detection.boxes import from_corners
from s5.detection.detector import RotatedFCOS, create_detector
from s5.detection.evaluation import evaluate
from s5.detection.prediction import PredictConfig, detect_scene
from s5.detection.scenes import DetectionData, Scene, scene_windows
from s5.detection.splitting import crop_annotations
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
        channels: Width of pyramid and towers.
        head_convs: Convolutions in each tower.
        magnify: The network's pixels for one of the scene's: small objects need larger ones.
        steps: Optimiser steps.
        batch_size: Windows a step.
        window: Side of the windows that training scenes are cut into, in pixels of the scene.
        overlap: Of neighbouring windows, in pixels.
        object_share: Share of a batch that is drawn from the windows with an object; the rest is drawn from all.
        ema_decay: Decay of the averaged weights, which are validated and kept; in [0, 1).
        photometry: Probability that a window also gets the strong colour augmentation.
        validate_every, checkpoint_every, log_every: Steps; 0 never validates, or writes checkpoints only when stopped.
        keep: Checkpoints kept, beside that of the best validation.
    """

    channels: int = 64
    head_convs: int = 2
    magnify: float = 2.0
    steps: int = 600
    batch_size: int = 8
    window: int = 192
    overlap: int = 64
    object_share: float = 0.75
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
        for name in ("channels", "head_convs", "batch_size", "window"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if not isinstance(self.overlap, int) or not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap: expected 0..window - 1 ({self.window - 1}), got {self.overlap!r}")
        if not 0 < self.magnify <= 16:
            raise ValueError(f"magnify: expected a factor in (0, 16], got {self.magnify!r}")
        for name in ("object_share", "photometry"):
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
    """Batches of augmented windows and the detection loss: a `s5.engine.Method`."""

    def __init__(
        self,
        model: RotatedFCOS,
        data: DetectionData,
        config: DetectorConfig,
        compute: Compute,
        *,
        seed: int,
        cache_mb: int,
    ) -> None:
        self.config, self.compute, self.seed = config, compute, seed
        self.windows = TrainingWindows(data, config, cache_mb=cache_mb)
        self._normalizer = Normalizer(data.statistics, compute.device)
        with_objects = self.windows.with_objects()
        drawn = round(config.object_share * config.batch_size) if with_objects else 0
        pools = tuple(
            (pool, StepSampler(len(pool), number, seed=seed, stream=f"detector/{name}"))
            for name, pool, number in (
                ("objects", with_objects, drawn),
                ("all", list(range(len(self.windows))), config.batch_size - drawn),
            )
            if number > 0
        )
        self._places = BatchPlaces.of(config.batch_size, compute, "detection.train.batch_size")
        self.read = StepReader(((self.windows.reader, _OwnWindows(pools, self._places)),))
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=False, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        parts, found = self._places.parts, []
        for part in parts:
            with self.learner.part(last=part is parts[-1]):
                losses = self._losses(step, self._places.part_of(batches[0], part), part)
                self.learner.backward(losses["loss"] / len(parts))
            found.append({name: loss.detach() for name, loss in losses.items()})
        means = {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}
        return {**means, "lr": self.learner.update(step)}

    def _losses(self, step: int, batch: Batch, places: range) -> dict[str, Tensor]:
        drawn = step_draws(self.seed, "detector/augment", step, (places, self._places.whole))
        images, targets = self._augment(batch, drawn)
        network = self.learner.network.train()
        with self.compute.autocast():
            logits, codes = network(images)
        centres, strides = self.learner.model.locations(images.shape[-2], images.shape[-1], images.device)
        return detection_loss(logits, codes, centres, strides, targets, self.compute.group.pool)

    def _augment(self, batch: Batch, drawn: Draws) -> tuple[Tensor, Targets]:
        boxes, labels = zip(*(self.windows.objects(i) for i in batch.indices), strict=True)
        images, valid, boxes_out, labels_out = augment_boxes(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.valid),
            boxes,
            labels,
            self.config.augmentation,
            magnify=self.config.magnify,
            drawn=drawn,
        )
        scaled = augment_some(self._normalizer.scale(images), self.config.strong, self.config.photometry, drawn)
        return self._normalizer.ready(scaled), self._targets(valid, boxes_out, labels_out)

    def _targets(self, valid: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Targets:
        most, device = max(len(one) for one in boxes), valid.device
        padded = torch.ones(len(boxes), most, 5)
        names, real = torch.full((len(boxes), most), -1), torch.zeros(len(boxes), most, dtype=torch.bool)
        for place, (own, own_labels) in enumerate(zip(boxes, labels, strict=True)):
            padded[place, : len(own)], names[place, : len(own)], real[place, : len(own)] = own, own_labels, True
        centres, _ = self.learner.model.locations(valid.shape[-2], valid.shape[-1], device)
        column, row = (centres[:, i].long().clamp(max=valid.shape[-1 - i] - 1) for i in (0, 1))
        return Targets(padded.to(device), names.to(device), real.to(device), valid[:, row, column])

    def evaluated(self) -> RotatedFCOS:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Nothing to warn of."""

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)


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
    data: DetectionData,
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
    """Train a detector; the weights kept have the best mAP50 on ``val``, or are the last without it.

    Args:
        model: Its encoder is the detector's; its decoder is not used.
        name: The stage; weights go to ``<project>/data/06_models/<name>/<run key>/model.safetensors``.
        init: Weights of a segmentation network of this project, such as an S4P model's, whose encoder is taken.

    Raises:
        ValueError: no scene to learn from, or weights of another encoder.
        Interrupted: the process was asked to stop; run again to go on.
    """
    network = start_detector(data, model, config, seed=seed, init=init)
    settings = {"model": asdict(model), name: asdict(config), "predict": asdict(predict), "seed": seed}
    started = None if init is None else _sha256(init)
    folder, resolved = run_folder(
        project / "data" / "06_models" / name, settings, {"data": data.fingerprint(), "init": started}, compute
    )
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
    metadata = {"classes": list(data.classes), "statistics": data.statistics.to_dict(), "magnify": config.magnify}
    save_model(trained, folder / "model.safetensors", metadata=metadata)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the run is over: the next one starts afresh
    pointer = make_pointer(
        folder / "model.safetensors",
        root=project,
        step=state.best_step,
        config=json.loads(json.dumps({**settings, "precision": resolved.precision})),
        seed=seed,
        val_map50=state.best_score if math.isfinite(state.best_score) else None,
        selected_on="val" if data.split("val") else "last",
        steps_total=config.steps,
        windows_seen=config.steps * config.batch_size,
        init=None if init is None else {"sha256": started},
        resumed_from=state.resumed_from,
    )
    return TrainResult(pointer, state.history)


def start_detector(
    data: DetectionData, model: ModelConfig, config: DetectorConfig, *, seed: int, init: Path | None
) -> RotatedFCOS:
    """The network before its first step, its encoder from `init` where that is given."""
    torch.manual_seed(seed_of(seed, "init", 0))
    network = create_detector(
        model.encoder,
        classes=len(data.classes),
        bands=len(data.statistics.bands),
        channels=config.channels,
        head_convs=config.head_convs,
        drop_path=model.drop_path,
        encoder_weights=model.encoder_weights,
        image_size=model.image_size,
        encoder_options=model.encoder_options,
        checkpointing=model.checkpointing,
    )
    if init is not None:
        trained, _ = load_model(init)
        try:
            network.encoder.load_state_dict(trained.encoder.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"{init}: its encoder {trained.encoder.name!r} does not fit {model.encoder!r} with "
                f"{len(data.statistics.bands)} bands; set model.encoder to that of the weights"
            ) from error
    return network


def validator(
    data: DetectionData, config: DetectorConfig, predict: PredictConfig, compute: Compute
) -> Callable[[nn.Module], float] | None:
    """mAP50 on the val scenes in percent; None where there are none with an object."""
    scenes = data.split("val")
    if not any(len(scene.annotations) for scene in scenes):
        return None
    normalizer = Normalizer(data.statistics, compute.device)

    def score(network: nn.Module) -> float:
        assert isinstance(network, RotatedFCOS)
        found = {
            scene.image: detect_scene(
                network, scene, data.classes, normalizer, predict, compute,
                magnify=config.magnify, bands=len(data.statistics.bands),
            )
            for scene in scenes
        }  # fmt: skip
        truth = {scene.image: scene.annotations for scene in scenes}
        value = evaluate(found, truth, data.classes, 0.5, "area")["map"]
        return 0.0 if value is None else 100 * float(np.float64(value))

    return score


def _sha256(path: Path) -> str:
    from s5.files import sha256_of

    return sha256_of(path)
