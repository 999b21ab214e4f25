"""Which data sets are trained on, in which modes, over how many seeds, and from what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s5.finetuning import MODES, MultiConfig
from s5_kedro.cards import dataset_entries


@dataclass(frozen=True)
class MultiFinetuneConfig:
    """The `multi_finetune` parameter group.

    Args:
        datasets: As `s5_kedro.cards.dataset_entries` reads them.
        mode: ``sdf``, ``mdf`` or ``moe``, or several joined by ``+``, since the command line takes no lists.
        seeds: Number of seeds: `seed`, `seed` + 1, ...
        init: A pointer (.json) or weights (.safetensors) to start from, or the name of a trained model of the catalog;
            None starts at random, or from ``model.encoder_weights``.
        like: What added data sets are copied from: the name of a data set of `init`, or the file of a dense network.
        split: Which split the models are measured on.
        train: The training.
    """

    datasets: Any = field(default_factory=dict)
    mode: str = "mdf"
    seeds: int = 1
    init: str | None = None
    like: str | None = None
    split: str = "test"
    train: MultiConfig = field(default_factory=MultiConfig)

    def __post_init__(self) -> None:
        names = self.modes()
        if not set(names) <= set(MODES) or len(set(names)) < len(names):
            raise ValueError(
                f"multi_finetune.mode: expected {', '.join(MODES)}, or some joined by +, got {self.mode!r}"
            )
        if not isinstance(self.seeds, int) or isinstance(self.seeds, bool) or self.seeds < 1:
            raise ValueError(f"multi_finetune.seeds: expected a whole number of at least 1, got {self.seeds!r}")
        if self.split not in ("test", "val", "labeled"):
            raise ValueError(f"multi_finetune.split: expected test, val or labeled, got {self.split!r}")
        dataset_entries(self.datasets)

    def modes(self) -> list[str]:
        return [name.strip() for name in self.mode.split("+")]
