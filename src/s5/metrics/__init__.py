"""Scores of predictions against ground truth."""

from s5.metrics.boundary import BoundaryCounts, boundary_scores
from s5.metrics.segmentation import ConfusionMatrix, segmentation_scores

__all__ = ["BoundaryCounts", "ConfusionMatrix", "boundary_scores", "segmentation_scores"]
