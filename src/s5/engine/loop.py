"""The training loop. It knows no algorithm: a method hands it a step."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from s5.data.loader import Batch, read_ahead
from s5.engine.checkpoint import load_last_checkpoint, save_checkpoint
from s5.progress import progress
from s5.seeds import seed_of
from s5.types import LogFn, log_nothing

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM); its checkpoint is on disk and the same command goes on from it."""


class Method(Protocol):
    """An algorithm, as the loop sees it."""

    def read(self, step: int) -> tuple[Batch, ...]:
        """The batches of `step`, read on a thread ahead of time; must depend on the step alone."""
        ...

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        """One optimiser step. Returns scalars on the device, which the loop reads only now and then."""
        ...

    def evaluated(self) -> nn.Module:
        """The network that is validated and kept."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Look at the last rows of the history; the place for warnings."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How long, and how often what happens.

    Args:
        steps: Optimiser steps.
        validate_every: Steps between validations; 0 validates never.
        checkpoint_every: Steps between checkpoints; 0 writes only on interruption.
        keep: Checkpoints kept.
        log_every: Steps between reads of the losses from the device.
    """

    steps: int
    validate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    log_every: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps: expected a whole number of at least 1, got {self.steps!r}")
        for name in ("validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}: expected a whole number of at least 0, got {value!r}")
        for name in ("keep", "log_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


@dataclass
class FitState:
    """What the loop knows beside the method: its history, the best weights so far and where it was resumed."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_score: float = float("-inf")
    best_step: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    resumed_from: list[int] = field(default_factory=list)


def fit(
    method: Method,
    config: LoopConfig,
    *,
    name: str,
    seed: int,
    folder: Path,
    validate: Callable[[nn.Module], float] | None = None,
    log: LogFn = log_nothing,
) -> FitState:
    """Run `method` for `config.steps` steps, going on from the last whole checkpoint in `folder`.

    The weights kept are those with the highest `validate` score, or the last ones without it.

    Args:
        name: What the bar is called.
        seed: Seeds the global generators anew at every step, so that dropout too belongs to the step.
        folder: Where checkpoints lie.
        validate: Score of a network, higher is better.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written first.
        FloatingPointError: a loss is not finite.
    """
    state, start = FitState(), 0
    last = load_last_checkpoint(folder)
    if last is not None:
        start, saved = last
        method.load_state_dict(saved["method"])
        state = FitState(**saved["fit"])
        state.resumed_from.append(start)
        logger.info("%s: going on from step %d of %d.", name, start, config.steps)
    pending: list[tuple[int, Mapping[str, torch.Tensor]]] = []
    with _stop_requested() as stop:
        batches = enumerate(read_ahead(method.read, range(start, config.steps), depth=2), start)
        for step, read in progress(batches, name, initial=start, total=config.steps):
            torch.manual_seed(seed_of(seed, f"{name}/global", step))
            pending.append((step, method.step(step, read)))
            done = step + 1
            validating = validate is not None and (
                done == config.steps or (config.validate_every > 0 and done % config.validate_every == 0)
            )
            due = config.checkpoint_every > 0 and done % config.checkpoint_every == 0 and done < config.steps
            if validating or due or done == config.steps or done % config.log_every == 0 or stop.is_set():
                rows = _read_rows(pending, name)
                pending.clear()
                if validating and validate is not None:
                    rows[-1]["val_miou"] = _keep_best(method.evaluated(), validate, state, done)
                state.history.extend(rows)
                for row in rows:
                    log({k: v for k, v in row.items() if k != "step"}, int(row["step"]))
                method.on_log(state.history)
            if due or stop.is_set():
                save_checkpoint(folder, done, {"method": method.state_dict(), "fit": vars(state)}, keep=config.keep)
            if stop.is_set():
                raise Interrupted(f"{name} was stopped after step {done} of {config.steps}; run again to go on from it")
    if validate is None:
        state.best_step, state.best_weights = config.steps, _weights(method.evaluated())
    return state


def run_key(**inputs: Any) -> str:
    """A short hash of everything that a run's result depends on: the same command finds its own checkpoints."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _keep_best(model: nn.Module, validate: Callable[[nn.Module], float], state: FitState, step: int) -> float:
    score = validate(model)
    if score > state.best_score:
        state.best_score, state.best_step, state.best_weights = score, step, _weights(model)
    return score


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _read_rows(pending: list[tuple[int, Mapping[str, torch.Tensor]]], name: str) -> list[dict[str, float]]:
    """Read all waiting scalars in one transfer."""
    keys = sorted({key for _, metrics in pending for key in metrics})
    stacked = torch.stack([torch.stack([m[k].detach().float() for k in keys]) for _, m in pending]).tolist()
    rows = [
        {"step": float(step), **dict(zip(keys, values, strict=True))}
        for (step, _), values in zip(pending, stacked, strict=True)
    ]
    for row in rows:
        if not torch.isfinite(torch.tensor(row["loss"])):
            raise FloatingPointError(
                f"{name}: the loss is {row['loss']} at step {int(row['step'])}; "
                "lower optimizer.lr, set optimizer.clip_norm, or take compute.precision=fp32"
            )
    return rows


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Set an event on SIGINT or SIGTERM instead of dying in the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
