"""Networks: timm encoders, the plain-ViT pyramid, decoders, one factory, and models on disk."""

from s5.models.config import ModelConfig
from s5.models.encoders import Encoder, count_parameters, create_encoder
from s5.models.segmentation import SegmentationModel, create_model
from s5.models.store import load_model, make_pointer, open_pointer, read_metadata, save_model

__all__ = [
    "Encoder",
    "ModelConfig",
    "SegmentationModel",
    "count_parameters",
    "create_encoder",
    "create_model",
    "load_model",
    "make_pointer",
    "open_pointer",
    "read_metadata",
    "save_model",
]
