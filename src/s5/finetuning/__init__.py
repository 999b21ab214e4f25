"""Supervised training on labelled tiles: the seed model, the fair baseline, fine-tuning, several data sets at once."""

from s5.finetuning.multi import MODES, DatasetTerm, MultiConfig, train_mode, train_multi
from s5.finetuning.supervised import SupervisedConfig, train_supervised

__all__ = [
    "MODES",
    "DatasetTerm",
    "MultiConfig",
    "SupervisedConfig",
    "train_mode",
    "train_multi",
    "train_supervised",
]
