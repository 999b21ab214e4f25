"""Which unlabelled tiles are worth pretraining on: entropy, embeddings, diversity (S5, section "RS4P-1M")."""

from s5.selection.diversity import Prototypes, assign_clusters, fit_prototypes, largest_remainder, quota_weights
from s5.selection.entropy import TileStatistics, pixel_entropy, tile_statistics
from s5.selection.parts import PartDone, score_in_parts, scoring_key
from s5.selection.quality import QualityConfig, measure_quality, quality_reasons
from s5.selection.sampling import SamplingConfig, Selection, sample_diverse
from s5.selection.scoring import ScoringConfig, embed_tiles, score_tiles

__all__ = [
    "PartDone",
    "Prototypes",
    "QualityConfig",
    "SamplingConfig",
    "ScoringConfig",
    "Selection",
    "TileStatistics",
    "assign_clusters",
    "embed_tiles",
    "fit_prototypes",
    "largest_remainder",
    "measure_quality",
    "pixel_entropy",
    "quality_reasons",
    "quota_weights",
    "sample_diverse",
    "score_in_parts",
    "score_tiles",
    "scoring_key",
    "tile_statistics",
]
