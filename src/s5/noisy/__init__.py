"""Pretraining on noisy label maps, and how each layer of a network takes the noise."""

from s5.noisy.cka import LinearCKA, linear_cka
from s5.noisy.cleaning import CleaningConfig, clean_labels
from s5.noisy.confident import ClassThresholds, confident_labels
from s5.noisy.config import NoisyConfig
from s5.noisy.corruption import CorruptionConfig, corrupt, measured_rate
from s5.noisy.cross_modal import (
    cross_modal_consistency,
    cross_modal_label_weights,
    entangled,
    prediction_confidence,
    prediction_weights,
)
from s5.noisy.layers import compare_layers, layer_outputs, probe_layers
from s5.noisy.losses import (
    NoisyLossConfig,
    SampleSelectionConfig,
    SmoothingConfig,
    label_confidence,
    noisy_loss,
    selection_weights,
    smoothed_labels,
    weights_of_labels,
)
from s5.noisy.masks import NoisyLabelsConfig, agreement, corrupted_masks, disagreement, noisy_tiles
from s5.noisy.pretraining import kept_data, pretrain_noisy
from s5.noisy.probe import RidgeProbe
from s5.noisy.sensors import TwoSensorNetwork
from s5.noisy.simsiam import SimSiamConfig, pretrain_simsiam

__all__ = [
    "ClassThresholds",
    "CleaningConfig",
    "CorruptionConfig",
    "LinearCKA",
    "NoisyConfig",
    "NoisyLabelsConfig",
    "NoisyLossConfig",
    "RidgeProbe",
    "SampleSelectionConfig",
    "SimSiamConfig",
    "SmoothingConfig",
    "TwoSensorNetwork",
    "agreement",
    "clean_labels",
    "compare_layers",
    "confident_labels",
    "corrupt",
    "corrupted_masks",
    "cross_modal_consistency",
    "cross_modal_label_weights",
    "disagreement",
    "entangled",
    "kept_data",
    "label_confidence",
    "layer_outputs",
    "linear_cka",
    "measured_rate",
    "noisy_loss",
    "noisy_tiles",
    "prediction_confidence",
    "prediction_weights",
    "pretrain_noisy",
    "pretrain_simsiam",
    "probe_layers",
    "selection_weights",
    "smoothed_labels",
    "weights_of_labels",
]
