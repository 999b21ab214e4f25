"""Libraries of the extra `s5[vlm]`, imported when a grounder needs them and not before."""

from __future__ import annotations

import importlib
from typing import Any


def vision_language_library(name: str) -> Any:
    """The module ``transformers`` or ``open_clip``.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"this grounder needs the library {name!r}, which is not installed; run: pip install 's5[vlm]'"
        ) from error
