"""A finished model for others to use: `python -m s5_kedro.serving MODEL FOLDER`.

Writes an MLflow model that `mlflow models serve` starts, or one file: with `--format torch` a `torch.export` program,
with `--format onnx` an ONNX model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any


def write_pyfunc(model: Any, folder: Path) -> None:
    """Write a `SceneModel` as an MLflow model with signature; its weights lie inside as safetensors.

    Raises:
        FileExistsError: `folder` is there already.
    """
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    import s5
    from s5.inference.serving import raw_dtype
    from s5.models import save_model

    if folder.exists():
        raise FileExistsError(f"{folder}: is there already; give a folder that does not exist")
    inputs = [TensorSpec(np.dtype(raw_dtype(model.statistics)), (-1, len(model.statistics.bands), -1, -1))]
    outputs = [
        TensorSpec(np.dtype(np.uint8), (-1, -1, -1), "classes"),
        TensorSpec(np.dtype(np.float32), (-1, len(model.classes), -1, -1), "probabilities"),
    ]
    metadata = {"classes": list(model.classes), "statistics": model.statistics.to_dict()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its name: a model is there whole or not at all.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as making:
        weights = Path(making) / "model.safetensors"
        save_model(model.network, weights, metadata=metadata)
        example = np.zeros((1, len(model.statistics.bands), 32, 32), inputs[0].type)
        mlflow.pyfunc.save_model(
            Path(making) / "model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"weights": str(weights)},
            signature=ModelSignature(Schema(inputs), Schema(outputs)),
            input_example=example,
            code_paths=[str(Path(s5.__file__).parent)],
            pip_requirements=_requirements(),
            metadata={"classes": list(model.classes)},
        )
        (Path(making) / "model").rename(folder)


def _requirements() -> list[str]:
    """What the library needs to run a network, at the versions of this environment."""
    from importlib.metadata import version

    return [
        f"{name}=={version(name)}"
        for name in ("mlflow", "torch", "torchvision", "timm", "numpy", "safetensors", "tqdm")
    ]


def main(arguments: list[str] | None = None) -> None:
    """The command line.

    Raises:
        SystemExit: with a message, where the model cannot be used or the target cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m s5_kedro.serving", description=__doc__)
    parser.add_argument("model", help="a model pointer (.json), weights (.safetensors) or a released file (.pth)")
    parser.add_argument("target", type=Path, help="a new folder; a file with --format torch (.pt2) or onnx (.onnx)")
    parser.add_argument("--format", choices=("pyfunc", "torch", "onnx"), default="pyfunc")
    parser.add_argument("--task", help="of a model for several datasets, the one whose classes are mapped")
    parser.add_argument("--size", type=int, default=512, help="side of the images that a file takes, in pixels")
    args = parser.parse_args(arguments)
    from s5_kedro.pipelines.scene_inference.models import scene_model

    try:
        model = scene_model(args.model, args.task, None)
        if args.format == "pyfunc":
            write_pyfunc(model, args.target)
            said = f"mlflow models serve -m {args.target} --env-manager local"
        else:
            from s5.inference.serving import export_onnx, export_program

            export = export_onnx if args.format == "onnx" else export_program
            difference = export(model.network, model.statistics, args.target, size=args.size)
            said = f"{args.target}: probabilities differ from the network's by at most {difference:.1g}"
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
