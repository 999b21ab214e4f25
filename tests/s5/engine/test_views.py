"""A network under a protocol: views that cancel out for a pixel-wise network, windows that reach the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.data.loader import SegmentationData
from s5.data.protocol import PRESETS, EvaluationProtocol, read_protocol
from s5.engine import ComputeConfig, evaluate_model, resolve_compute
from s5.engine.views import predict_classes, predict_probabilities
from s5.metrics import BoundaryCounts

windows = st.builds(
    lambda size, stride, blend, flips: EvaluationProtocol(
        mode="window", size=size, stride=min(stride, size), blend=blend, flips=flips
    ),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["mean", "pyramid"]),
    st.lists(st.sampled_from(["horizontal", "vertical", "both"]), unique=True),
)


def draw(seed: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(protocol=windows, height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 100))
def test_windows_of_a_network_that_returns_its_input_are_the_input(
    protocol: EvaluationProtocol, height: int, width: int, seed: int
) -> None:
    images = draw(seed, height, width)
    out = predict_probabilities(lambda x: x, images, protocol)
    torch.testing.assert_close(out, images.softmax(1), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(protocol=windows, height=st.integers(1, 20), width=st.integers(1, 20))
def test_windows_of_a_constant_network_are_constant_to_the_edge(
    protocol: EvaluationProtocol, height: int, width: int
) -> None:
    constant = torch.tensor([2.0, -1.0, 0.5])

    def network(x: torch.Tensor) -> torch.Tensor:
        return constant[None, :, None, None].expand(len(x), 3, *x.shape[-2:])

    out = predict_probabilities(network, draw(0, height, width), protocol)
    expected = constant.softmax(0)[None, :, None, None].expand_as(out)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_windows_are_averaged_as_a_loop_over_pixels_says() -> None:
    """A network that answers with the place in its window; every pixel is the mean over the windows that hold it."""

    def network(x: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(x.shape[-2], dtype=torch.float32)[:, None].expand(x.shape[-2:])
        return torch.stack([rows, rows.flip(0)])[None].expand(len(x), -1, -1, -1)

    size, stride, height, width = 4, 3, 9, 5
    out = predict_probabilities(
        network, draw(0, height, width), EvaluationProtocol(mode="window", size=size, stride=stride)
    )
    starts = [0, 3, 5]  # the last window is shifted inward
    for row in range(height):
        seen = [
            torch.tensor([float(row - s), float(size - 1 - row + s)]).softmax(0) for s in starts if s <= row < s + size
        ]
        torch.testing.assert_close(out[0, :, row, 2], torch.stack(seen).mean(0))


def test_pyramid_weights_grow_towards_the_middle() -> None:
    """A window answers with its own number; where two overlap, the nearer middle has more to say."""
    calls: list[int] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return torch.full((len(x), 2, *x.shape[-2:]), 0.0) + torch.tensor([float(calls[-1]), 0.0])[None, :, None, None]

    out = predict_probabilities(
        network, draw(0, 4, 6), EvaluationProtocol(mode="window", size=4, stride=2, blend="pyramid")
    )
    first, second = torch.tensor([0.0, 0.0]).softmax(0)[0], torch.tensor([1.0, 0.0]).softmax(0)[0]
    # columns 2 and 3 are columns 2 and 3 of the first window and 0 and 1 of the second; weights 2, 1 and 1, 2
    torch.testing.assert_close(out[0, 0, 0], torch.stack([
        first, first, (2 * first + second) / 3, (first + 2 * second) / 3, second, second,
    ]))  # fmt: skip


@pytest.mark.parametrize("flips", [("horizontal",), ("vertical",), ("both",), ("horizontal", "vertical", "both")])
def test_mirrored_views_are_mirrored_back(flips: tuple[str, ...]) -> None:
    """A network that shifts by one pixel: each view shifts the other way in its own frame."""

    def network(x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, -1)

    images = draw(1, 5, 6)
    out = predict_probabilities(network, images, EvaluationProtocol(flips=flips))
    views = [images.roll(1, -1)]
    views += [images.roll(-1 if flip in ("horizontal", "both") else 1, -1) for flip in flips]
    torch.testing.assert_close(out, torch.stack([v.softmax(1) for v in views]).mean(0))


def test_resizing_gives_the_network_the_size_and_the_image_its_own() -> None:
    sizes: list[tuple[int, ...]] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(x.shape[-2:]))
        return x

    images = draw(2, 6, 10)
    out = predict_probabilities(network, images, EvaluationProtocol(mode="resize", size=12))
    assert sizes == [(12, 12)]
    assert out.shape == images.shape
    smooth = torch.ones(1, 3, 6, 10) * torch.tensor([1.0, 2.0, 3.0])[None, :, None, None]
    constant = predict_probabilities(network, smooth, EvaluationProtocol(mode="resize", size=12, scales=(0.5, 1.0)))
    torch.testing.assert_close(constant, smooth.softmax(1))


def test_magnified_views_are_averaged() -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full_like(x[:, 0], float(x.shape[-1])), torch.zeros_like(x[:, 0])], 1)

    out = predict_probabilities(network, draw(0, 8, 8), EvaluationProtocol(scales=(0.5, 1.0, 2.0)))
    expected = torch.tensor([[4.0, 0.0], [8.0, 0.0], [16.0, 0.0]]).softmax(1).mean(0)
    torch.testing.assert_close(out[0, :, 3, 3], expected)


@pytest.mark.parametrize("mode", ["resize", "window"])
def test_padding_and_the_rest_of_the_batch_change_nothing(mode: str) -> None:
    """An image of 5 x 7 px in a batch of 8 x 8 px is seen as if it were alone."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, weight, padding=1)

    protocol = EvaluationProtocol(mode=mode, size=6)
    images = draw(3, 8, 8)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[0, 5:], valid[0, :, 7:] = False, False
    padded = predict_classes(network, images, valid, protocol)
    alone = predict_probabilities(network, images[:1, :, :5, :7], protocol).argmax(1)
    assert torch.equal(padded[0, :5, :7], alone[0])
    assert torch.equal(padded[1], predict_probabilities(network, images[1:], protocol).argmax(1)[0])


