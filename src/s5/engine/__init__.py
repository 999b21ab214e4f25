"""The loop, checkpoints, precision and optimisers; it knows no algorithm."""

from s5.engine.batches import BatchPlaces, OwnTiles
from s5.engine.checkpoint import Checkpoints
from s5.engine.compute import Compute, ComputeConfig, release_freed_memory, resolve_compute
from s5.engine.config import StageConfig, TrainingConfig
from s5.engine.ema import EMA
from s5.engine.evaluation import evaluate_model, measure_model, predict_batches
from s5.engine.group import Group, joined_group
from s5.engine.launch import launchable
from s5.engine.learner import Learner, OneLearner
from s5.engine.loop import FitState, Interrupted, LoopConfig, Method, fit, run_key
from s5.engine.optimizer import OptimizerConfig, build_optimizer, set_learning_rate
from s5.engine.prediction import map_tiles
from s5.engine.training import (
    TrainResult,
    fit_and_save,
    model_metadata,
    run_folder,
    start_model,
    train_network,
    validator,
)
from s5.engine.tuning import TuneConfig, apply_tuning

__all__ = [
    "EMA",
    "BatchPlaces",
    "Checkpoints",
    "Compute",
    "ComputeConfig",
    "FitState",
    "Group",
    "Interrupted",
    "Learner",
    "LoopConfig",
    "Method",
    "OneLearner",
    "OptimizerConfig",
    "OwnTiles",
    "StageConfig",
    "TrainResult",
    "TrainingConfig",
    "TuneConfig",
    "apply_tuning",
    "build_optimizer",
    "evaluate_model",
    "fit",
    "fit_and_save",
    "joined_group",
    "launchable",
    "map_tiles",
    "measure_model",
    "model_metadata",
    "predict_batches",
    "release_freed_memory",
    "resolve_compute",
    "run_folder",
    "run_key",
    "set_learning_rate",
    "start_model",
    "train_network",
    "validator",
]
