"""The training loop. It knows no algorithm: a method hands it a step."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from s5.data.loader import Batch, read_ahead, read_in_processes
from s5.engine.checkpoint import Checkpoints
from s5.engine.gauge import Gauge
from s5.engine.group import ALONE, Group
from s5.engine.parallel import gathered
from s5.engine.tracing import tracing
from s5.progress import progress
from s5.seeds import seed_of
from s5.types import LogFn, log_nothing

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM); its checkpoint is on disk and the same command goes on from it."""


class Method(Protocol):
    """An algorithm, as the loop sees it."""

    @property
    def read(self) -> Callable[[int], tuple[Batch, ...]]:
        """Gives the batches of a step, which are read ahead of time, on a thread or, where it is a
        `s5.data.loader.StepReader`, in another process; they depend on the step alone."""
        ...

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        """One optimiser step. Returns scalars on the device, which the loop reads only now and then."""
        ...

    def evaluated(self) -> nn.Module:
        """The network that is validated and kept."""
        ...

    def images_per_step(self) -> int:
        """Over all processes."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers; an operation of all processes."""
        ...

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
        checkpoint_every: Steps between checkpoints; 0 writes only on interruption. Else one is also written after a
            validation that was the best so far.
        keep: Checkpoints kept, beside that of the best validation.
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
    read_threads: int = 1,
    read_processes: int = 0,
    pin: bool = False,
    score_name: str = "val_miou",
    group: Group = ALONE,
    profile_steps: int = 0,
) -> FitState:
    """Run `method` for `config.steps` steps, going on from the last whole checkpoint in `folder`.

    With several processes all of them call this; the first one alone logs, writes checkpoints and keeps the weights.

    The weights kept are those with the highest `validate` score, or the last ones without it. Where the disk is full
    the run goes on without the checkpoint, with a warning.

    Args:
        name: What the bar is called.
        seed: Seeds the global generators anew at every step, so that dropout too belongs to the step.
        folder: Where checkpoints lie.
        validate: Score of a network, higher is better.
        log: Gets every step of the history once and in order; a resumed run begins with those before it, so that a log
            in another process holds all of them. Speed and memory go there too, and nowhere else: a history is the same
            on any machine.
        read_threads: Threads that read batches ahead; the result does not depend on it.
        read_processes: Processes that do it instead, if any.
        pin: Put what they read into page-locked memory.
        score_name: What the score is called in the history.
        group: The processes that train together.
        profile_steps: Steps of which `torch.profiler` writes a trace into the folder ``traces`` beside `folder`.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written first.
        FloatingPointError: a loss is not finite.
        ValueError: the checkpoint is that of another network.
    """
    checkpoints = Checkpoints(folder, keep=config.keep)
    state, start = _resume(method, checkpoints, config, name)
    group.agreed(start, f"{name}: the step of the last checkpoint")
    log = log if group.is_first else log_nothing
    _log_rows(log, state.history)
    pending: list[tuple[int, Mapping[str, torch.Tensor]]] = []
    stream = f"{name}/global" if group.is_first else f"{name}/global/{group.rank}"
    trace = folder.parent / "traces" / f"rank_{group.rank}_step_{start}.json"
    gauge = Gauge(method.images_per_step())
    with _stop_requested() as stop, tracing(profile_steps, trace) as tracer:
        steps = range(start, config.steps)
        if read_processes:
            reading = read_in_processes(method.read, steps, processes=read_processes, pin=pin)
        else:
            reading = read_ahead(method.read, steps, depth=max(2, read_threads), threads=read_threads)
        numbered = enumerate(gauge.waiting(reading), start)
        shown = progress(numbered, name, initial=start, total=config.steps) if group.is_first else numbered
        for step, read in shown:
            torch.manual_seed(seed_of(seed, stream, step))
            pending.append((step, method.step(step, read)))
            tracer.step()
            done = step + 1
            validating = validate is not None and (
                done == config.steps or (config.validate_every > 0 and done % config.validate_every == 0)
            )
            due = config.checkpoint_every > 0 and done % config.checkpoint_every == 0 and done < config.steps
            # asked once: the rows of a checkpoint are read before it is written
            stopping = group.any(stop.is_set())
            if validating or due or done == config.steps or done % config.log_every == 0 or stopping:
                rows = _read_rows(pending, name)
                pending.clear()
                speed = gauge.read()
                began = time.perf_counter()
                if validating and validate is not None:
                    rows[-1][score_name] = _keep_best(method.evaluated(), validate, state, done, group)
                    due = due or (config.checkpoint_every > 0 and state.best_step == done < config.steps)
                state.history.extend(rows)
                _log_rows(log, rows[:-1])
                _log_rows(log, [{**rows[-1], **speed}])
                if group.is_first:
                    method.on_log(state.history)
                gauge.elsewhere(time.perf_counter() - began)
            if due or stopping:
                began = time.perf_counter()
                saved = _save(method, checkpoints, state, done, name, group)
                gauge.elsewhere(time.perf_counter() - began)
            if stopping:
                again = "run again to go on from it" if saved else "no checkpoint of it could be written, see above"
                raise Interrupted(f"{name} was stopped after step {done} of {config.steps}; {again}")
    if validate is None:
        state.best_step, state.best_weights = config.steps, _weights(method.evaluated(), group)
    group.wait()
    return state


