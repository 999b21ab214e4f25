"""Training of a detector on the loop of the project."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from s5.data.loader import Batch, StepReader
from s5.data.transforms import Normalizer
from s5.detection.config import DetectorConfig
from s5.detection.detector import Detector, create_multi_detector
from s5.detection.evaluation import evaluate
from s5.detection.prediction import PredictConfig, detect_scene
from s5.detection.scenes import DetectionData
from s5.detection.windows import WindowSource
from s5.engine import (
    BatchPlaces,
    Compute,
    ComputeConfig,
    Learner,
    OneLearner,
    TrainResult,
    fit,
    launchable,
)
from s5.engine.training import run_folder
from s5.models import ModelConfig, load_model, make_pointer, save_model
from s5.seeds import seed_of, step_draws
from s5.types import LogFn, log_nothing


class DetectorTraining(OneLearner[Detector]):
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
