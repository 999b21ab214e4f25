"""Libraries of the extra `s5[vlm]` and their models, imported when a grounder needs them and not before."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from s5.purification.grounding import GroundingConfig


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


def load_model(name: str, config: GroundingConfig) -> Any:
    """A model of transformers in eval mode, in the precision that is wanted.

    Raises:
        ImportError: transformers, or bitsandbytes for 4 bits, is not installed.
    """
    transformers = vision_language_library("transformers")
    kind = getattr(transformers, name)
    if config.precision == "4bit":
        quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
        model = kind.from_pretrained(config.model, quantization_config=quantization, device_map=config.torch_device)
        return model.eval()
    return kind.from_pretrained(config.model, dtype=config.dtype).to(config.torch_device).eval()
