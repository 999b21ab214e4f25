"""CLIPSeg: text to masks, through transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s5.purification.extras import vision_language_library
from s5.purification.grounding import GroundingConfig, grounder_record, with_unknown
from s5.purification.sam import load_model, stacked


class ClipSeg:
    """CLIPSeg (Lüddecke and Ecker, CVPR 2022) asked for each phrasing: a `s5.purification.grounding.Grounder`.

    Evidence is the mask's probability, mean over the phrasings.

    Args:
        model: `CLIPSegForImageSegmentation` of transformers, in eval mode.
        processor: Its own.
        prompts: Phrasings of each class, in the order of the classes.
        background: A class that is not asked for.
        key: See `s5.purification.grounding.Grounder`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        prompts: Mapping[str, Sequence[str]],
        background: str | None,
        key: dict[str, str],
    ) -> None:
        self.key = key
        self._model, self._processor = model, processor
        self._prompts, self._background = prompts, background

    @classmethod
    def load(
        cls, config: GroundingConfig, prompts: Mapping[str, Sequence[str]], background: str | None = None
    ) -> ClipSeg:
        """From a folder or hub id.

        Raises:
            ImportError: transformers is not installed.
        """
        model = load_model("CLIPSegForImageSegmentation", config)
        processor = vision_language_library("transformers").CLIPSegProcessor.from_pretrained(config.model)
        return cls(model, processor, prompts, background, grounder_record(config, prompts, background))

    @torch.inference_mode()
    def ground(self, images_BCHW: Tensor) -> Tensor:
        found: list[Tensor | None] = [None] * len(self._prompts)
        for place, (name, phrases) in enumerate(self._prompts.items()):
            if name != self._background:
                found[place] = torch.stack([self._asked(images_BCHW, phrase) for phrase in phrases]).mean(0)
        return with_unknown(stacked(found))

    def _asked(self, images: Tensor, phrase: str) -> Tensor:
        model = self._model
        inputs = self._processor(text=[phrase] * len(images), images=list(images.cpu()), return_tensors="pt")
        inputs = inputs.to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        logits: Tensor = model(**inputs).logits.float().cpu()
        return logits.reshape(len(images), *logits.shape[-2:]).sigmoid()