def test_evaluation_takes_the_protocol_and_counts_boundaries(tiny_data: SegmentationData) -> None:
    """The images' colour tells the class, so that a pixel-wise network gives the same counts under any windows."""
    colours = torch.tensor([[200.0, 60, 50], [60, 180, 70], [50, 70, 190]]) / 255

    class ByColour(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = x * 0.25 + 0.4
            return -((seen[:, None] - colours[None, :, :, None, None]) ** 2).sum(2) * 50

    compute = resolve_compute(ComputeConfig(device="cpu", precision="fp32"))
    counts = []
    for protocol in (PRESETS["whole"], EvaluationProtocol(mode="window", size=16, stride=8, flips=("both",))):
        boundary = BoundaryCounts(3, 0.05)
        matrix = evaluate_model(
            ByColour(), tiny_data.split("test"), tiny_data.statistics, tiny_data.labels, batch_size=2, compute=compute,
            protocol=protocol, boundary=boundary,
        )  # fmt: skip
        counts.append((matrix.matrix, boundary.counts))
    assert torch.equal(counts[0][0], counts[1][0]) and torch.equal(counts[0][1], counts[1][1])
    assert int(counts[0][0].sum()) == 3 * 32 * 32
    assert int(counts[0][1][0].sum()) > 0


def test_presets_are_the_papers() -> None:
    assert PRESETS["loveda"] == EvaluationProtocol(mode="window", size=512, stride=256)
    assert PRESETS["potsdam"].score == "mf1" and PRESETS["potsdam"].flips == ("horizontal", "vertical")
    assert read_protocol(None).is_plain
    changed = read_protocol({"preset": "loveda", "stride": 128, "boundary": 0.02})
    assert changed == EvaluationProtocol(mode="window", size=512, stride=128, boundary=0.02)
    assert read_protocol(changed.to_dict()) == changed


def test_a_protocol_says_what_it_does() -> None:
    assert PRESETS["whole"].sentence == "whole tiles"
    assert PRESETS["loveda"].sentence == "windows of 512 px, one every 256 px"
    assert PRESETS["potsdam"].sentence == "whole tiles; mean of 3 views"
    assert PRESETS["openearthmap"].sentence == "images resized to 512 px"
    assert PRESETS["isaid"].sentence == "whole tiles; means leave out background"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lovead", "protocol: unknown 'lovead'; did you mean 'loveda'"),
        ({"strides": 2}, "protocol: unknown 'strides'; did you mean 'stride'"),
        ({"mode": "window"}, "protocol.size: None does not go with mode 'window'"),
        ({"size": 5}, "protocol.size: 5 does not go with mode 'whole'"),
        ({"mode": "window", "size": 4, "stride": 5}, "protocol.stride: expected 1..size"),
        ({"flips": ["up"]}, "protocol.flips: unknown 'up'"),
        ({"scales": [0]}, "protocol.scales: expected factors over 0"),
        ({"boundary": 2}, "protocol.boundary: expected a share"),
        ({"score": "boundary_miou"}, "protocol.score: boundary_miou needs 'boundary'"),
        ({"leave_out": ["sea"]}, "protocol.leave_out: 'sea' is not one of the classes"),
        (5, "protocol: expected the name of a preset"),
    ],
)
def test_wrong_protocols(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_protocol(given, ["land", "water"])
