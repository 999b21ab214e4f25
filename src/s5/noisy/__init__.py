"""Pretraining on noisy label maps, and how each layer of a network takes the noise."""

from s5.noisy.cka import LinearCKA, linear_cka
from s5.noisy.corruption import CorruptionConfig, corrupt
from s5.noisy.layers import compare_layers, layer_outputs, probe_layers
from s5.noisy.masks import corrupted_masks, disagreement
from s5.noisy.probe import RidgeProbe
from s5.noisy.simsiam import SimSiamConfig, pretrain_simsiam

__all__ = [
    "CorruptionConfig",
    "LinearCKA",
    "RidgeProbe",
    "SimSiamConfig",
    "compare_layers",
    "corrupt",
    "corrupted_masks",
    "disagreement",
    "layer_outputs",
    "linear_cka",
    "pretrain_simsiam",
    "probe_layers",
]
