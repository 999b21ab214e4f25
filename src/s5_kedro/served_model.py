"""What `mlflow models serve` runs: MLflow keeps this file beside the weights ("models from code", no pickle)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Images [B, C, H, W] in raw units to ``classes`` [B, H, W] and ``probabilities`` [B, K, H, W]."""

    def load_context(self, context: Any) -> None:
        from s5.inference.serving import ArrayMapper

        self._mapper = ArrayMapper.load(Path(context.artifacts["weights"]))

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> dict[str, np.ndarray]:  # noqa: ARG002
        return self._mapper(np.asarray(model_input))


mlflow.models.set_model(ServedModel())
