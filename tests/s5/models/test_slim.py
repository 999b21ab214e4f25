"""The narrow networks that are not timm's own."""

from __future__ import annotations

import torch

from s5.models import create_model


def test_a_slim_resnet_has_the_asked_widths_and_comes_back_from_its_architecture() -> None:
    model = create_model("resnet18_slim", "upernet", classes=5, decoder_channels=64)
    assert model.encoder.channels == [64, 96, 128, 192]
    assert sum(p.numel() for p in model.parameters()) == 2_863_813
    again = create_model(**model.architecture)
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 50, 70)
    torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)
