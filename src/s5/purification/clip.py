"""Dense evidence from open_clip models: how alike patches of an image and phrasings of a class are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s5.purification.extras import vision_language_library
from s5.purification.grounding import GroundingConfig, grounder_record

_SENTENCES = ("{}", "an aerial photo of {}", "a satellite image of {}")
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI CLIP


class ClipDense:
    """Patch-text similarity of a CLIP whose image tower is open_clip's ViT: a `s5.purification.grounding.Grounder`.

    Tiles are cut into half-overlapping windows of the model's own size. A patch's feature is that of the last block's
    value path (MaskCLIP, Zhou et al., ECCV 2022), and a class' text feature is the mean of its phrasings. Evidence is
    the softmax over the classes, times one minus "unknown", which is the softmax's entropy over that of no idea.

    Args:
        model: An open_clip `CLIP`, in eval mode.
        tokenizer: Of the model.
        config: Scale, temperature and precision.
        prompts: Phrasings of each class, in the order of the classes.
        key: See `s5.purification.grounding.Grounder`.

    Raises:
        ValueError: the image tower is not open_clip's ViT.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: GroundingConfig,
        prompts: Mapping[str, Sequence[str]],
        key: dict[str, str],
    ) -> None:
        if not hasattr(model.visual, "_embeds") or getattr(model.visual, "attn_pool", None) is not None:
            raise ValueError(
                f"grounder.model: dense features need open_clip's own ViT without attention pooling, got "
                f"{type(model.visual).__name__}; take a model such as ViT-B-32, ViT-B-16 or ViT-L-14"
            )
        self.key = key
        self._model, self._config, self._device = model, config, config.torch_device
        self._side, self._patch = model.visual.image_size[0], model.visual.patch_size[0]
        mean, std = getattr(model.visual, "image_mean", None) or _MEAN, getattr(model.visual, "image_std", None) or _STD
        self._mean, self._std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (mean, std))
        with torch.inference_mode():
            self._texts = torch.stack([self._text(tokenizer, phrases) for phrases in prompts.values()])
            scale = float(model.logit_scale.exp())
        self._temperature = config.temperature or 1 / scale

    @classmethod
    def load(cls, config: GroundingConfig, prompts: Mapping[str, Sequence[str]]) -> ClipDense:
        """From a folder in open_clip's format, a hub id, or a name with a local file of weights.

        Raises:
            ImportError: open_clip is not installed.
            OSError: weights or folder are not there.
        """
        open_clip = vision_language_library("open_clip")
        name = config.model
        if Path(name).is_dir():
            name = f"local-dir:{name}"
        elif config.name == "embedded":
            raise FileNotFoundError(f"grounder.model: no folder {name!r}; train the embedded model first")
        elif config.weights is None and "/" in name and not name.startswith("hf-hub:"):
            name = f"hf-hub:{name}"
        if config.weights is not None and not Path(config.weights).is_file():
            raise FileNotFoundError(f"grounder.weights: no file {config.weights!r}; download the model's .pt first")
        if config.weights is None and ":" not in name:
            raise ValueError(f"grounder.weights: {name!r} is a bare architecture; give a file of weights for it")
        model = open_clip.create_model(name, pretrained=config.weights, weights_only=True, device=config.torch_device)
        model = model.to(config.dtype).eval()
        return cls(model, open_clip.get_tokenizer(name), config, prompts, grounder_record(config, prompts))

    @torch.inference_mode()
    def ground(self, images_BCHW: Tensor) -> Tensor:
        images = images_BCHW.to(self._device).float() / 255
        height, width = images.shape[2:]
        factor = self._config.scale or (1.0 if self._config.name == "embedded" else self._side / max(height, width))
        size = [max(self._side, round(side * factor)) for side in (height, width)]
        if size != [height, width]:
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        similarity = self._similarity((images - self._mean) / self._std)
        shares = (similarity / self._temperature).softmax(1)
        return entropy_as_unknown(shares)

    def _similarity(self, images: Tensor) -> Tensor:
        """Cosine similarity [B, K, h, w] on the grid of patches, mean over the windows that see a patch."""
        patch, side = self._patch, self._side
        padded = F.pad(images, (0, -images.shape[3] % patch, 0, -images.shape[2] % patch), mode="replicate")
        rows, cols = (window_starts(length, side, patch) for length in padded.shape[2:])
        shape = (len(images), len(self._texts), padded.shape[2] // patch, padded.shape[3] // patch)
        total, seen = (torch.zeros(s, device=self._device) for s in (shape, (1, 1, *shape[2:])))
        for row in rows:
            for col in cols:
                window = padded[:, :, row : row + side, col : col + side].to(self._config.dtype)
                features = F.normalize(dense_features(self._model.visual, window).float(), dim=1)
                place = (..., slice(row // patch, (row + side) // patch), slice(col // patch, (col + side) // patch))
                total[place] += torch.einsum("bdhw,kd->bkhw", features, self._texts)
                seen[place] += 1
        similarity = total / seen
        if tuple(padded.shape[2:]) == tuple(images.shape[2:]):
            return similarity
        # the replicated margin is cut off, so that the grid covers the tile and no more
        whole = F.interpolate(similarity, tuple(padded.shape[2:]), mode="bilinear", align_corners=False)
        return whole[:, :, : images.shape[2], : images.shape[3]]

    def _text(self, tokenizer: Any, phrases: Sequence[str]) -> Tensor:
        texts = tokenizer([sentence.format(phrase) for phrase in phrases for sentence in _SENTENCES])
        features = F.normalize(self._model.encode_text(texts.to(self._device)).float(), dim=1)
        return F.normalize(features.mean(0), dim=0)


def dense_features(visual: nn.Module, images: Tensor) -> Tensor:
    """Features [B, D, h, w] of an open_clip ViT's patches in the space of its texts, by the last block's value path.

    Args:
        images: Normalised, [B, 3, S, S], S being the tower's own size.
    """
    tower: Any = visual
    x = tower._embeds(images)
    x = x if tower.transformer.batch_first else x.transpose(0, 1)
    *first, last = tower.transformer.resblocks
    for block in first:
        x = block(x)
    attention = last.attn
    value_rows = slice(2 * attention.embed_dim, None)
    values = F.linear(last.ln_1(x), attention.in_proj_weight[value_rows], attention.in_proj_bias[value_rows])
    x = x + last.ls_1(attention.out_proj(values))
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    x = x if tower.transformer.batch_first else x.transpose(0, 1)
    tokens = tower.ln_post(x[:, 1:])
    if tower.proj is not None:
        tokens = tokens @ tower.proj
    rows, cols = tower.grid_size
    features: Tensor = tokens.transpose(1, 2).reshape(len(images), -1, rows, cols)
    return features


def window_starts(length: int, side: int, step_of: int) -> list[int]:
    """Where half-overlapping windows begin, in multiples of `step_of`, so that they cover `length` and not more."""
    step = max(step_of, side // 2 // step_of * step_of)
    return [*range(0, length - side, step), length - side]


def entropy_as_unknown(shares: Tensor) -> Tensor:
    """Class probabilities [B, K, h, w] to evidence [B, K + 1, h, w] that sums to 1; "unknown" is entropy over log K."""
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(1, keepdim=True)
    unknown = (entropy / math.log(shares.shape[1])).clamp(0, 1)
    return torch.cat([shares * (1 - unknown), unknown], 1).float()
