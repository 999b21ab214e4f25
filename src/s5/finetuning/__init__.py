"""Supervised training on labelled tiles: the seed model, the fair baseline and fine-tuning."""

from s5.finetuning.supervised import SupervisedConfig, train_supervised

__all__ = ["SupervisedConfig", "train_supervised"]
