"""Metrics, artefacts and the life of a run in MLflow."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s5.files import write_json

_log = logging.getLogger(__name__)


class MetricsLog:
    """A `LogFn` of the library that writes to the active MLflow run as `<prefix>.<metric>`.

    Writes in batches, some seconds apart: one at a time costs more than a training step of a small network. A resumed
    training begins with the steps before it: those up to the last one in MLflow are left out, so that a history is
    whole and nothing in it double. Without an active run nothing is written.

    Args:
        prefix: Such as `s4p`.
    """

    def __init__(self, prefix: str):
        self.prefix = prefix
        self._last: dict[str, int] = {}
        self._waiting: list[Any] = []
        self._written = time.monotonic()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        import mlflow

        if mlflow.active_run() is None:
            return
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            key = f"{self.prefix}.{name}"
            if _is_number(value) and step > self._last_step(key):
                self._waiting.append(mlflow.entities.Metric(key, float(value), now, step))
                self._last[key] = step
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES or len(self._waiting) >= _MOST_IN_A_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        import mlflow

        run = mlflow.active_run()
        waiting, self._waiting = self._waiting, []
        self._written = time.monotonic()
        if run is None:
            return
        for start in range(0, len(waiting), _MOST_IN_A_BATCH):
            batch = waiting[start : start + _MOST_IN_A_BATCH]
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics=batch)

    def _last_step(self, key: str) -> int:
        if key not in self._last:
            import mlflow

            run = mlflow.active_run()
            logged = mlflow.MlflowClient().get_metric_history(run.info.run_id, key) if run else []
            self._last[key] = max((metric.step for metric in logged), default=-1)
        return self._last[key]


_SECONDS_BETWEEN_WRITES = 5.0
_MOST_IN_A_BATCH = 1000  # what MLflow takes at once


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def git_revision(project: Path) -> str:
    """The project's git commit, with `-dirty` where files differ from it; `unknown` without git."""
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


class OpenRun:
    """Which MLflow run a command belongs to until it is through, so that the same command continues it.

    Args:
        project: The project folder.
        settings: What makes two commands the same: pipelines, environment, parameters, slice.
        detail: What may differ between two commands that are the same otherwise, but is fixed in a run of MLflow.
    """

    def __init__(self, project: Path, settings: Mapping[str, Any], detail: Mapping[str, Any] | None = None):
        self._path = project / "mlartifacts" / "open" / f"{_hash(settings)}.json"
        self._detail = _hash(detail or {})

    def run_id(self) -> str | None:
        """The run left open by an earlier, unfinished command, if MLflow still has it and it can be continued."""
        left = self._left()
        # A failed run is not continued: what failed it may have changed what its metrics mean.
        if left is None or left["detail"] != self._detail or left["status"] not in ("RUNNING", "KILLED"):
            return None
        _log.info("Continuing MLflow run %s of the same, unfinished command", left["run_id"])
        return str(left["run_id"])

    def earlier(self) -> str | None:
        """The run of an earlier, unfinished command, continued or not: this one goes on from its checkpoints."""
        left = self._left()
        return None if left is None or left["status"] == "FINISHED" else str(left["run_id"])

    def open(self, run_id: str) -> None:
        write_json(
            self._path, {"run_id": run_id, "pid": os.getpid(), "born": _birth(os.getpid()), "detail": self._detail}
        )

    def close(self) -> None:
        self._path.unlink(missing_ok=True)

    def _left(self) -> dict[str, Any] | None:
        import mlflow

        if not self._path.is_file():
            return None
        left = json.loads(self._path.read_text(encoding="utf-8"))
        if _lives(left["pid"], left["born"]):
            return None
        try:
            run = mlflow.MlflowClient().get_run(str(left["run_id"]))
        except mlflow.MlflowException:
            return None
        return {**left, "status": run.info.status} if run.info.lifecycle_stage == "active" else None


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _lives(pid: int, born: str | None) -> bool:
    """Whether that process is still there beside this one: the same command, running twice."""
    if pid == os.getpid() or _birth(pid) != born:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _birth(pid: int) -> str | None:
    """When a process began: ids are given again, soonest after the restart of a machine. None where no one tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None
    return f"{boot}/{ticks}"
