"""Every tile once, in order, whatever the number of threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from s5.engine import Compute, ComputeConfig, map_tiles, resolve_compute


class Numbers:
    def __len__(self) -> int:
        return 11

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.full((1, 2, 2), index, np.uint8), np.zeros((2, 2), np.uint8), np.ones((2, 2), bool)


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_batches_come_in_order_and_threads_are_put_back(threads: int) -> None:
    network = torch.nn.Conv2d(1, 1, 1)
    compute = resolve_compute(ComputeConfig(device="cpu", precision="fp32"))

    def work(batch) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 1
        return network(batch.images.float()).mean((1, 2, 3))

    found = list(map_tiles(work, Numbers(), batch_size=3, compute=compute))
    assert [batch.indices for batch, _ in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    expected = network.weight.item() * torch.arange(11) + network.bias.item()
    torch.testing.assert_close(torch.cat([out for _, out in found]), expected)
    assert torch.get_num_threads() == threads


def test_an_error_of_the_function_surfaces(threads: int) -> None:
    compute = resolve_compute(ComputeConfig(device="cpu"))

    def work(batch) -> None:
        raise ValueError("other classes")

    with pytest.raises(ValueError, match="other classes"):
        list(map_tiles(work, Numbers(), batch_size=4, compute=compute))
    assert torch.get_num_threads() == threads


def test_only_half_of_the_threads_read_at_a_time(threads: int) -> None:
    compute = resolve_compute(ComputeConfig(device="cpu"))
    lock, reading, most = threading.Lock(), [0], [0]

    class Slow(Numbers):
        def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            with lock:
                reading[0] += 1
                most[0] = max(most[0], reading[0])
            time.sleep(0.005)
            with lock:
                reading[0] -= 1
            return super().read(index)

    list(map_tiles(lambda batch: None, Slow(), batch_size=1, compute=compute))
    assert 1 <= most[0] <= max(1, threads // 2)


def test_for_a_gpu_batches_are_read_ahead_into_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one here: pinning is only counted, and the function stays on the CPU."""
    pinned: list[tuple[int, ...]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    compute = Compute(torch.device("cuda"), "fp32")
    found = list(map_tiles(lambda batch: batch.images.sum().item(), Numbers(), batch_size=4, compute=compute))
    assert [batch.indices for batch, _ in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [total for _, total in found] == [4 * (0 + 1 + 2 + 3), 4 * (4 + 5 + 6 + 7), 4 * (8 + 9 + 10)]
    assert sorted(pinned) == sorted([(4, 1, 2, 2), (4, 2, 2)] * 2 + [(3, 1, 2, 2), (3, 2, 2)])
