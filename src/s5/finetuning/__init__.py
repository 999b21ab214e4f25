"""Training on labelled tiles: the seed model, the fair baseline, fine-tuning, and several data sets at once."""

from s5.finetuning.multi import MODES, train_mode, train_multi
from s5.finetuning.multi_step import DatasetTerm, MultiConfig
from s5.finetuning.supervised import FinetuneConfig, SupervisedConfig, finetune, train_supervised
from s5.finetuning.transfer import TransferConfig, transfer_weights

__all__ = [
    "MODES",
    "DatasetTerm",
    "FinetuneConfig",
    "MultiConfig",
    "SupervisedConfig",
    "TransferConfig",
    "finetune",
    "train_mode",
    "train_multi",
    "train_supervised",
    "transfer_weights",
]
