"""What of a network is trained: all of it, what follows the encoder, the classifier alone, or low-rank adapters."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from s5.models import SegmentationModel
from s5.models.lora import add_lora

_FROZEN: dict[str, tuple[str, ...]] = {
    "all": (),
    "decoder": ("encoder",),
    "head": ("encoder", "neck", "decoder"),
    "lora": ("encoder",),
}


@dataclass(frozen=True)
class TuneConfig:
    """What is trained.

    Args:
        what: ``"all"``; ``"decoder"``, all but the encoder; ``"head"``, the last convolution alone (a linear probe);
            ``"lora"``, as ``"decoder"`` with low-rank adapters on the encoder's attention (Hu et al., ICLR 2022).
        lora_rank: Rank of the adapters.
        lora_alpha: The adapters' update counts lora_alpha / lora_rank times.
    """

    what: str = "all"
    lora_rank: int = 8
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.what not in _FROZEN:
            near = difflib.get_close_matches(str(self.what), _FROZEN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"tune.what: expected one of {', '.join(_FROZEN)}, got {self.what!r}{hint}")
        if not isinstance(self.lora_rank, int) or isinstance(self.lora_rank, bool) or self.lora_rank < 1:
            raise ValueError(f"tune.lora_rank: expected a whole number of at least 1, got {self.lora_rank!r}")
        if not self.lora_alpha > 0:
            raise ValueError(f"tune.lora_alpha: expected a positive factor, got {self.lora_alpha!r}")


def apply_tuning(model: SegmentationModel, config: TuneConfig) -> None:
    """Freeze what is not trained, and add the adapters; `s5.models.merge_lora` folds these into the weights again.

    Raises:
        ValueError: adapters for an encoder that has no attention to adapt.
    """
    model.freeze(*_FROZEN[config.what])
    if config.what == "lora":
        add_lora(model.encoder, config.lora_rank, config.lora_alpha)
