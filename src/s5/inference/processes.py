"""The strips of a scene shared out among processes: one for each GPU, or for each part of a CPU."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessException, spawn

from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.inference.blending import BlendGrid
from s5.inference.config import SceneConfig
from s5.inference.predictor import Predictor
from s5.inference.strips import map_strips, strips_of
from s5.types import BandStatistics, Window

if TYPE_CHECKING:
    from s5.geo.cog import Strip


@dataclass(frozen=True)
class StripJob:
    """All that a process needs to map strips.

    Args:
        image: The scene.
        folder: Where the strips lie.
        grid: The windows.
        network: Normalised images to logits.
        statistics: How raw bands are normalised.
        classes: K.
        zoom: Factor from the scene's pixels to the network's.
        config: Batches, threads, views, and what is kept.
    """

    image: str | Path
    folder: Path
    grid: BlendGrid
    network: nn.Module
    statistics: BandStatistics
    classes: int
    zoom: float
    config: SceneConfig

    def run(self, compute: Compute, share: tuple[int, int] = (0, 1)) -> tuple[list[Strip], list[Window]]:
        """`map_strips` in this process."""
        predict = Predictor(self.network, self.statistics, device=compute.device, tta=self.config.tta, zoom=self.zoom)
        return map_strips(
            self.image, self.folder, self.grid, predict, bands=len(self.statistics.bands), classes=self.classes,
            config=self.config, compute=compute, share=share,
        )  # fmt: skip


def run_in_processes(job: StripJob, compute: ComputeConfig, here: Compute) -> tuple[list[Strip], list[Window]]:
    """Map all strips in as many processes as ``compute.devices`` asks for; the same bytes as in one.

    Each takes a run of neighbouring strips. The windows at the seams of the runs are computed by both neighbours.

    Args:
        job: What is mapped.
        compute: Device, precision and number of processes, as asked for.
        here: The same, resolved for this process.

    Returns:
        All strips, from the top down, and the blocks of the scene that could not be read.

    Raises:
        ValueError: there are fewer GPUs than processes.
        OSError: a process failed; what it had done is kept.
    """
    count = min(compute.devices, len(job.grid.strips))
    missing = sum(not strip.path.is_file() for strip in strips_of(job.folder, job.grid))
    if count > 1 and missing > 1:
        _check_gpus(compute, here)
        job.network.cpu()  # a tensor of a GPU would come out on that GPU in every process
        try:
            spawn(_work, (pickle.dumps(job), compute, count), nprocs=count)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(
                f"{job.image}: process {error.error_index + 1} of {count} failed ({reason}); finished strips are kept, "
                "so that the same command goes on from here"
            ) from error
    return job.run(here)


def _work(rank: int, packed: bytes, compute: ComputeConfig, count: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)  # which GPU `resolve_compute` takes
    threads = compute.threads or max(1, (os.cpu_count() or 1) // count)
    job: StripJob = pickle.loads(packed)
    job.run(resolve_compute(replace(compute, threads=threads)), (rank, count))


def _check_gpus(compute: ComputeConfig, here: Compute) -> None:
    found = torch.cuda.device_count()
    if here.device.type == "cuda" and ":" not in compute.device and compute.devices > found:
        raise ValueError(f"compute.devices: {compute.devices} processes were asked for, this machine has {found} GPUs")
