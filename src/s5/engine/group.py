"""The processes that train one network together. Alone, every operation gives back what it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """This process's place among all of them.

    Args:
        rank: Of this process, from 0 on. The first one writes and logs.
        size: How many there are.
        control: Where flags go round on the CPU, so that no device is waited for; None for the default.
    """

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def pool(self, local: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, with a gradient; every process must come here with the same shape."""
        if self.size == 1:
            return local
        summed: torch.Tensor = _Sum.apply(local)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        return bool(flags.item())

    def agreed(self, value: int, what: str) -> int:
        """`value`, if it is the same in all processes.

        Raises:
            RuntimeError: it is not.
        """
        if self.size == 1:
            return value
        both = torch.tensor([value, -value])
        dist.all_reduce(both, op=dist.ReduceOp.MAX, group=self.control)
        most, least = int(both[0]), -int(both[1])
        if most != least:
            raise RuntimeError(
                f"{what}: the processes found {least} to {most}, expected the same in all; "
                "all hosts must see the same project folder"
            )
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.control)


ALONE = Group()


def joined_group() -> Group:
    """The group that this process has joined (`s5.engine.worker`), or that of one process alone."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    return Group(dist.get_rank(), dist.get_world_size(), _control_group())


_control: list[dist.ProcessGroup] = []  # made once: making one is an operation of all processes


def _control_group() -> dist.ProcessGroup | None:
    if dist.get_backend() == "gloo":
        return None
    if not _control:
        _control.append(dist.new_group(backend="gloo"))  # type: ignore[arg-type]
    return _control[0]


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too, so that every process gets that of the sum of all losses."""

    @staticmethod
    def forward(_context: Any, local: torch.Tensor) -> torch.Tensor:
        summed = local.detach().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed
