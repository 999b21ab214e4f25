"""Scenes of any size to maps: windows read ahead, blended in rows, written strip by strip."""

from s5.inference.blending import BlendedStrip, BlendGrid, blend
from s5.inference.config import SceneConfig
from s5.inference.predictor import Predictor
from s5.inference.products import SceneModel, ScenePictures
from s5.inference.scene import PartialMapError, SceneMap, map_scene
from s5.inference.strips import map_strips

__all__ = [
    "BlendGrid",
    "BlendedStrip",
    "PartialMapError",
    "Predictor",
    "SceneConfig",
    "SceneMap",
    "SceneModel",
    "ScenePictures",
    "blend",
    "map_scene",
    "map_strips",
]
