"""A finished model for arrays in memory: what a server calls, and one file that runs without this project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from s5.files import replacing
from s5.inference.predictor import Predictor
from s5.models import load_model
from s5.types import BandStatistics

_AGREES = 1e-4  # of probabilities


class ArrayMapper:
    """Images in, class maps and probabilities out.

    Args:
        network: Normalised images to logits.
        statistics: How raw bands are normalised.
        device: Where the network runs.
    """

    def __init__(self, network: nn.Module, statistics: BandStatistics, device: torch.device | str = "cpu") -> None:
        self.bands = len(statistics.bands)
        self._device = torch.device(device)
        self._predict = Predictor(network, statistics, device=self._device)

    @classmethod
    def load(cls, weights: Path, device: torch.device | str = "cpu") -> ArrayMapper:
        """The mapper of a safetensors file that `s5.models.save_model` wrote, with its statistics in the header."""
        network, metadata = load_model(weights)
        return cls(network, BandStatistics.from_dict(metadata["statistics"]), device)

    def __call__(self, images: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Map images.

        Args:
            images: [B, C, H, W] in the raw units of the training data, any real dtype.

        Returns:
            ``classes`` uint8 [B, H, W] and ``probabilities`` float32 [B, K, H, W].

        Raises:
            ValueError: another shape, or another number of bands than the model takes.
        """
        if images.ndim != 4 or images.shape[1] != self.bands:
            raise ValueError(f"images: expected [B, {self.bands}, H, W], got an array of shape {images.shape}")
        pixels = images if images.dtype == np.uint8 else images.astype(np.float32)
        with torch.inference_mode():
            probabilities = self._predict(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device))
            classes = probabilities.max(1).indices.to(torch.uint8)
        return {"classes": classes.cpu().numpy(), "probabilities": probabilities.cpu().numpy()}


class _RawToProbabilities(nn.Module):
    """The network with normalisation and softmax, all in one graph."""

    factor: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, statistics: BandStatistics) -> None:
        super().__init__()
        self.network = network
        low, high, mean, std = (
            torch.tensor(getattr(statistics, name), dtype=torch.float32)[None, :, None, None]
            for name in ("low", "high", "mean", "std")
        )
        self.register_buffer("factor", 1 / ((high - low) * std))
        self.register_buffer("shift", -(low / (high - low) + mean) / std)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images * self.factor + self.shift)
        return logits.softmax(1)


def export_program(network: nn.Module, statistics: BandStatistics, path: Path, *, size: int = 512) -> float:
    """Write a model as a `torch.export` program: raw float32 images [B, C, size, size] to probabilities.

    It is loaded again and compared with the network before it gets its name.

    Args:
        network: Normalised images to logits; on the CPU.
        statistics: How raw bands are normalised.
        path: Ends in ``.pt2``.
        size: Height and width of the images; their number is free.

    Returns:
        The largest difference of probabilities between program and network.

    Raises:
        ValueError: they differ by more than 1e-4, or `path` has another ending.
    """
    if path.suffix != ".pt2":
        raise ValueError(f"{path}: a torch.export program needs a name that ends in .pt2")
    whole = _RawToProbabilities(network, statistics).eval()
    images = _examples(statistics, size)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(whole, (images,), dynamic_shapes=({0: batch},))
        with replacing(path) as temporary:
            torch.export.save(program, temporary)
            loaded = torch.export.load(temporary).module()
            expected = ArrayMapper(network, statistics)
            difference = max(_difference(loaded, expected, images[:count]) for count in (1, len(images)))
            if not difference <= _AGREES:
                raise ValueError(
                    f"{path}: the exported program differs from the network by {difference:.2g} in its probabilities "
                    f"(at most {_AGREES:g} was expected); use the safetensors file instead"
                )
    return difference


def _examples(statistics: BandStatistics, size: int) -> Tensor:
    """Three images of raw values as the data has them."""
    low, high = (torch.tensor(values)[None, :, None, None] for values in (statistics.low, statistics.high))
    noise = torch.rand(3, len(statistics.bands), size, size, generator=torch.Generator().manual_seed(0))
    return (low + noise * (high - low)).float()


def _difference(program: nn.Module, mapper: ArrayMapper, images: Tensor) -> float:
    found = program(images).numpy()
    return float(np.abs(found - mapper(images.numpy())["probabilities"]).max())


def raw_dtype(statistics: Mapping[str, Any] | BandStatistics) -> str:
    """The dtype that raw values most likely have, by how they are scaled: uint8, uint16 or float32."""
    high = statistics.high if isinstance(statistics, BandStatistics) else statistics["high"]
    largest = max(high)
    return "float32" if largest <= 1 or largest > 65535 else "uint8" if largest <= 255 else "uint16"
