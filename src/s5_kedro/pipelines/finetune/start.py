"""The weights that fine-tuning starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s5_kedro.given import given_model


def start_pointer(path: str | None, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """The pointer to start from.

    Args:
        path: `finetune.init`: a file, or the name of a trained model of the catalog, such as ``"noisy_model"``.
        trained: The pointer of the catalog's `s4p_model`, used where there is no `path`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is neither a pointer nor weights.
    """
    if path is None:
        if trained is None:
            raise FileNotFoundError(
                "s4p_model: there is none yet; make it with kedro run --pipelines=s4p_pretrain, or start from another "
                "model with --params=finetune.init=POINTER_OR_WEIGHTS"
            )
        return dict(trained)
    from s5.files import sha256_of

    pointer = given_model("finetune.init", path, also=(".pth", ".pt"))
    weights = pointer.pop("weights")
    return {**(pointer or {"sha256": sha256_of(weights)}), "path": str(weights)}
