"""A dry run: which batch fits into memory, how fast it is, and what a recipe then takes."""

from __future__ import annotations

import gc
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s5.engine.compute import Compute
from s5.engine.loop import Method

logger = logging.getLogger(__name__)

_SPARE = 0.9  # share of the free memory that a step may take: validation and other programs want some


@dataclass(frozen=True)
class PlanConfig:
    """How the dry run is made.

    Args:
        largest: Largest batch that is tried, in images of each kind (labelled and unlabelled).
        steps: Steps that are timed for each batch, after one that warms up.
    """

    largest: int = 64
    steps: int = 3

    def __post_init__(self) -> None:
        for name in ("largest", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"training_plan.{name}: expected a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Trial:
    """One batch that was tried: seconds of a step and MiB it took at most; None where it did not fit."""

    batch_size: int
    seconds: float | None
    memory_mb: float | None


def try_batches(make: Callable[[int], Method], compute: Compute, config: PlanConfig) -> list[Trial]:
    """Steps of growing batches: 1, 2, 4, ... until one does not fit, or is not expected to.

    On a GPU a batch that does not fit is one that runs out of memory. On a CPU no batch is tried of which the last two
    let expect that it takes more than nine tenths of the free memory, since the kernel would kill the process.

    Args:
        make: Makes the method with a batch of this size.
    """
    trials: list[Trial] = []
    size = 1
    while size <= config.largest:
        if compute.device.type == "cpu" and _expected(trials, size) > _SPARE * _free_mb():
            trials.append(Trial(size, None, None))
            break
        try:
            trials.append(_measured(make(size), size, compute, config.steps))
        except torch.OutOfMemoryError:
            trials.append(Trial(size, None, None))
            break
        finally:
            gc.collect()
            if compute.device.type == "cuda":
                torch.cuda.empty_cache()
        logger.info("batch %d: %.2f s a step, %.0f MiB", size, trials[-1].seconds or 0, trials[-1].memory_mb or 0)
        size *= 2
    return trials


def make_plan(
    trials: list[Trial], *, batch_size: int, images_per_step: int, steps: int, pools: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    """What a recipe takes on this machine.

    Args:
        batch_size: The recipe's, for one process.
        images_per_step: Images of all kinds in a step of that batch.
        steps: The recipe's length.
        pools: Name to (tiles there are, tiles of it in a step).

    Returns:
        ``largest_batch`` that fits, ``accumulate`` parts that keep the recipe's batch, ``images_per_s``,
        ``hours``, ``epochs`` over each pool, and the ``trials``.

    Raises:
        ValueError: not even a single image fits.
    """
    fit = [trial for trial in trials if trial.seconds is not None]
    if not fit:
        raise ValueError(
            "training_plan: not even a batch of one fits into memory; take model.checkpointing=true, a smaller crop or "
            "network"
        )
    largest = fit[-1].batch_size
    accumulate = next(
        parts for parts in range(1, batch_size + 1) if batch_size % parts == 0 and batch_size // parts <= largest
    )
    part = batch_size // accumulate
    seconds = accumulate * _seconds_of(fit, part)
    return {
        "batch_size": batch_size,
        "largest_batch": largest,
        "accumulate": accumulate,
        "steps": steps,
        "steps_per_s": 1 / seconds,
        "images_per_s": images_per_step / seconds,
        "hours": steps * seconds / 3600,
        "epochs": {name: steps * each / tiles for name, (tiles, each) in pools.items() if tiles},
        "trials": [vars(trial) for trial in trials],
    }


def plan_text(plan: dict[str, Any]) -> str:
    """The plan for people."""
    lines = [f"{'batch':>8}  {'s a step':>9}  {'MiB':>8}"]
    for trial in plan["trials"]:
        fits = trial["seconds"] is not None
        measured = f"{trial['seconds']:>9.2f}  {trial['memory_mb']:>8.0f}" if fits else "does not fit"
        lines.append(f"{trial['batch_size']:>8}  {measured}")
    epochs = ", ".join(f"{count:.1f} over {name}" for name, count in plan["epochs"].items())
    lines += [
        f"The recipe's batch of {plan['batch_size']} fits with compute.accumulate={plan['accumulate']}",
        f"{plan['steps']} steps, epochs: {epochs}",
        f"{plan['images_per_s']:.1f} images/s, {plan['hours']:.2f} hours on this machine in one process",
    ]
    return "\n".join(lines)


def _measured(method: Method, size: int, compute: Compute, steps: int) -> Trial:
    _start_peak(compute)
    times = []
    for step in range(steps + 1):
        batches = method.read(step)
        began = time.perf_counter()
        method.step(step, batches)
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)
        times.append(time.perf_counter() - began)
    return Trial(size, statistics.median(times[1:]), _peak_mb(compute))


def _seconds_of(fit: list[Trial], part: int) -> float:
    """Of a batch that may lie between two that were tried: by the seconds an image of the next larger one."""
    near = next((trial for trial in fit if trial.batch_size >= part), fit[-1])
    return (near.seconds or math.nan) * part / near.batch_size


def _expected(trials: list[Trial], size: int) -> float:
    """MiB, on the line through the last two trials."""
    known = [trial for trial in trials if trial.memory_mb is not None][-2:]
    if len(known) < 2:
        return 0.0
    (first, second) = known
    slope = ((second.memory_mb or 0) - (first.memory_mb or 0)) / (second.batch_size - first.batch_size)
    return (second.memory_mb or 0) + slope * (size - second.batch_size)


def _start_peak(compute: Compute) -> None:
    if compute.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(compute.device)
        return
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")  # the peak starts anew: man 5 proc


def _peak_mb(compute: Compute) -> float:
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device) / 2**20
    return _status("/proc/self/status", "VmHWM:")


def _free_mb() -> float:
    """What this process may come to take in all: what it has, and what is free."""
    return _status("/proc/meminfo", "MemAvailable:") + _status("/proc/self/status", "VmRSS:")


def _status(file: str, key: str) -> float:
    """MiB; infinite where the system does not tell."""
    path = Path(file)
    if not path.exists():
        return math.inf
    return int(path.read_text(encoding="utf-8").split(key)[1].split()[0]) / 1024
