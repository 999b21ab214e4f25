"""Masks from SAM and SAM 2, through transformers: of boxes, and of whatever there is at the points of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from s5.purification.config import MaskConfig
from s5.purification.extras import vision_language_library
from s5.purification.grounding import GroundingConfig

_POINTS_AT_ONCE = 64  # as SAM's own generator asks
_STABILITY_OFFSET = 1.0  # logits, as there
_SAME_BOX = 0.7  # IoU over which the box of a mask is that of another one, as there


class _Sam:
    """SAM (Kirillov et al., ICCV 2023) or SAM 2 (Ravi et al., ICLR 2025).

    Args:
        model: `SamModel` or `Sam2Model` of transformers, in eval mode.
        processor: Its own.
    """

    parameter: str  # that names the model, for messages

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor

    @classmethod
    def _loaded(cls, name: str, config: GroundingConfig) -> tuple[Any, Any]:
        transformers = vision_language_library("transformers")
        kind = transformers.AutoConfig.from_pretrained(name).model_type
        classes = {"sam": ("SamModel", "SamProcessor")}
        classes |= dict.fromkeys(("sam2", "sam2_video"), ("Sam2Model", "Sam2Processor"))
        if kind not in classes:
            raise ValueError(f"{cls.parameter}: {name} is a {kind!r}; give a SAM or SAM 2")
        model, processor = (getattr(transformers, one) for one in classes[kind])
        loaded = model.from_pretrained(name, dtype=config.dtype).to(config.torch_device).eval()
        return loaded, processor.from_pretrained(name)

    def _inputs(self, image: Tensor, **prompts: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the model takes, on its device, and the sizes that its masks are brought back to."""
        inputs = self._processor(images=image, return_tensors="pt", **prompts)
        sizes = {name: inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs}
        model = self._model
        moved = {
            name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
            for name, value in inputs.items()
        }
        return moved, sizes

    def _answers(self, inputs: dict[str, Any], sizes: dict[str, Any], *, several: bool) -> tuple[Tensor, Tensor]:
        """Logits [N, M, H, W] of the masks of each prompt, and the IoU [N, M] that the model thinks they have."""
        answer = self._model(**inputs, multimask_output=several)
        found = self._processor.post_process_masks(answer.pred_masks.float(), **sizes, binarize=False)
        return found[0], answer.iou_scores[0].float()


class BoxMasker(_Sam):
    """Masks of boxes."""

    parameter = "grounder.sam"

    @classmethod
    def load(cls, name: str, config: GroundingConfig) -> Self:
        """From a folder or hub id.

        Raises:
            ImportError: transformers is not installed.
            ValueError: it is neither SAM nor SAM 2.
        """
        return cls(*cls._loaded(name, config))

    @torch.inference_mode()
    def masks(self, image: Tensor, boxes: Sequence[tuple[float, float, float, float]]) -> Tensor:
        """Probability that a pixel belongs to a box's object, float32 [N, H, W] on the CPU.

        Args:
            image: uint8 [3, H, W].
            boxes: x1, y1, x2, y2 in its pixels; at least one.
        """
        inputs, sizes = self._inputs(image, input_boxes=[[list(box) for box in boxes]])
        return self._answers(inputs, sizes, several=False)[0][:, 0].sigmoid().cpu()


class GridMasker(_Sam):
    """Masks of whatever there is at the points of a grid, as SAM's own generator makes them (appendix B).

    Args:
        model, processor: As `BoxMasker` takes them.
        config: How dense the grid is, and which masks are kept.
    """

    parameter = "masks.model"

    def __init__(self, model: Any, processor: Any, config: MaskConfig) -> None:
        super().__init__(model, processor)
        self._config = config

    @classmethod
    def load(cls, config: MaskConfig, grounding: GroundingConfig) -> Self:
        """From the folder or hub id `config.model`, with device and precision of `grounding`.

        Raises:
            ImportError: transformers is not installed.
            ValueError: it is neither SAM nor SAM 2.
        """
        return cls(*cls._loaded(config.model, grounding), config)

    @torch.inference_mode()
    def masks(self, image: Tensor) -> Tensor:
        """Masks that the model is sure of, bool [N, H, W] on the CPU, the best first; N may be 0.

        Args:
            image: uint8 [3, H, W].
        """
        points = grid_points(self._config.points_per_side, (image.shape[1], image.shape[2]))
        seen, kept, scores = None, [], []
        for start in range(0, len(points), _POINTS_AT_ONCE):
            asked = [[[list(point)] for point in points[start : start + _POINTS_AT_ONCE]]]
            inputs, sizes = self._inputs(image, input_points=asked)
            pixels = inputs.pop("pixel_values")
            seen = self._model.get_image_embeddings(pixels) if seen is None else seen
            logits, score = (
                x.flatten(0, 1) for x in self._answers({**inputs, "image_embeddings": seen}, sizes, several=True)
            )
            inner, outer = ((logits > at).flatten(1).sum(1) for at in (_STABILITY_OFFSET, -_STABILITY_OFFSET))
            sure = (score >= self._config.min_score) & (inner >= self._config.min_stability * outer) & (inner > 0)
            kept.append((logits[sure] > 0).cpu())
            scores.append(score[sure].cpu())
        masks, score = torch.cat(kept), torch.cat(scores)
        return masks[nms(masks_to_boxes(masks), score, _SAME_BOX)] if len(masks) else masks


def grid_points(per_side: int, size: tuple[int, int]) -> list[tuple[float, float]]:
    """The middles (x, y) of per_side x per_side equal fields of an image of height and width `size`, in pixels."""
    rows, cols = ([(place + 0.5) * length / per_side for place in range(per_side)] for length in size)
    return [(col, row) for row in rows for col in cols]
