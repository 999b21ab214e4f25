"""Qwen2.5-VL and Qwen3-VL: boxes by structured answer, and masks of the boxes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s5.purification.boxes import Box, parse_boxes
from s5.purification.extras import load_model, vision_language_library
from s5.purification.grounding import GroundingConfig, grounder_record
from s5.purification.prompts import same_name
from s5.purification.sam import BoxMasker

logger = logging.getLogger(__name__)
_CLASSES = {"qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration", "qwen3_vl": "Qwen3VLForConditionalGeneration"}
_RELATIVE = ("qwen3_vl",)
"""Those that answer in thousandths of the image; Qwen2.5-VL answers in pixels of its resized image."""

_QUESTION = (
    "This is an aerial image. Find every region of these classes: {classes}. Answer with a JSON list alone, an object "
    'for each region: [{{"bbox_2d": [x1, y1, x2, y2], "label": "class"}}]. Use the class names as given. Answer [] if '
    "there is none."
)


class QwenVL:
    """Qwen2.5-VL or Qwen3-VL: a `s5.purification.grounding.Grounder`.

    Each set of phrasings is a question (the first of each class, the second, ...; a class with fewer begins again), and
    the evidence is the mean over the questions of what their boxes cover. A pixel of no box is unknown.

    Args:
        model: `Qwen2_5_VLForConditionalGeneration` or `Qwen3VLForConditionalGeneration`, in eval mode.
        processor: Its own.
        config: How long answers may be.
        prompts: Phrasings of each class, in the order of the classes.
        background: A class that is not asked for.
        masker: Boxes to masks; boxes are filled without it.
        key: See `s5.purification.grounding.Grounder`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: GroundingConfig,
        prompts: Mapping[str, Sequence[str]],
        background: str | None,
        masker: BoxMasker | None,
        key: dict[str, str],
    ) -> None:
        self.key = key
        self._model, self._processor, self._config, self._masker = model, processor, config, masker
        self._num_classes = len(prompts)
        asked = {k: phrases for k, (name, phrases) in enumerate(prompts.items()) if name != background}
        if not asked:
            raise ValueError("classes: none but the background is left to ask for; name another class")
        rounds = max(len(phrases) for phrases in asked.values())
        self._questions = [[phrases[i % len(phrases)] for phrases in asked.values()] for i in range(rounds)]
        self._names = {phrase: k for k, phrases in asked.items() for phrase in phrases}
        self._names |= {name: k for k, name in enumerate(prompts) if k in asked}
        self._relative = model.config.model_type in _RELATIVE
        processor.tokenizer.padding_side = "left"  # answers of a batch begin at the same place

    @classmethod
    def load(
        cls, config: GroundingConfig, prompts: Mapping[str, Sequence[str]], background: str | None = None
    ) -> QwenVL:
        """From a folder or hub id.

        Raises:
            ImportError: transformers is not installed.
            ValueError: it is neither Qwen2.5-VL nor Qwen3-VL.
        """
        transformers = vision_language_library("transformers")
        kind = transformers.AutoConfig.from_pretrained(config.model).model_type
        if kind not in _CLASSES:
            raise ValueError(f"grounder.model: {config.model} is a {kind!r}; qwen_vl takes {sorted(_CLASSES)}")
        model = load_model(_CLASSES[kind], config)
        processor = transformers.AutoProcessor.from_pretrained(config.model)
        masker = BoxMasker.load(config.sam, config) if config.sam else None
        return cls(model, processor, config, prompts, background, masker, grounder_record(config, prompts, background))

    @torch.inference_mode()
    def ground(self, images_BCHW: Tensor) -> Tensor:
        images = images_BCHW.cpu()
        size = (images.shape[2], images.shape[3])
        total = torch.zeros(len(images), self._num_classes, *size)
        for phrases in self._questions:
            for place, boxes in enumerate(self.boxes(images, phrases)):
                total[place] += self._cover(images[place], boxes)
        evidence = total / len(self._questions)
        return torch.cat([evidence, 1 - evidence.amax(1, keepdim=True)], 1)

    def boxes(self, images: Tensor, phrases: Sequence[str]) -> list[list[Box]]:
        """One question about each image, uint8 [B, 3, H, W]: the boxes of its answer."""
        answers, frames = self._ask(images, _QUESTION.format(classes=", ".join(phrases)))
        size = (images.shape[2], images.shape[3])
        found = [parse_boxes(answer, self._names, frame, size) for answer, frame in zip(answers, frames, strict=True)]
        for answer, boxes in zip(answers, found, strict=True):
            if not boxes and same_name(answer) not in ("", "json"):
                logger.info("qwen_vl: no box of a class that was asked for in the answer %.200r", answer)
        return found

    def _ask(self, images: Tensor, question: str) -> tuple[list[str], list[tuple[float, float]]]:
        """Answers, and width and height of the frame that each answer's coordinates are in."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = self._processor(text=[text] * len(images), images=list(images), padding=True, return_tensors="pt").to(
            self._model.device
        )
        written = self._model.generate(**inputs, max_new_tokens=self._config.max_new_tokens, do_sample=False)
        answers = self._processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        if self._relative:
            return answers, [(1000.0, 1000.0)] * len(answers)
        patch = self._processor.image_processor.patch_size
        return answers, [(float(w * patch), float(h * patch)) for _, h, w in inputs["image_grid_thw"].tolist()]

    def _cover(self, image: Tensor, boxes: Sequence[Box]) -> Tensor:
        """What the boxes cover, float32 [K, H, W]; the highest where several of a class overlap."""
        cover = torch.zeros(self._num_classes, *image.shape[1:])
        if boxes and self._masker is not None:
            masks = self._masker.masks(image, [box.xyxy for box in boxes])
        else:
            masks = torch.stack([filled(box.xyxy, image.shape[1:]) for box in boxes]) if boxes else cover[:0]
        for box, mask in zip(boxes, masks, strict=True):
            cover[box.label] = torch.maximum(cover[box.label], mask)
        return cover


def filled(xyxy: tuple[float, float, float, float], size: Sequence[int]) -> Tensor:
    """float32 [H, W]: 1 where a pixel's centre lies in the box."""
    x1, y1, x2, y2 = xyxy
    rows, cols = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    return (((rows >= y1) & (rows < y2))[:, None] & ((cols >= x1) & (cols < x2))[None]).float()
