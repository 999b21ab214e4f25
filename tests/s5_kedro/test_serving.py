"""The MLflow model that is made of a finished one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest

from s5.inference.serving import ArrayMapper
from s5.models import create_model, save_model
from s5_kedro.serving import main

STATISTICS = {"bands": ["r", "g", "b"], "low": [0] * 3, "high": [10_000] * 3, "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.mark.filterwarnings("ignore")  # of MLflow, about itself
def test_a_model_is_served_with_its_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import mlflow

    model = create_model("resnet10t", "light", classes=3, decoder_channels=8)
    weights = tmp_path / "m.safetensors"
    save_model(model, weights, metadata={"classes": ["a", "b", "c"], "statistics": STATISTICS})
    main([str(weights), str(tmp_path / "served")])
    assert "mlflow models serve -m" in capsys.readouterr().out
    (tmp_path / "served").rename(tmp_path / "moved")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "moved"))
    assert loaded.metadata.get_input_schema().inputs[0].type == np.dtype("uint16")
    assert loaded.metadata.get_output_schema().input_names() == ["classes", "probabilities"]
    images = np.random.default_rng(0).integers(0, 10_000, (1, 3, 32, 40)).astype(np.uint16)
    found, expected = loaded.predict(images), ArrayMapper.load(weights)(images)
    for name in ("classes", "probabilities"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert [path.suffix for path in (tmp_path / "moved" / "artifacts").iterdir()] == [".safetensors"]
    assert not list((tmp_path / "moved").rglob("*.pkl"))
    with pytest.raises(SystemExit, match="is there already"):
        main([str(weights), str(tmp_path / "moved")])
    with pytest.raises(SystemExit, match="there is no file"):
        main([str(tmp_path / "nothing.json"), str(tmp_path / "x")])
    assert {path.name for path in tmp_path.iterdir()} == {"m.safetensors", "moved"}


@pytest.mark.slow  # starts a server, which imports everything again: some 30 s
@pytest.mark.filterwarnings("ignore")  # of MLflow, about itself
def test_mlflow_serves_it(tmp_path: Path) -> None:
    model = create_model("resnet10t", "light", classes=3, decoder_channels=8)
    weights = tmp_path / "m.safetensors"
    save_model(model, weights, metadata={"classes": ["a", "b", "c"], "statistics": STATISTICS})
    main([str(weights), str(tmp_path / "served")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(tmp_path / "served"),
        "--env-manager",
        "local",
    ]
    server = subprocess.Popen(
        [*command, "-p", str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/ping", server)
        images = np.random.default_rng(0).integers(0, 10_000, (2, 3, 32, 40)).astype(np.uint16)
        request = Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": images.tolist()}).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=120) as answer:
            found = json.loads(answer.read())["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
    expected = ArrayMapper.load(weights)(images)
    np.testing.assert_array_equal(np.array(found["classes"]), expected["classes"])
    np.testing.assert_allclose(np.array(found["probabilities"]), expected["probabilities"], atol=1e-6)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(address)
