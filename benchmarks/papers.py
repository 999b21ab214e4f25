"""The papers' training step and loading, written out plainly, as the reference of the benchmarks.

As S5 was released (and UniMatch before it): every tile is decoded and augmented by itself with PIL, in worker
processes; unlabelled tiles come from two loaders, of which the second one gives the CutMix partners, so that a step
decodes twice as many as it learns from, makes two strong views of each and uses one; the teacher, the network itself in
evaluation mode, passes over both batches in fp32; the encoder computes its activations again in the backward pass; the
loss is read after every step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter, RandomGrayscale
from torchvision.transforms.functional import normalize, to_tensor

from s5.engine import Compute

IGNORE, PADDING = 255, 254
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PapersTiles(Dataset):  # type: ignore[type-arg]
    """Tiles under S5's augmentation, one at a time.

    Args:
        images, masks: Files; masks None for unlabelled tiles.
        crop: Side of the crop, in pixels.
        length: Tiles of an epoch.
    """

    def __init__(self, images: list[Path], masks: list[Path] | None, crop: int, length: int) -> None:
        self.images, self.masks, self.crop, self.length = images, masks, crop, length
        self.jitter, self.grey = ColorJitter(0.5, 0.5, 0.5, 0.25), RandomGrayscale(0.2)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        place = index % len(self.images)
        image = Image.open(self.images[place]).convert("RGB")
        if self.masks is None:
            mask = Image.fromarray(np.zeros((image.height, image.width), np.uint8))
        else:
            mask = Image.open(self.masks[place])
        image, mask = self._weak(image, mask)
        if self.masks is not None:
            return self._ready(image), torch.from_numpy(np.array(mask)).long()
        strong = [self._strong(image.copy()) for _ in range(2)]
        boxes = [cutmix_box(self.crop) for _ in range(2)]
        ignored = torch.from_numpy(np.array(mask)).long()
        ignored[ignored == PADDING] = IGNORE
        return self._ready(image), *(self._ready(one) for one in strong), ignored, *boxes

    def _weak(self, image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
        longest = random.randint(int(max(image.size) * 0.5), int(max(image.size) * 2.0))
        size = [round(side * longest / max(image.size)) for side in image.size]
        image, mask = image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)
        pad = [max(0, self.crop - side) for side in size]
        image = ImageOps.expand(image, (0, 0, *pad), fill=0)
        mask = ImageOps.expand(mask, (0, 0, *pad), fill=PADDING)
        x, y = (random.randint(0, side - self.crop) for side in image.size)
        box = (x, y, x + self.crop, y + self.crop)
        image, mask = image.crop(box), mask.crop(box)
        for flip in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            if random.random() < 0.5:
                image, mask = image.transpose(flip), mask.transpose(flip)
        return image, mask

    def _strong(self, image: Image.Image) -> Image.Image:
        if random.random() < 0.8:
            image = self.jitter(image)
        image = self.grey(image)
        if random.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))  # noqa: NPY002
        return image

    def _ready(self, image: Image.Image) -> torch.Tensor:
        return normalize(to_tensor(image), MEAN, STD)


def cutmix_box(size: int) -> torch.Tensor:
    """bool [size, size]: a box of 2 to 40 % of the image, for half of the images."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    if random.random() > 0.5:
        return mask
    while True:
        ratio = random.uniform(0.3, 1 / 0.3)
        area = random.uniform(0.02, 0.4) * size * size
        width, height = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
        x, y = random.randint(0, size), random.randint(0, size)
        if x + width <= size and y + height <= size:
            mask[y : y + height, x : x + width] = True
            return mask


def papers_batches(
    images: list[Path], masks: list[Path], *, crop: int, batch: int, steps: int, workers: int
) -> Iterator[tuple[list[torch.Tensor], ...]]:
    """Labelled batch, unlabelled batch and the batch of CutMix partners, step by step."""
    labeled = PapersTiles(images, masks, crop, batch * steps)
    unlabeled = PapersTiles(images, None, crop, batch * steps)
    loaders = [
        DataLoader(tiles, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
        for tiles in (labeled, unlabeled, unlabeled)
    ]
    return zip(*loaders, strict=True)


class PapersStep:
    """One step on loaded batches, the student under the autocast of `compute`."""

    def __init__(self, model: torch.nn.Module, compute: Compute) -> None:
        self.model, self.compute = model, compute
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)

    def __call__(self, labeled: list[torch.Tensor], unlabeled: list[torch.Tensor], mix: list[torch.Tensor]) -> float:
        to = self.compute.to_device
        images, masks = (to(one) for one in labeled)
        weak, strong, _, ignored, box, _ = (to(one) for one in unlabeled)
        weak_mix, strong_mix, _, ignored_mix, _, _ = (to(one) for one in mix)
        with torch.no_grad():
            self.model.eval()
            prob = self.model(torch.cat([weak, weak_mix])).softmax(1)
            confidence, pseudo = prob.max(1)
            (confidence, confidence_mix), (pseudo, pseudo_mix) = confidence.chunk(2), pseudo.chunk(2)
            strong[box[:, None].expand_as(strong)] = strong_mix[box[:, None].expand_as(strong)]
            pseudo = torch.where(box, pseudo_mix, pseudo)
            confidence = torch.where(box, confidence_mix, confidence)
            ignored = torch.where(box, ignored_mix, ignored)
        self.model.train()
        with self.compute.autocast():
            logits = self.model(torch.cat([images, strong]))
            logits_labeled, logits_strong = logits.split([len(images), len(strong)])
            masks = torch.where(masks == PADDING, IGNORE, masks)
            loss_x = F.cross_entropy(logits_labeled, masks, ignore_index=IGNORE)
            loss_u = F.cross_entropy(logits_strong, pseudo, reduction="none")
            counted = ignored != IGNORE
            loss_u = (loss_u * ((confidence >= 0.95) & counted)).sum() / counted.sum()
            loss = (loss_x + loss_u) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.item())
