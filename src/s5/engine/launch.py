"""Training in several processes, on one host or many, by PyTorch's elastic launcher."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from s5.engine.compute import ComputeConfig
from s5.engine.jobs import write_job
from s5.engine.loop import Interrupted
from s5.engine.training import TrainResult
from s5.types import LogFn, log_nothing

logger = logging.getLogger(__name__)

P = ParamSpec("P")

RESULT, ROWS = "result.json", "log.jsonl"
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_STOP = 120  # a step, and a checkpoint


def launchable(train: Callable[P, TrainResult]) -> Callable[P, TrainResult]:
    """A training function that runs in as many processes as its ``compute`` asks for.

    Called in a process that asks for several, it starts them, hands on what the first one logs, and returns its result;
    called in one of them, or for a single process, it is the function itself. It needs the arguments ``compute``,
    ``project``, ``name`` and ``log``.

    Raises:
        RuntimeError: a process died; with its traceback.
        Interrupted: the processes were asked to stop, and wrote a checkpoint.
    """

    @functools.wraps(train)
    def run(*args: P.args, **kwargs: P.kwargs) -> TrainResult:
        arguments = inspect.signature(train).bind(*args, **kwargs).arguments
        compute: ComputeConfig = arguments["compute"]
        if compute.processes == 1 or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return train(*args, **kwargs)
        log = arguments.pop("log", log_nothing)
        folder = Path(arguments["project"]).absolute() / "data" / "06_models" / arguments["name"] / "job"
        shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed
        try:
            write_job(folder, run, arguments)
            with _handing_on(folder / ROWS, log):
                _launch(compute, folder, name=arguments["name"])
            result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return TrainResult(result["pointer"], result["history"])

    return run


def _launch(compute: ComputeConfig, folder: Path, *, name: str) -> None:
    from s5.engine import worker

    config = LaunchConfig(
        min_nodes=compute.hosts,
        max_nodes=compute.hosts,
        nproc_per_node=compute.devices,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint=compute.rendezvous or "localhost:0",
        max_restarts=compute.restarts,
        start_method="spawn",
        local_addr=None if compute.rendezvous else "localhost",
        shutdown_timeout=_SECONDS_TO_STOP,
    )
    if compute.hosts > 1:
        logger.info(
            "%s: waiting at %s for %d other host(s); start on each of them: torchrun --nnodes=%d --nproc-per-node=%d "
            "--rdzv-backend=c10d --rdzv-endpoint=%s --rdzv-id=%s --max-restarts=%d -m s5.engine.worker %s",
            name,
            compute.rendezvous,
            compute.hosts - 1,
            compute.hosts,
            compute.devices,
            compute.rendezvous,
            name,
            compute.restarts,
            folder,
        )
    try:
        elastic_launch(config, worker.run)(str(folder))
    except SignalException as error:
        raise Interrupted(f"{name} was stopped by {error.sigval.name}; run again to go on") from error
    except ChildFailedError as error:
        raise RuntimeError(_explained(error, name)) from error


def _explained(error: ChildFailedError, name: str) -> str:
    rank, failure = error.get_first_failure()
    message = failure.message
    if isinstance(message, dict):
        message = str(message.get("extraInfo", {}).get("py_callstack") or message.get("message"))
    how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with exit code {failure.exitcode}"
    return (
        f"{name}: the process of rank {rank} (pid {failure.pid}) ended {how}; all were stopped. Run again to go on "
        f"from the last checkpoint, or let it restart by itself with compute.restarts.\n{message}"
    )


@contextmanager
def _handing_on(file: Path, log: LogFn) -> Iterator[None]:
    """Hand every row that another process appends to `file` on to `log`, while the block runs and to its end."""
    over = threading.Event()
    seen = 0

    def hand_on() -> None:
        nonlocal seen
        if not file.exists():
            return
        with file.open(encoding="utf-8") as rows:
            rows.seek(seen)
            while (line := rows.readline()).endswith("\n"):
                seen = rows.tell()
                step, metrics = json.loads(line)
                log(metrics, step)

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            hand_on()

    thread = threading.Thread(target=watch, name="log of the first process", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        hand_on()


def row_writer(file: Path) -> Callable[[Any, int], None]:
    """A `LogFn` that appends to `file` what `_handing_on` reads."""

    def log(metrics: Any, step: int) -> None:
        with file.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps([step, dict(metrics)]) + "\n")

    return log
