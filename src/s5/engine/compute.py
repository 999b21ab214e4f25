"""Device and precision: read from the hardware, never timed, and stored with the run."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from s5.engine.group import ALONE, Group, joined_group

PRECISIONS = ("fp32", "bf16", "fp16")
SHARDINGS = ("ddp", "fsdp")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how a network runs.

    Args:
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: ``"auto"`` takes bf16 where the hardware reports fast bf16 (AMX, Ampere and later), fp16 with a
            gradient scaler on older GPUs, else fp32.
        threads: CPU threads for PyTorch; 0 leaves PyTorch's own choice, or shares the cores among the processes.
        backend: What scores tiles: ``"local"``, this process, or ``"ray"``, `devices` processes of a Ray cluster.
        ray_address: Of the cluster, such as ``"auto"`` or ``"ray://head:10001"``; None starts Ray on this machine.
        cache_mb: Memory for decoded tiles of one reader, in MiB.
        part: Which part of the work this process does, such as ``"3/16"``, where it is done in parts; None does all.
        read_threads: Threads that read the tiles of training steps ahead.
        read_processes: Processes that do it instead, each with a cache of `cache_mb`; 0 leaves it to the threads.
        accumulate: Parts in which a process computes its share of a batch, one after another: less memory, the same
            batch. Batch norm sees one part at a time.
        devices: Processes on each host: GPUs, or parts of a CPU.
        hosts: How many hosts train together. The others join with ``torchrun -m s5.engine.worker``.
        rendezvous: ``HOST:PORT`` where the hosts meet; None on one host.
        restarts: How often training starts again from its last checkpoint after a process died.
        sharding: ``"ddp"``, or ``"fsdp"`` (FSDP2) for networks whose weights, gradients and moments are too much for
            one device.
        tf32: TF32 for what stays in fp32 on GPUs.
        compile: `torch.compile` of the network that learns.
        profile_steps: Steps of each training stage that `torch.profiler` records, after the first ten; 0 for none.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    part: str | None = None
    backend: str = "local"
    ray_address: str | None = None
    cache_mb: int = 256
    read_threads: int = 1
    read_processes: int = 0
    accumulate: int = 1
    devices: int = 1
    hosts: int = 1
    rendezvous: str | None = None
    restarts: int = 0
    sharding: str = "ddp"
    tf32: bool = True
    compile: bool = False
    profile_steps: int = 0

    @property
    def processes(self) -> int:
        return self.devices * self.hosts

    def __post_init__(self) -> None:
        if self.sharding not in SHARDINGS:
            raise ValueError(f"compute.sharding: expected one of {SHARDINGS}, got {self.sharding!r}")
        if self.hosts > 1 and not self.rendezvous:
            raise ValueError(
                f"compute.rendezvous: {self.hosts} hosts must meet somewhere; expected HOST:PORT of the first one"
            )
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"compute.precision: expected one of {('auto', *PRECISIONS)}, got {self.precision!r}")
        share_of(self.part)
        if self.backend not in ("local", "ray"):
            raise ValueError(f"compute.backend: expected 'local' or 'ray', got {self.backend!r}")
        if self.device != "auto" and self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"compute.device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {self.device!r}")
        for name in ("threads", "cache_mb", "read_processes", "restarts", "profile_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"compute.{name}: expected a whole number of at least 0, got {value!r}")
        for name in ("read_threads", "accumulate", "devices", "hosts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"compute.{name}: expected a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Compute:
    """A resolved `ComputeConfig`: what this process takes."""

    device: torch.device
    precision: str
    group: Group = ALONE
    accumulate: int = 1
    sharding: str = "ddp"
    compile: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds but a part of the weights."""
        return self.sharding == "fsdp" and self.group.size > 1

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        dtype = _DTYPES.get(self.precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype, enabled=self.precision in _DTYPES)

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Move a batch, without waiting for it where the device allows that."""
        return tensor.to(self.device, non_blocking=True)


def resolve_compute(config: ComputeConfig) -> Compute:
    """Choose device and precision for this machine.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and torch.cuda.is_available():
        wanted = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"compute.device: {config.device!r} was asked for but this machine has no GPU; use 'auto'")
    group = joined_group()
    if config.threads:
        torch.set_num_threads(config.threads)
    elif group.size > 1 and device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.devices))
    if device.type == "cpu":
        _keep_freed_memory()
    else:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = config.tf32
    precision = config.precision
    if precision == "auto":
        slow = "fp16" if device.type == "cuda" else "fp32"
        precision = "bf16" if has_fast_bf16(device) else slow
    return Compute(device, precision, group, config.accumulate, config.sharding, config.compile)


def release_freed_memory() -> None:
    """Give back to the system what this process freed and keeps for its next step (see `resolve_compute`)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware reports fast bf16: AMX on a CPU, compute capability 8 or more on a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text(encoding="utf-8", errors="replace")


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next step, instead of asking the kernel for the same pages again.

    Without this a training step on a CPU spends up to half its time in page faults (docs/results.md). All threads share
    one arena, so that what one of them has freed serves the others too. Other platforms and C libraries are left as
    they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold, arena_max = -1, -2, -3, -8  # malloc.h
    options = ((mmap_threshold, 32 << 20), (trim_threshold, 1 << 30), (top_pad, 64 << 20), (arena_max, 1))
    for option, value in options:
        mallopt(option, value)


def share_of(part: str | None) -> tuple[int, int]:
    """Which share of the work ``compute.part`` stands for: ``"3/16"`` is (2, 16), None is (0, 1).

    Raises:
        ValueError: it is no such part.
    """
    if part is None:
        return 0, 1
    number, _, of = str(part).partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError(f"compute.part: expected a part such as 3/16, from 1/16 to 16/16, got {part!r}")
    return int(number) - 1, int(of)
