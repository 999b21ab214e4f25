"""Models that find in an image what a phrase names, through transformers: CLIPSeg and SAM 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from s5.purification.extras import load_model, vision_language_library
from s5.purification.grounding import GroundingConfig, grounder_record, with_unknown


class TextMasks:
    """A model that is asked for each phrasing: a `s5.purification.grounding.Grounder`.

    Evidence is what it answers, mean over the phrasings. A subclass names its classes in transformers, and says how it
    is asked.

    Args:
        model: Of transformers, in eval mode.
        processor: Its own.
        prompts: Phrasings of each class, in the order of the classes.
        background: A class that is not asked for.
        key: See `s5.purification.grounding.Grounder`.
    """

    model_class: str
    processor_class: str

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
    def load(cls, config: GroundingConfig, prompts: Mapping[str, Sequence[str]], background: str | None = None) -> Self:
        """From a folder or hub id.

        Raises:
            ImportError: transformers is not installed.
        """
        model = load_model(cls.model_class, config)
        processor = getattr(vision_language_library("transformers"), cls.processor_class).from_pretrained(config.model)
        return cls(model, processor, prompts, background, grounder_record(config, prompts, background))

    @torch.inference_mode()
    def ground(self, images_BCHW: Tensor) -> Tensor:
        images = list(images_BCHW.cpu())
        seen = self._seen(images)
        found: list[Tensor | None] = [None] * len(self._prompts)
        for place, (name, phrases) in enumerate(self._prompts.items()):
            if name != self._background:
                found[place] = torch.stack([self._asked(seen, phrase, len(images)) for phrase in phrases]).mean(0)
        return with_unknown(stacked(found))

    def _seen(self, images: Sequence[Tensor]) -> Any:
        """What of the images is the same for every phrase."""
        raise NotImplementedError

    def _asked(self, seen: Any, phrase: str, num_images: int) -> Tensor:
        """How much of the phrase is where, float32 [B, h, w] in [0, 1] on the CPU."""
        raise NotImplementedError


class ClipSeg(TextMasks):
    """CLIPSeg (Lüddecke and Ecker, CVPR 2022): the mask's probability."""

    model_class, processor_class = "CLIPSegForImageSegmentation", "CLIPSegProcessor"

    def _seen(self, images: Sequence[Tensor]) -> Any:
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels.to(self._model.device, self._model.dtype)

    def _asked(self, seen: Any, phrase: str, num_images: int) -> Tensor:
        text = self._processor(text=[phrase] * num_images, return_tensors="pt").to(self._model.device)
        logits: Tensor = self._model(**text, pixel_values=seen).logits.float().cpu()
        return logits.reshape(num_images, *logits.shape[-2:]).sigmoid()


class Sam3Text(TextMasks):
    """SAM 3 (Carion et al., 2025): the semantic map's probability, times that of the phrase being there at all."""

    model_class, processor_class = "Sam3Model", "Sam3Processor"

    def _seen(self, images: Sequence[Tensor]) -> Any:
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        return self._model.get_vision_features(pixels.to(self._model.device, self._model.dtype))

    def _asked(self, seen: Any, phrase: str, num_images: int) -> Tensor:
        text = self._processor(text=[phrase] * num_images, return_tensors="pt").to(self._model.device)
        answer = self._model(vision_embeds=seen, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
        there = answer.presence_logits.float().sigmoid().view(-1, 1, 1)
        evidence: Tensor = answer.semantic_seg.float().sigmoid()[:, 0] * there
        return evidence.cpu()


def stacked(found: Sequence[Tensor | None]) -> Tensor:
    """Maps [B, h, w] of classes as [B, K, h, w], zeros for those that were not asked for.

    Raises:
        ValueError: none was asked for.
    """
    some = next((one for one in found if one is not None), None)
    if some is None:
        raise ValueError("classes: none but the background is left to ask for; name another class")
    return torch.stack([torch.zeros_like(some) if one is None else one for one in found], 1)