def run_key(**inputs: Any) -> str:
    """A short hash of everything that a run's result depends on: the same command finds its own checkpoints."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _resume(method: Method, checkpoints: Checkpoints, config: LoopConfig, name: str) -> tuple[FitState, int]:
    """Bring `method` to where the last whole checkpoint was; a fresh state and step 0 where there is none."""
    last = checkpoints.load_last()
    if last is None:
        return FitState(), 0
    start, saved = last
    try:
        method.load_state_dict(saved["method"])
        state = FitState(**saved["fit"])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        # Whole, so those before it would not fit either; and half of it may be in the network by now.
        why = " ".join(str(error).split())
        raise ValueError(
            f"{checkpoints.folder}/step_{start}: this checkpoint is not of this {name} ({why}); if the code has "
            "changed since, remove the folder to train from the start"
        ) from error
    state.resumed_from.append(start)
    logger.info("%s: going on from step %d of %d.", name, start, config.steps)
    return state, start


def _save(method: Method, checkpoints: Checkpoints, state: FitState, step: int, name: str, group: Group) -> bool:
    """Write a checkpoint; False in all processes, and a warning, where that fails.

    To stop would lose for certain what going on only risks: there may be room at the next checkpoint, and the weights
    at the end are smaller than it.
    """
    content = {"method": method.state_dict(), "fit": vars(state)}
    if not group.is_first:
        return not group.any(False)
    try:
        checkpoints.save(step, content, best=state.best_step or None)
    except OSError as error:
        logger.warning(
            "%s: the checkpoint of step %d could not be written (%s). The run goes on without; free some space: "
            "stopped now, it would go on from step %d.",
            name,
            step,
            error,
            max(checkpoints.steps(), default=0),
        )
        return not group.any(True)
    return not group.any(False)


def _log_rows(log: LogFn, rows: list[dict[str, float]]) -> None:
    for row in rows:
        log({key: value for key, value in row.items() if key != "step"}, int(row["step"]))


def _keep_best(
    model: nn.Module, validate: Callable[[nn.Module], float], state: FitState, step: int, group: Group
) -> float:
    score = validate(model)
    if score > state.best_score:
        state.best_score, state.best_step, state.best_weights = score, step, _weights(model, group)
    return score


def _weights(model: nn.Module, group: Group) -> dict[str, torch.Tensor]:
    """A copy on the CPU, in the first process alone; gathered from all of them where they are sharded."""
    whole = gathered(model.state_dict())
    return {name: value.detach().to("cpu", copy=True) for name, value in whole.items()} if group.is_first else {}


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
