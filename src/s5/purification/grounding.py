"""What finds classes in images by their names."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Grounder(Protocol):
    """An image in, evidence of each class out.

    Attributes:
        key: All that its answers depend on: model, version, prompts.
    """

    key: dict[str, str]

    def ground(self, images_BCHW: Tensor) -> Tensor:
        """uint8 RGB images [B, 3, H, W] in; float32 [B, K + 1, h, w] in [0, 1] out, channel K being "unknown"; h and w
        may be smaller than H and W, and cover the same ground."""
        ...
