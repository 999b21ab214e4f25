"""A finished model for arrays in memory: what a server calls, and single files that run without this project."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
_ANY_NUMBER = torch.export.Dim("batch", min=1, max=1024)
_MOST_BYTES_OF_ONNX = 2**31 - 2**24  # of a protobuf message, less what the graph takes


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
    _check_name(path, ".pt2", "torch.export program")
    whole = _RawToProbabilities(network, statistics).eval()
    images = _examples(statistics, size)
    with torch.inference_mode(False), torch.no_grad(), replacing(path) as temporary:
        program = torch.export.export(whole, (images,), dynamic_shapes=({0: _ANY_NUMBER},))
        torch.export.save(program, temporary)
        loaded = torch.export.load(temporary).module()
        return _compared(lambda batch: loaded(batch).numpy(), network, statistics, images, path)


def export_onnx(network: nn.Module, statistics: BandStatistics, path: Path, *, size: int = 512) -> float:
    """Write a model as ONNX: raw float32 ``images`` [B, C, size, size] to ``probabilities``.

    It is run by ONNX Runtime and compared with the network before it gets its name. Needs the extra ``s5[onnx]``.

    Args:
        network: Normalised images to logits; on the CPU.
        statistics: How raw bands are normalised.
        path: Ends in ``.onnx``.
        size: Height and width of the images; their number is free.

    Returns:
        The largest difference of probabilities between the file and the network.

    Raises:
        ImportError: the extra is not installed.
        ValueError: they differ by more than 1e-4, `path` has another ending, or the weights do not fit the 2 GB that
            a file of this format may have.
    """
    _check_name(path, ".onnx", "ONNX model")
    size_of_weights = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    if size_of_weights > _MOST_BYTES_OF_ONNX:
        raise ValueError(
            f"{path}: has {size_of_weights / 1e9:.1f} GB of weights, and one ONNX file holds 2 GB; write a "
            "torch.export program instead"
        )
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 what torch.onnx translates with
    except ImportError as error:
        raise ImportError(
            f"ONNX needs the extra s5[onnx] ({error}); install it with: pip install 's5[onnx]'"
        ) from error
    whole = _RawToProbabilities(network, statistics).eval()
    images = _examples(statistics, size)
    with torch.inference_mode(False), torch.no_grad(), replacing(path) as temporary:
        torch.onnx.export(
            whole, (images,), temporary, dynamo=True, external_data=False, verbose=False, input_names=["images"],
            output_names=["probabilities"], dynamic_shapes=({0: _ANY_NUMBER},),
        )  # fmt: skip
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])

        def run(batch: Tensor) -> npt.NDArray[Any]:
            return np.asarray(session.run(["probabilities"], {"images": batch.numpy()})[0])

        return _compared(run, network, statistics, images, path)


def _check_name(path: Path, suffix: str, what: str) -> None:
    if path.suffix != suffix:
        raise ValueError(f"{path}: a file of this kind ({what}) needs a name that ends in {suffix}")


def _compared(
    exported: Callable[[Tensor], npt.NDArray[Any]], network: nn.Module, statistics: BandStatistics, images: Tensor,
    path: Path,
) -> float:  # fmt: skip
    """The largest difference of probabilities, for one image and for several.

    Raises:
        ValueError: it is too large.
    """
    expected = ArrayMapper(network, statistics)
    difference = max(_difference(exported, expected, images[:count]) for count in (1, len(images)))
    if not difference <= _AGREES:
        raise ValueError(
            f"{path}: what was exported differs from the network by {difference:.2g} in its probabilities (at most "
            f"{_AGREES:g} was expected); use the safetensors file instead"
        )
    return difference


def _examples(statistics: BandStatistics, size: int) -> Tensor:
    """Three images of raw values as the data has them."""
    low, high = (torch.tensor(values)[None, :, None, None] for values in (statistics.low, statistics.high))
    noise = torch.rand(3, len(statistics.bands), size, size, generator=torch.Generator().manual_seed(0))
    return (low + noise * (high - low)).float()


def _difference(exported: Callable[[Tensor], npt.NDArray[Any]], mapper: ArrayMapper, images: Tensor) -> float:
    return float(np.abs(exported(images) - mapper(images.numpy())["probabilities"]).max())


def raw_dtype(statistics: Mapping[str, Any] | BandStatistics) -> str:
    """The dtype that raw values most likely have, by how they are scaled: uint8, uint16 or float32."""
    high = statistics.high if isinstance(statistics, BandStatistics) else statistics["high"]
    largest = max(high)
    return "float32" if largest <= 1 or largest > 65535 else "uint8" if largest <= 255 else "uint16"
