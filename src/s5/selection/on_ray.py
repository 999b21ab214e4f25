"""Scoring on a Ray cluster: Ray Data hands the numbers of parts to copies of the one scorer."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s5.selection.parts import PartScorer


@dataclass(frozen=True)
class RayBackend:
    """Calls a `PartScorer` in processes of Ray; needs the extra ``s5[ray]``.

    Every machine of the cluster must have this library, and see the tiles and the folder of the parts under the same
    paths. A part that is lost with its machine is scored again by another.

    Args:
        scorers: How many run at a time.
        threads: CPU threads of each.
        on_gpu: Whether each takes a GPU of its own.
        address: Of the cluster, such as ``"auto"`` or ``"ray://head:10001"``; None starts Ray on this machine and
            stops it at the end.
    """

    scorers: int = 1
    threads: int = 1
    on_gpu: bool = False
    address: str | None = None

    def __call__(self, scorer: PartScorer, numbers: Sequence[int]) -> None:
        """Score the parts of these numbers.

        Raises:
            ImportError: the extra is not installed.
            ConnectionError: there is no cluster at the address.
        """
        ray = import_ray()
        own = not ray.is_initialized()
        if own:
            self._start(ray)
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            scorer.model.cpu()  # a tensor of a GPU would need that GPU everywhere
            parts = ray.data.from_items([{"part": number} for number in numbers], override_num_blocks=len(numbers))
            parts.map_batches(
                _Scorer,
                fn_constructor_args=(ray.put(scorer),),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.scorers, len(numbers))),
                num_cpus=self.threads,
                num_gpus=1 if self.on_gpu else None,
            ).materialize()
        finally:
            if own:
                ray.shutdown()

    def _start(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        if self.address is None:
            cpus = self.scorers * self.threads + 1  # one for Ray Data itself
            ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address=self.address, log_to_driver=False)


class _Scorer:
    """What Ray Data makes once in each process, and calls with batches of numbers."""

    def __init__(self, scorer: Any) -> None:
        self._scorer: PartScorer = import_ray().get(scorer)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._scorer([int(number) for number in batch["part"]])
        return batch


def import_ray() -> Any:
    """Ray, with Ray Data.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f"compute.backend: 'ray' needs the extra s5[ray] ({error}); install it with: pip install 's5[ray]', or use "
            "'local'"
        ) from error
