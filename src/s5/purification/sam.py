"""Masks from SAM and SAM 2 (boxes in) and from SAM 3 (text in), through transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s5.purification.extras import vision_language_library
from s5.purification.grounding import GroundingConfig, grounder_record, with_unknown


class BoxMasker:
    """Masks of boxes, by SAM (Kirillov et al., ICCV 2023) or SAM 2 (Ravi et al., ICLR 2025).

    Args:
        model: `SamModel` or `Sam2Model` of transformers, in eval mode.
        processor: Its own.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor

    @classmethod
    def load(cls, name: str, config: GroundingConfig) -> BoxMasker:
        """From a folder or hub id.

        Raises:
            ImportError: transformers is not installed.
            ValueError: it is neither SAM nor SAM 2.
        """
        transformers = vision_language_library("transformers")
        kind = transformers.AutoConfig.from_pretrained(name).model_type
        classes = {"sam": ("SamModel", "SamProcessor")}
        classes |= dict.fromkeys(("sam2", "sam2_video"), ("Sam2Model", "Sam2Processor"))
        if kind not in classes:
            raise ValueError(f"grounder.sam: {name} is a {kind!r}; give a SAM or SAM 2, or null to fill boxes")
        model, processor = (getattr(transformers, one) for one in classes[kind])
        loaded = model.from_pretrained(name, dtype=config.dtype).to(config.torch_device).eval()
        return cls(loaded, processor.from_pretrained(name))

    @torch.inference_mode()
    def masks(self, image: Tensor, boxes: Sequence[tuple[float, float, float, float]]) -> Tensor:
        """Probability that a pixel belongs to a box's object, float32 [N, H, W] on the CPU.

        Args:
            image: uint8 [3, H, W].
            boxes: x1, y1, x2, y2 in its pixels; at least one.
        """
        inputs = self._processor(images=image, input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
        sizes = {"original_sizes": inputs.pop("original_sizes")}
        if "reshaped_input_sizes" in inputs:
            sizes["reshaped_input_sizes"] = inputs.pop("reshaped_input_sizes")
        model = self._model
        moved = {
            name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
            for name, value in inputs.items()
        }
        logits = model(**moved, multimask_output=False).pred_masks.float().cpu()
        if "reshaped_input_sizes" in sizes:
            found = self._processor.post_process_masks(logits, **sizes, binarize=False)
        else:
            found = self._processor.post_process_masks(logits, sizes["original_sizes"], binarize=False)
        probabilities: Tensor = found[0][:, 0].sigmoid()
        return probabilities


class Sam3Text:
    """SAM 3 (Carion et al., 2025) asked for each phrasing: a `s5.purification.grounding.Grounder`.

    Evidence is the semantic map's probability, times that of the phrase being there at all, mean over the phrasings.

    Args:
        model: `Sam3Model` of transformers, in eval mode.
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
    ) -> Sam3Text:
        """From a folder or hub id.

        Raises:
            ImportError: transformers is not installed.
        """
        model = load_model("Sam3Model", config)
        processor = vision_language_library("transformers").Sam3Processor.from_pretrained(config.model)
        return cls(model, processor, prompts, background, grounder_record(config, prompts, background))

    @torch.inference_mode()
    def ground(self, images_BCHW: Tensor) -> Tensor:
        images, model = list(images_BCHW.cpu()), self._model
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
        seen = model.get_vision_features(pixels)
        found: list[Tensor | None] = [None] * len(self._prompts)
        for place, (name, phrases) in enumerate(self._prompts.items()):
            if name != self._background:
                found[place] = torch.stack([self._asked(seen, phrase, len(images)) for phrase in phrases]).mean(0)
        return with_unknown(stacked(found))

    def _asked(self, seen: Any, phrase: str, num_images: int) -> Tensor:
        text = self._processor(text=[phrase] * num_images, return_tensors="pt").to(self._model.device)
        answer = self._model(vision_embeds=seen, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
        there = answer.presence_logits.float().sigmoid().view(-1, 1, 1)
        evidence: Tensor = answer.semantic_seg.float().sigmoid()[:, 0] * there
        return evidence.cpu()


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


def stacked(found: Sequence[Tensor | None]) -> Tensor:
    """Maps [B, h, w] of classes as [B, K, h, w], zeros for those that were not asked for.

    Raises:
        ValueError: none was asked for.
    """
    some = next((one for one in found if one is not None), None)
    if some is None:
        raise ValueError("classes: none but the background is left to ask for; name another class")
    return torch.stack([torch.zeros_like(some) if one is None else one for one in found], 1)
