"""The papers' parameter counts and multiply-adds (AAAI 2026, tables 1 and 3), on networks without memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from s5.models import count_parameters, create_model, create_multi_model

FOUR = {"vaihingen": 5, "potsdam": 5, "OpenEarthMap": 9, "loveda": 7}
UPERNET = {"decoder": "upernet", "decoder_channels": 256}


@pytest.mark.parametrize(("size", "millions"), [("b", 103.2), ("l", 327.4), ("h", 663.4)])
def test_one_data_set(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = create_model(f"s5_vit_{size}", classes=5, **UPERNET)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("size", "part_features", "millions"),
    [
        ("b", 256, 160.4),
        ("l", 256, 435.0),
        ("h", 256, 824.5),
        ("b", 128, 146.2),
        ("b", 512, 188.7),
        ("b", 0, 132.1),
    ],
)
def test_four_data_sets(size: str, part_features: int, millions: float) -> None:
    with torch.device("meta"):
        model = create_multi_model(f"s5_vit_{size}", datasets=FOUR, part_features=part_features, **UPERNET)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.1)


def test_multiply_adds_of_vit_b_at_512_px() -> None:
    with torch.device("meta"):
        model = create_model("s5_vit_b", classes=5, **UPERNET).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 512, 512))
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(178.3, rel=0.01)
