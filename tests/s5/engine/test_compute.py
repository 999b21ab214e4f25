import pytest
import torch

from s5.engine import ComputeConfig, resolve_compute
from s5.engine.compute import has_fast_bf16


def test_auto_reads_the_hardware() -> None:
    resolved = resolve_compute(ComputeConfig(device="cpu"))
    assert resolved.device.type == "cpu"
    assert resolved.precision == ("bf16" if has_fast_bf16(torch.device("cpu")) else "fp32")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision_reaches_the_matrix_product(precision: str, dtype: torch.dtype) -> None:
    compute = resolve_compute(ComputeConfig(device="cpu", precision=precision))
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"precision": "fp8"}, "precision"),
        ({"device": "tpu"}, "device"),
        ({"threads": -1}, "threads"),
        ({"cache_mb": 1.5}, "cache_mb"),
    ],
)
def test_wrong_values_are_named(values, word) -> None:
    with pytest.raises(ValueError, match=f"compute.{word}"):
        ComputeConfig(**values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(ValueError, match="no GPU"):
        resolve_compute(ComputeConfig(device="cuda"))
