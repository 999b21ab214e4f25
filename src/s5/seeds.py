"""Random draws that belong to a step, not to a process: the same (seed, stream, step) gives the same draws anywhere."""

from __future__ import annotations

import hashlib
import math

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


class Draws:
    """The random draws of one step's images. An image's draws belong to its place in the step's whole batch, so that
    they are the same whichever process computes it, and in however many parts.

    Each call draws for the whole batch and returns the part at hand: parts must make the same calls in the same order.

    Args:
        generator: Of the step, on the CPU.
        places: The part at hand, as positions in the whole batch, and how many images that has; None where the part is
            the whole, whatever its size.
    """

    def __init__(self, generator: torch.Generator, places: tuple[range, int] | None = None) -> None:
        self._generator, self._places = generator, places

    def rand(self, images: int, columns: int) -> torch.Tensor:
        """Float32 [images, columns], uniform in [0, 1)."""
        return self._part(torch.rand(self._whole(images), columns, generator=self._generator))

    def coins(self, images: int, columns: int) -> torch.Tensor:
        """Float32 [images, columns], 0 or 1 at even odds."""
        return self._part(torch.randint(2, (self._whole(images), columns), generator=self._generator).float())

    def some(self, images: int, share: float) -> torch.Tensor:
        """Bool [images]: True for this share of the whole batch, rounded up to whole images."""
        whole = self._whole(images)
        chosen = torch.zeros(whole, dtype=torch.bool)
        kept = torch.randperm(whole, generator=self._generator)[: math.floor(whole * (1 - share))]
        return self._part(chosen.index_fill_(0, kept, True).logical_not())

    def _whole(self, images: int) -> int:
        if self._places is None:
            return images
        part, whole = self._places
        if len(part) != images:
            raise ValueError(f"Draws: the part has {len(part)} of {whole} images, but draws were asked for {images}")
        return whole

    def _part(self, drawn: torch.Tensor) -> torch.Tensor:
        if self._places is None:
            return drawn
        part, _ = self._places
        return drawn[part.start : part.stop]


def step_draws(seed: int, stream: str, step: int, places: tuple[range, int] | None = None) -> Draws:
    """The draws of one step of a stream, for the part of its images at `places`."""
    return Draws(torch_generator(seed, stream, step), places)
