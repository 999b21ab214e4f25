"""A small image-text model that needs no download, trained here on a demo world of another seed.

Its captions are generated from that world's labels, so these labels stand behind whatever it says: they are counted and
named in what `train_embedded` returns.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from s5.data.demo import CLASSES, DemoConfig, make_demo_world
from s5.data.demo.config import REGIONS
from s5.data.loader import Batch
from s5.engine import LoopConfig, fit, run_key
from s5.files import replacing, sha256_of, write_json
from s5.geo.raster import read_window
from s5.purification.clip import dense_features
from s5.purification.extras import vision_language_library
from s5.seeds import numpy_generator, torch_generator
from s5.types import LogFn, log_nothing

CAPTIONS: dict[str, tuple[str, ...]] = {
    "field": ("field", "grassland", "bare soil", "farmland", "meadow", "open land"),
    "forest": ("tree", "trees", "forest", "woodland"),
    "water": ("water", "river", "lake", "pond"),
    "road": ("road", "car park", "street", "track", "paved ground"),
    "building": ("building", "roof", "house", "roof of a house"),
}
"""The words that the model learns; others mean nothing to it."""

_SENTENCES = ("{}", "an aerial photo of {}", "a satellite image of {}", "{} seen from above")
_MEAN, _STD = (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)
_ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 96, "head_width": 24, "patch_size": 4, "mlp_ratio": 2.0},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_OWN_SHARE = 0.75  # of a patch that must be one class to be captioned
_BUMP = 1
"""Raised when the same configuration gives another model."""


@dataclass(frozen=True)
class EmbeddedConfig:
    """How the embedded model is trained.

    Args:
        world_seed: Seed of the demo world whose labels become captions; not that of the world it is asked about.
        scenes: Scenes in each region, with all their labels.
        regions: Those of the world's regions that scenes are taken from. A region looks the same in worlds of every
            seed, so with all five the model has seen labels of looks of which a run has none (the demo's own labels
            are of alder and corvo).
        scene_size: Their side in pixels.
        steps: Optimiser steps.
        batch_size: Crops of 64 pixels in a step.
        lr: Peak learning rate.
    """

    world_seed: int = 7919
    scenes: int = 2
    regions: Sequence[str] = REGIONS
    scene_size: int = 384
    steps: int = 400
    batch_size: int = 16
    lr: float = 2e-3

    def __post_init__(self) -> None:
        for name, least in (("world_seed", 0), ("scenes", 1), ("scene_size", 64), ("steps", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"embedded.{name}: expected a whole number of at least {least}, got {value!r}")
        unknown = sorted(set(self.regions) - set(REGIONS))
        if unknown or not self.regions:
            raise ValueError(f"embedded.regions: expected some of {REGIONS}, got {list(self.regions)}")
        if not self.lr > 0:
            raise ValueError(f"embedded.lr: expected a rate over 0, got {self.lr!r}")


def train_embedded(
    out: Path, seed: int, config: EmbeddedConfig | None = None, *, log: LogFn = log_nothing
) -> dict[str, Any]:
    """Train the embedded image-text model, unless `out` holds it already.

    Patches that are mostly one class are contrasted with captions of the classes: a softmax over a caption of each
    class, with a learnt temperature (Radford et al., ICML 2021, with the classes of a demo world as the batch's texts).
    The same seed gives the same file on the same machine; a stopped run goes on where it was.

    Args:
        out: The model's own folder; it gets open_clip's `open_clip_config.json` and `open_clip_model.safetensors`
            (about 4 MB), and beside them, in `work`, the world, checkpoints and the pointer.
        seed: Of weights and draws, and of the run's own demo world, which is why `config.world_seed` must differ.
        config: How.
        log: Gets the loss.

    Returns:
        Pointer, as JSON: `folder` (what `GroundingConfig.model` takes), `sha256` of the weights, `labels` (the world,
        and how many scenes and pixels of it were captioned), `config`, `seed`, `seconds` of training.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: `config.world_seed` is `seed`.
        Interrupted: the process was asked to stop; run again to go on.
    """
    config = config or EmbeddedConfig()
    if config.world_seed == seed:
        raise ValueError(
            f"embedded.world_seed: {seed} is also the seed of the run, so the model would be trained on the labels "
            "that it is to guess; choose another"
        )
    settings = {**asdict(config), "regions": list(config.regions)}
    identity: dict[str, Any] = {"config": settings, "seed": seed, "code": _BUMP}
    note = out / "work" / "pointer.json"  # apart from the model, whose files alone are in a grounder's key
    if note.is_file() and (out / WEIGHTS).is_file():
        pointer: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        same = {name: pointer.get(name) for name in identity} == identity
        if same and pointer["sha256"] == sha256_of(out / WEIGHTS):
            return {**pointer, "folder": str(out)}
    scenes = _scenes(out / "work" / "world", config)
    began = time.perf_counter()
    method = _Contrast(scenes, config, seed)
    loop = LoopConfig(steps=config.steps, checkpoint_every=200, keep=1)
    state = fit(method, loop, name="embedded", seed=seed, folder=out / "work" / run_key(**identity), log=log)
    _write_model(out, state.best_weights)
    pointer = {
        **identity,
        "sha256": sha256_of(out / WEIGHTS),
        "labels": {
            "world": f"demo world of seed {config.world_seed}",
            "regions": list(config.regions),
            "classes": list(CLASSES),
            "scenes": len(scenes),
            "pixels": sum(mask.numel() for _, mask in scenes),
        },
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(note, pointer)
    return {**pointer, "folder": str(out)}


def _scenes(folder: Path, config: EmbeddedConfig) -> list[tuple[Tensor, Tensor]]:
    """Images uint8 [3, S, S] and masks uint8 [S, S] of the world's unlabelled scenes, which all have truth."""
    world = DemoConfig(
        seed=config.world_seed,
        unlabeled_scenes=config.scenes,
        scene_size=config.scene_size,
        labeled_scenes=1,
        val_scenes=1,
        test_scenes=1,
        labeled_size=64,
        val_size=64,
        test_size=64,
        defects=False,
    )
    split = make_demo_world(folder, world).parent / "unlabeled"
    images = sorted(one for region in config.regions for one in (split / "images").glob(f"{region}_*.tif"))
    return [(_pixels(image), _pixels(split / "masks" / image.name)[0]) for image in images]


def _pixels(path: Path) -> Tensor:
    return torch.from_numpy(read_window(path)[0])


class _Contrast:
    """Patches against captions: a `s5.engine.Method`."""

    def __init__(self, scenes: Sequence[tuple[Tensor, Tensor]], config: EmbeddedConfig, seed: int) -> None:
        open_clip = vision_language_library("open_clip")
        self._scenes, self._config, self._seed = scenes, config, seed
        torch.manual_seed(seed)
        self._model = open_clip.model.CLIP(**copy.deepcopy(_ARCHITECTURE))
        self._tokenizer = open_clip.SimpleTokenizer(context_length=_ARCHITECTURE["text_cfg"]["context_length"])  # type: ignore[index]
        decayed = [p for p in self._model.parameters() if p.ndim > 1]
        others = [p for p in self._model.parameters() if p.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=config.lr
        )

    def read(self, step: int) -> tuple[Batch, ...]:
        """Crops that were turned and flipped at random, with what is under them."""
        side = _ARCHITECTURE["vision_cfg"]["image_size"]  # type: ignore[index]
        rng = numpy_generator(self._seed, "embedded/crops", step)
        images, masks = [], []
        for _ in range(self._config.batch_size):
            image, mask = self._scenes[int(rng.integers(len(self._scenes)))]
            row, col = (int(rng.integers(length - side + 1)) for length in mask.shape)
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            both = torch.cat([image, mask[None]])[:, row : row + side, col : col + side].rot90(turns, (1, 2))
            both = both.flip(2) if flip else both
            images.append(both[:3])
            masks.append(both[3])
        stacked = torch.stack(masks)
        return (Batch(torch.stack(images), stacked, torch.ones_like(stacked, dtype=torch.bool), []),)

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        generator = torch_generator(self._seed, "embedded/step", step)
        images = (_jittered(batches[0].images.float() / 255, generator) - _MEAN[0]) / _STD[0]
        truth = _classes_of_patches(batches[0].masks, _ARCHITECTURE["vision_cfg"]["patch_size"])  # type: ignore[index]
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr * min((step + 1) / 30, 1.0) * (1 - step / self._config.steps)
        patches = F.normalize(dense_features(self._model.visual.train(), images), dim=1)
        texts = F.normalize(self._model.encode_text(self._tokenizer(_captions(generator))), dim=1)
        logits = self._model.logit_scale.exp() * torch.einsum("bdhw,kd->bkhw", patches, texts)
        loss = F.cross_entropy(logits, truth, weight=_rarity(truth), ignore_index=255)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        with torch.no_grad():
            self._model.logit_scale.clamp_(0, 4.6)
        return {"loss": loss.detach()}

    def evaluated(self) -> nn.Module:
        model: nn.Module = self._model
        return model

    def images_per_step(self) -> int:
        return self._config.batch_size

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Nothing can collapse here."""

    def state_dict(self) -> dict[str, Any]:
        return {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


def _captions(generator: torch.Generator) -> list[str]:
    """A caption of each class, its words drawn anew."""

    def drawn(choices: Sequence[str]) -> str:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    return [drawn(_SENTENCES).format(drawn(CAPTIONS[name])) for name in CLASSES]


def _classes_of_patches(masks: Tensor, patch: int) -> Tensor:
    """int64 [B, h, w]: the class that holds most of a patch, 255 where none holds enough of it."""
    shares = F.avg_pool2d(F.one_hot(masks.long(), len(CLASSES)).permute(0, 3, 1, 2).float(), patch)
    share, classes = shares.max(1)
    return torch.where(share >= _OWN_SHARE, classes, 255)


def _rarity(truth: Tensor) -> Tensor:
    """Weights of classes: one over the root of how often they are in the batch."""
    counts = torch.bincount(truth[truth != 255], minlength=len(CLASSES)).float()
    return (counts.sum() / counts.clamp(min=1)).sqrt()


def _jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and colour cast of each image drawn anew, for worlds look different."""
    gain = 1 + 0.5 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    cast = 1 + 0.3 * (torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5)
    shift = 0.2 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    return (images * gain * cast + shift).clamp(0, 1)


def _write_model(out: Path, weights: Mapping[str, Tensor]) -> None:
    """In open_clip's format, weights in half precision."""
    write_json(
        out / CONFIG,
        {"model_cfg": _ARCHITECTURE, "preprocess_cfg": {"mean": list(_MEAN), "std": list(_STD)}},
    )
    halves = {
        name: value.half().contiguous() if value.is_floating_point() else value for name, value in weights.items()
    }
    with replacing(out / WEIGHTS) as temporary:
        save_file(halves, temporary, metadata={"format": "pt"})
