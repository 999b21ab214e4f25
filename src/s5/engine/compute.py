"""Device and precision: read from the hardware, never timed, and stored with the run."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how a network runs.

    Args:
        device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: ``"auto"`` takes bf16 where the hardware reports fast bf16 (AMX, Ampere and later), else fp32.
        threads: CPU threads for PyTorch; 0 leaves PyTorch's own choice.
        cache_mb: Memory for decoded tiles of one reader, in MiB.
        read_threads: Threads that read the tiles of training steps ahead.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    cache_mb: int = 256
    read_threads: int = 1

    def __post_init__(self) -> None:
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"compute.precision: expected one of {('auto', *PRECISIONS)}, got {self.precision!r}")
        if self.device != "auto" and self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"compute.device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {self.device!r}")
        for name in ("threads", "cache_mb"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"compute.{name}: expected a whole number of at least 0, got {value!r}")
        if not isinstance(self.read_threads, int) or self.read_threads < 1:
            raise ValueError(f"compute.read_threads: expected a whole number of at least 1, got {self.read_threads!r}")


@dataclass(frozen=True)
class Compute:
    """A resolved `ComputeConfig`: what this process takes."""

    device: torch.device
    precision: str

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

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
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"compute.device: {config.device!r} was asked for but this machine has no GPU; use 'auto'")
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    return Compute(device, precision)


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

    Without this a training step on a CPU spends up to half its time in page faults (docs/results.md). Other
    platforms and C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    for option, value in ((mmap_threshold, 32 << 20), (trim_threshold, 1 << 30), (top_pad, 64 << 20)):
        mallopt(option, value)
