"""One of the processes that train together. On hosts after the first: ``torchrun ... -m s5.engine.worker JOB``."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.rendezvous import rendezvous

from s5.engine.jobs import has_job, read_job
from s5.engine.launch import RESULT, ROWS, row_writer
from s5.files import replacing
from s5.types import log_nothing

_SECONDS_FOR_JOB = 600
_TIMEOUT = timedelta(minutes=30)  # the longest that a process may be alone: a validation, a checkpoint on a slow disk


@record
def run(folder: str) -> None:
    """Join the group that the launcher has made, and make the call that `folder` holds (`s5.engine.jobs`).

    The first process writes what it logs and the result into `folder`.
    """
    _die_with_parent()
    job = Path(folder)
    function, arguments = read_job(job)
    use_gpu = torch.cuda.is_available() and arguments["compute"].device != "cpu"
    _join(use_gpu=use_gpu)
    first = dist.get_rank() == 0
    result = function(**arguments, log=row_writer(job / ROWS) if first else log_nothing)
    if first:
        with replacing(job / RESULT) as temporary:
            temporary.write_text(json.dumps({"pointer": result.pointer, "history": result.history}), encoding="utf-8")
    dist.destroy_process_group()


def _join(*, use_gpu: bool) -> None:
    if use_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    # The launcher keeps its store when it starts dead processes again: what they left there is not for the next ones.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"start_{start}", store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)


def _die_with_parent() -> None:
    """A launcher that is killed must not leave processes that train on without it."""
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1  # sys/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> None:
    """Wait for the job that the first host writes, and take part in it."""
    if len(sys.argv) != 2:
        raise SystemExit(
            "usage: torchrun ... -m s5.engine.worker JOB, a folder that the first host names when it waits"
        )
    folder = Path(sys.argv[1])
    deadline = time.monotonic() + _SECONDS_FOR_JOB
    while not has_job(folder):
        if time.monotonic() > deadline:
            raise SystemExit(f"{folder}: no job appeared there within {_SECONDS_FOR_JOB} s; is it on a shared disk?")
        time.sleep(1)
    run(str(folder))


if __name__ == "__main__":
    main()
