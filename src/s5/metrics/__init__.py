"""Scores of predictions against ground truth."""

from s5.metrics.segmentation import ConfusionMatrix, segmentation_scores

__all__ = ["ConfusionMatrix", "segmentation_scores"]
