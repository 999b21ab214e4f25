"""Semi-supervised segmentation as pretraining (S4P)."""

from s5.semisup.s4p import S4PConfig, plan_s4p, pretrain_s4p

__all__ = ["S4PConfig", "plan_s4p", "pretrain_s4p"]
