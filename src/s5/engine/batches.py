"""Which images of a step's batch a process computes, and in which parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from s5.data.loader import Batch, StepSampler
from s5.engine.compute import Compute

T = TypeVar("T")


@dataclass(frozen=True)
class BatchPlaces:
    """The places of a process in a step's whole batch, cut into the parts that are computed one after another.

    Args:
        whole: Images of the whole batch, over all processes.
        own: Places of this process.
        parts: The same places, part by part.
    """

    whole: int
    own: range
    parts: tuple[range, ...]

    @classmethod
    def of(cls, whole: int, compute: Compute, name: str) -> BatchPlaces:
        """Args: name: the parameter that `whole` comes from, for the error.

        Raises:
            ValueError: the batch cannot be shared out evenly.
        """
        shares = compute.group.size * compute.accumulate
        if whole % shares:
            raise ValueError(
                f"{name}: a batch of {whole} cannot be shared out evenly over {compute.group.size} process(es) in "
                f"{compute.accumulate} part(s) each; take a multiple of {shares}, or change compute.accumulate"
            )
        size = whole // shares
        first = compute.group.rank * compute.accumulate * size
        parts = tuple(range(first + part * size, first + (part + 1) * size) for part in range(compute.accumulate))
        return cls(whole, range(first, first + compute.accumulate * size), parts)

    def own_of(self, items: list[T]) -> list[T]:
        """Of a whole batch's items those of this process."""
        return items[self.own.start : self.own.stop]

    def part_of(self, batch: Batch, part: range) -> Batch:
        """Of this process's batch the images at the places of `part`."""
        start, stop = part.start - self.own.start, part.stop - self.own.start
        return Batch(
            batch.images[start:stop], batch.masks[start:stop], batch.valid[start:stop], batch.indices[start:stop]
        )


@dataclass(frozen=True)
class OwnTiles:
    """Which tiles of a step a process reads."""

    sampler: StepSampler
    places: BatchPlaces

    def __call__(self, step: int) -> list[int]:
        return self.places.own_of(self.sampler.indices(step))
