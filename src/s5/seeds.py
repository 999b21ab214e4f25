"""Random draws that belong to a step, not to a process: the same (seed, stream, step) gives the same draws anywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_of(seed: int, stream: str, step: int) -> int:
    """A 63-bit seed for one `step` of one named `stream` of draws."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed: int, stream: str, step: int) -> torch.Generator:
    """A CPU generator for one step; draws are made on the CPU so that every device gets the same ones."""
    return torch.Generator().manual_seed(seed_of(seed, stream, step))


def numpy_generator(seed: int, stream: str, step: int) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, stream, step))
