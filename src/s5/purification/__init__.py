"""Purification: what a vision-language model knows of a tile corrects its pseudo-labels."""

from s5.purification.calibration import Calibration, calibrate, purifier_record, sample_pixels
from s5.purification.config import FitConfig, PriorConfig
from s5.purification.grounding import Grounder, GroundingConfig, create_grounder
from s5.purification.priors import PriorReader, ground_tiles, open_priors
from s5.purification.purifiers import Calibrated, SemiEarth, make_purifier, semiearth

__all__ = [
    "Calibrated",
    "Calibration",
    "FitConfig",
    "Grounder",
    "GroundingConfig",
    "PriorConfig",
    "PriorReader",
    "SemiEarth",
    "calibrate",
    "create_grounder",
    "ground_tiles",
    "make_purifier",
    "open_priors",
    "purifier_record",
    "sample_pixels",
    "semiearth",
]
