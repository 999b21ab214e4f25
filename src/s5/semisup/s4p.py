"""S4P: semi-supervised segmentation as pretraining (S5, AAAI 2026) on labelled and selected tiles, by several methods.

What the methods share stands here; what a method does with a step stands in a file of its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from s5.data.loader import Batch, SegmentationData, StepReader, StepSampler, TileSource, count_classes
from s5.data.transforms import Normalizer, augment_geometry, augment_some
from s5.engine import (
    BatchPlaces,
    Compute,
    ComputeConfig,
    Learner,
    OwnTiles,
    TrainingConfig,
    TrainResult,
    launchable,
    train_network,
)
from s5.engine.compute import resolve_compute
from s5.engine.planning import PlanConfig, make_plan, try_batches
from s5.engine.training import start_model
from s5.losses import balanced_weights, labeled_loss
from s5.models import ModelConfig, SegmentationModel
from s5.seeds import Draws, torch_generator
from s5.semisup.collapse import CollapseWatch
from s5.semisup.cutmix import CutMixConfig
from s5.semisup.fixmatch import fixmatch
from s5.semisup.mean_teacher import MeanTeacherConfig, mean_teacher
from s5.semisup.pseudo_labels import PseudoLabelConfig, PseudoLabeler
from s5.semisup.step import ChangeMaps, Step, StepMethod
from s5.semisup.unimatch_v2 import UniMatchV2Config, unimatch_v2
from s5.types import LabelSpace, LogFn, log_nothing

_METHODS = ("fixmatch", "mean_teacher", "unimatch_v2")
_EVERY_PIXEL = PseudoLabelConfig(tau=torch.finfo(torch.float32).tiny)  # no maximum of probabilities lies under it


@dataclass(frozen=True)
class S4PConfig(TrainingConfig):
    """S4P pretraining: what every stage is told, and the unlabelled half.

    Args:
        unlabeled_batch_size: Unlabelled tiles per step.
        method: ``"fixmatch"`` (S5), ``"mean_teacher"`` or ``"unimatch_v2"``; the last two need the teacher ``"ema"``.
        teacher: ``"self"``, the network itself in eval mode (S5), or ``"ema"``, its average (UniMatch V2, SemiEarth).
        lambda_u: Weight of the unlabelled loss: ``loss = (Lx + lambda_u * Lu) / (1 + lambda_u)``; 1 is the papers'.
        rampup: Share of the steps over which lambda_u rises from 0.
        init: What to start from: ``"seed_model"``, a path to a pointer file, or None for a random start.
        pseudo_labels: Which pixels of the teacher's prediction count; for mean teacher all valid ones do.
        mean_teacher, unimatch_v2: What these methods alone are told.
        cutmix: How unlabelled images are mixed.
    """

    unlabeled_batch_size: int = 8
    method: str = "fixmatch"
    teacher: str = "ema"
    lambda_u: float = 1.0
    rampup: float = 0.0
    init: str | None = "seed_model"
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    mean_teacher: MeanTeacherConfig = field(default_factory=MeanTeacherConfig)
    unimatch_v2: UniMatchV2Config = field(default_factory=UniMatchV2Config)
    cutmix: CutMixConfig = field(default_factory=CutMixConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher not in ("self", "ema"):
            raise ValueError(f"teacher: expected 'self' or 'ema', got {self.teacher!r}")
        if self.method not in _METHODS:
            raise ValueError(f"method: expected one of {_METHODS}, got {self.method!r}")
        if self.method != "fixmatch" and self.teacher != "ema":
            raise ValueError(
                f"teacher: expected 'ema' with the method {self.method!r}, got {self.teacher!r}; "
                "set teacher to ema, and ema_decay to the decay of the average"
            )
        self.check_whole("unlabeled_batch_size")
        self.check_share("rampup")
        if self.lambda_u < 0:
            raise ValueError(f"lambda_u: expected a weight of at least 0, got {self.lambda_u!r}")


class S4P:
    """What all methods share, for the loop: a `s5.engine.Method`.

    A step is one teacher pass over the weak view of the unlabelled batch, and one student pass over whatever its method
    makes of that batch, with the labelled one.
    """

    def __init__(
        self,
        model: SegmentationModel,
        labeled: TileSource,
        unlabeled: TileSource,
        normalizer: Normalizer,
        labels: LabelSpace,
        config: S4PConfig,
        compute: Compute,
        *,
        seed: int,
        stream: str = "s4p",
        warm: bool = False,
    ) -> None:
        self.config, self.compute, self.labels = config, compute, labels
        self.seed, self.stream = seed, stream
        self._normalizer = normalizer
        self._labeled_places = BatchPlaces.of(config.batch_size, compute, f"{stream}.batch_size")
        self._unlabeled_places = BatchPlaces.of(config.unlabeled_batch_size, compute, f"{stream}.unlabeled_batch_size")
        pairs = StepSampler(len(labeled), config.batch_size, seed=seed, stream=f"{stream}/labeled")
        alone = StepSampler(len(unlabeled), config.unlabeled_batch_size, seed=seed, stream=f"{stream}/unlabeled")
        self.read = StepReader(
            ((labeled, OwnTiles(pairs, self._labeled_places)), (unlabeled, OwnTiles(alone, self._unlabeled_places)))
        )
        counts = count_classes(labeled, labels.num_classes)
        self._class_weights = balanced_weights(counts.tolist(), config.class_balance).to(compute.device)
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=warm, compute=compute
        )
        counting = _EVERY_PIXEL if config.method == "mean_teacher" else config.pseudo_labels
        self._labeler = PseudoLabeler(counting, labels.num_classes, device=compute.device, pool=compute.group.pool)
        self._method = _step_method(config)
        self._watch = CollapseWatch(labels.classes)

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        labeled, unlabeled = self._labeled_places, self._unlabeled_places
        rows: list[dict[str, torch.Tensor]] = []
        for part_l, part_u in zip(labeled.parts, unlabeled.parts, strict=True):
            generator = torch_generator(self.seed, f"{self.stream}/augment", step)
            with self.learner.part(last=part_l is labeled.parts[-1]):
                row = self._part(
                    step,
                    (labeled.part_of(batches[0], part_l), Draws(generator, (part_l, labeled.whole))),
                    (unlabeled.part_of(batches[1], part_u), Draws(generator, (part_u, unlabeled.whole))),
                )
                self.learner.backward(row["loss"] / len(labeled.parts))
            rows.append({name: value.detach() for name, value in row.items()})
        lr = self.learner.update(step)
        return {name: torch.stack([row[name] for row in rows]).nanmean() for name in rows[0]} | {"lr": lr}

    def _part(self, step: int, labeled: tuple[Batch, Draws], unlabeled: tuple[Batch, Draws]) -> dict[str, torch.Tensor]:
        """One teacher and one student pass; returns the loss, and what is to be logged beside it."""
        config, labels = self.config, self.labels
        images_l, masks, _ = self._weak(*labeled)
        images_l = augment_some(images_l, config.strong, config.photometry, labeled[1])
        images_u, truth, valid = self._weak(*unlabeled)
        teacher_logits = self._teacher_logits(images_u)
        pseudo = self._labeler.label(teacher_logits, valid)
        logits, loss_unlabeled = self._method(
            Step(
                labeled=images_l,
                unlabeled=images_u,
                valid=valid,
                teacher_logits=teacher_logits,
                pseudo=pseudo,
                class_weights=self._class_weights,
                student=self._student,
                pool=self.compute.group.pool,
                photometry=config.strong,
                cutmix=config.cutmix,
                drawn=unlabeled[1],
            )
        )
        loss_labeled = labeled_loss(
            logits,
            masks,
            name=config.labeled_loss,
            ohem=config.ohem,
            ignore_index=labels.ignore_index,
            class_weights=self._class_weights,
            pool=self.compute.group.pool,
        )
        weight = config.lambda_u * (min(1.0, step / (config.rampup * config.steps)) if config.rampup else 1.0)
        loss = (loss_labeled + weight * loss_unlabeled) / (1 + config.lambda_u)
        return {
            "loss": loss,
            "loss_labeled": loss_labeled,
            "loss_unlabeled": loss_unlabeled,
            **self._labeler.metrics(pseudo, valid, truth, labels),
        }

    def _weak(self, batch: Batch, drawn: Draws) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images, masks, valid = augment_geometry(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.masks),
            self.compute.to_device(batch.valid),
            self.config.augmentation,
            ignore_index=self.labels.ignore_index,
            drawn=drawn,
        )
        return self._normalizer.scale(images), masks, valid

    @torch.no_grad()
    def _teacher_logits(self, images: torch.Tensor) -> torch.Tensor:
        teacher = self.learner.ema.average if self.config.teacher == "ema" else self.learner.model.eval()
        with self.compute.autocast():
            logits: torch.Tensor = teacher(self._normalizer.ready(images))
        return logits.float()

    def _student(self, *images: torch.Tensor, change_maps: ChangeMaps | None = None) -> tuple[torch.Tensor, ...]:
        ready = self._normalizer.ready(torch.cat(images))
        with self.compute.autocast():
            logits: torch.Tensor = self.learner.network.train()(ready, change_maps)
        parts: tuple[torch.Tensor, ...] = logits.split([len(batch) for batch in images])
        return parts

    def evaluated(self) -> SegmentationModel:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size + self.config.unlabeled_batch_size

    def on_log(self, rows: list[dict[str, float]]) -> None:
        self._watch.look_at(rows)

    def state_dict(self) -> dict[str, Any]:
        return {**self.learner.state_dict(), "labeler": self._labeler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)
        self._labeler.load_state_dict(state["labeler"])


def _step_method(config: S4PConfig) -> StepMethod:
    if config.method == "mean_teacher":
        return partial(mean_teacher, config=config.mean_teacher)
    return partial(unimatch_v2, config=config.unimatch_v2) if config.method == "unimatch_v2" else fixmatch


@launchable
def pretrain_s4p(
    data: SegmentationData,
    pool_ids: Sequence[str],
    model: ModelConfig,
    config: S4PConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Mapping[str, Any] | None = None,
    log: LogFn = log_nothing,
) -> TrainResult:
    """Train on the labelled tiles and the selected unlabelled ones, by the method that `config` names.

    Args:
        pool_ids: Ids of the selected unlabelled tiles.
        name: The stage; weights go to ``<project>/data/06_models/<name>/<run key>/``.
        init: Pointer to the weights to start from; its steps and labelled images count as seen.

    Raises:
        ValueError: the pool is empty, there are no labelled tiles, or `init` is of another network.
        Interrupted: the process was asked to stop; run again to go on.
    """
    if len(pool_ids) == 0:
        raise ValueError(
            "s4p: the pool of unlabelled tiles is empty; raise diversity_sampling.budget or add unlabelled images"
        )
    labeled, unlabeled = data.split("labeled"), data.tiles(pool_ids)

    def method(network: SegmentationModel, resolved: Compute) -> S4P:
        normalizer = Normalizer(data.statistics, resolved.device)
        return S4P(
            network,
            labeled,
            unlabeled,
            normalizer,
            data.labels,
            config,
            resolved,
            seed=seed,
            stream=name,
            warm=init is not None,
        )

    return train_network(
        method,
        data,
        model,
        config.loop(),
        compute,
        name=name,
        project=project,
        seed=seed,
        init=init,
        settings={"s4p": asdict(config)},
        tune=config.tune,
        labeled_per_step=config.batch_size,
        val_batch_size=config.val_batch_size,
        log=log,
        inputs={"pool": list(pool_ids)},
    )


def plan_s4p(
    data: SegmentationData,
    model: ModelConfig,
    config: S4PConfig,
    compute: ComputeConfig,
    plan: PlanConfig,
    *,
    budget: int,
) -> dict[str, Any]:
    """Which batch of S4P fits here, and what the recipe takes (`s5.engine.planning.make_plan`); nothing is kept.

    Args:
        budget: Tiles that the pool is to have.

    Raises:
        ValueError: not even one image fits, or there are no labelled or unlabelled tiles.
    """
    labeled, unlabeled = data.split("labeled"), data.split("unlabeled")
    resolved = resolve_compute(replace(compute, devices=1, hosts=1, accumulate=1))

    def make(size: int) -> S4P:
        network = start_model(model, data, seed=0, project=Path())
        network.to(resolved.device).to(memory_format=torch.channels_last)
        more = max(1, round(size * config.unlabeled_batch_size / config.batch_size))
        sized = replace(config, batch_size=size, unlabeled_batch_size=more)
        normalizer = Normalizer(data.statistics, resolved.device)
        return S4P(network, labeled, unlabeled, normalizer, data.labels, sized, resolved, seed=0)

    per_step = {"labeled": config.batch_size, "unlabeled": config.unlabeled_batch_size}
    return make_plan(
        try_batches(make, resolved, plan),
        batch_size=max(1, config.batch_size // compute.processes),
        images_per_step=sum(per_step.values()) // compute.processes,
        steps=config.steps,
        pools={
            "labelled tiles": (len(labeled), per_step["labeled"]),
            "the pool": (min(budget, len(unlabeled)), per_step["unlabeled"]),
        },
    )
