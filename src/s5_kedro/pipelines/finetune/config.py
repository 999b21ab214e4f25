"""Where fine-tuning starts, and how it goes on."""

from __future__ import annotations

from dataclasses import dataclass

from s5.finetuning import FinetuneConfig


@dataclass(frozen=True)
class FinetuneParameters(FinetuneConfig):
    """The `finetune` parameter group; what is not listed here is in `s5.finetuning.FinetuneConfig`.

    Args:
        init: A model pointer (.json) or a weight file (.safetensors, .pth) to start from; None is the catalog's
            `s4p_model`.
    """

    init: str | None = None
