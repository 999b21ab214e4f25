"""Training on labelled tiles: the seed model, the fair baseline, and fine-tuning with what is taken over."""

from s5.finetuning.supervised import FinetuneConfig, SupervisedConfig, finetune, train_supervised
from s5.finetuning.transfer import TransferConfig, transfer_weights

__all__ = [
    "FinetuneConfig",
    "SupervisedConfig",
    "TransferConfig",
    "finetune",
    "train_supervised",
    "transfer_weights",
]
