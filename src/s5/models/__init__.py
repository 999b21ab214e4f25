"""Networks: S5's and timm's encoders, necks, decoders, one factory, weights of all known layouts, models on disk."""

from s5.models.config import ModelConfig
from s5.models.depth import DECODER_BLOCKS, NetworkDepths, layer_depths, network_depths
from s5.models.encoders import Encoder, count_parameters, create_encoder
from s5.models.lora import add_lora, merge_lora
from s5.models.multi import MultiDatasetModel, add_dataset, create_multi_model, from_dense
from s5.models.released import EncoderModel, export_released, from_released
from s5.models.segmentation import SegmentationModel, create_model
from s5.models.store import load_model, load_multi_model, make_pointer, open_pointer, read_metadata, save_model
from s5.models.weights import LoadReport, load_weights

__all__ = [
    "DECODER_BLOCKS",
    "Encoder",
    "EncoderModel",
    "LoadReport",
    "ModelConfig",
    "MultiDatasetModel",
    "NetworkDepths",
    "SegmentationModel",
    "add_dataset",
    "add_lora",
    "count_parameters",
    "create_encoder",
    "create_model",
    "create_multi_model",
    "export_released",
    "from_dense",
    "from_released",
    "layer_depths",
    "load_model",
    "load_multi_model",
    "load_weights",
    "make_pointer",
    "merge_lora",
    "network_depths",
    "open_pointer",
    "read_metadata",
    "save_model",
]
