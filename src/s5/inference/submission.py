"""Class maps of images without masks, written as the server of a benchmark wants them."""

from __future__ import annotations

import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from s5.data.loader import SegmentationData
from s5.data.protocol import EvaluationProtocol, read_protocol
from s5.engine.compute import Compute
from s5.engine.evaluation import predict_batches
from s5.files import replacing
from s5.types import BandStatistics


@dataclass(frozen=True)
class SubmissionConfig:
    """The `submission` parameter group.

    Args:
        model: A finished model: pointer (.json) or weights (.safetensors); the pipeline needs one.
        task: Which of its data sets, for a model of several.
        folder: Where the maps go; None is ``data/07_model_output/submission/<card name>``.
        offset: What is added to a class index to get the value that the server wants. LoveDA's takes 0 to 6 for its
            seven classes, one less than its masks have: 0.
        batch_size: Images in a forward pass.
        protocol: Name of a preset; None takes the card's.
    """

    model: str | None = None
    task: str | None = None
    folder: str | None = None
    offset: int = 0
    batch_size: int = 1
    protocol: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= 255:
            raise ValueError(f"offset: expected 0 to 255, got {self.offset!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size!r}")
        read_protocol(self.protocol)


def predict_images(
    model: nn.Module,
    data: SegmentationData,
    statistics: BandStatistics,
    folder: Path,
    config: SubmissionConfig,
    protocol: EvaluationProtocol,
    classes: list[str],
    compute: Compute,
) -> dict[str, Any]:
    """Write a PNG of class indices for every unlabelled image, named as the image, and all of them as a zip file.

    Args:
        model: Normalised images to logits, on its device.
        data: An ingested card; its split `unlabeled` is predicted.
        statistics: How the model's inputs are normalised.
        folder: Where the files go.
        config: Value offset and batch size.
        protocol: What of an image the network sees at once.
        classes: Of the model; those of the card in the same order.
        compute: Where it runs.

    Returns:
        "folder", "zip", "images", "offset", "classes" and "protocol".

    Raises:
        ValueError: other classes than the card's, two images of one name, or images that were cut into tiles.
    """
    if classes != list(data.labels.classes):
        raise ValueError(f"submission.model: knows the classes {classes}, the card has {list(data.labels.classes)}")
    rows = data.manifest[data.manifest["split"] == "unlabeled"]
    names = [Path(image).stem for image in rows["image"]]
    _check(names, [str(image) for image in rows["image"]], data.tile_size)
    reader = data.split("unlabeled")
    model.eval()
    batches = predict_batches(
        model, reader, statistics, batch_size=config.batch_size, compute=compute, protocol=protocol
    )
    for batch, predicted in batches:
        for index, classes_HW in zip(batch.indices, predicted.cpu().numpy(), strict=True):
            height, width = reader.sizes[index]
            _write(folder / f"{names[index]}.png", classes_HW[:height, :width] + config.offset)
    packed = folder.with_name(f"{folder.name}.zip")
    _pack(packed, [folder / f"{name}.png" for name in names])
    return {"folder": str(folder), "zip": str(packed), "images": len(names), "offset": config.offset,
            "classes": classes, "protocol": protocol.to_dict()}  # fmt: skip


def _check(names: list[str], images: list[str], tile_size: int) -> None:
    cut = [image for image, number in Counter(images).items() if number > 1]
    if cut:
        raise ValueError(
            f"{cut[0]}: was cut into tiles of {tile_size} px, but a server wants whole images; give the size of the "
            "largest with --params=ingestion.tile_size=PIXELS"
        )
    double = [name for name, number in Counter(names).items() if number > 1]
    if double:
        raise ValueError(f"{double[0]}.png: two images have this name; a server cannot tell them apart")


def _write(path: Path, values: npt.NDArray[Any]) -> None:
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(values.astype(np.uint8)).save(temporary, format="PNG")


def _pack(path: Path, files: list[Path]) -> None:
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            # a fixed date: equal predictions are equal files
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes())
