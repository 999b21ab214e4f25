"""The loop with a method that can be worked out by hand."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from s5.engine import Checkpoints, Interrupted, LoopConfig, fit
from s5.engine.loop import run_key


class Walk:
    """Adds step + a random draw to one weight; `die_at` stops the process's run at that step."""

    def __init__(self, die_at: int | None = None, how: int | None = None, loss: float = 1.0) -> None:
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)
        self.die_at, self.how, self.loss = die_at, how, loss

    def read(self, step: int) -> Any:
        return (step,)

    def step(self, step: int, batches: Any) -> dict[str, torch.Tensor]:
        assert batches == (step,)
        if step == self.die_at:
            if self.how is None:
                raise RuntimeError("killed")
            os.kill(os.getpid(), self.how)
        with torch.no_grad():
            self.net.weight += step + torch.rand(())
        self.done = step + 1
        return {"loss": torch.tensor(self.loss), "value": self.net.weight.detach().clone().squeeze()}

    def evaluated(self) -> nn.Module:
        return self.net

    def images_per_step(self) -> int:
        return 4

    def on_log(self, rows: list[dict[str, float]]) -> None:
        self.rows = len(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])


def run(folder: Path, method: Walk, log: Any = lambda m, s: None, **config: Any) -> Any:
    return fit(
        method,
        LoopConfig(steps=23, **{"checkpoint_every": 5, "log_every": 4, **config}),
        name="walk",
        seed=1,
        folder=folder,
        log=log,
    )


def test_killed_and_resumed_equals_never_killed(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", Walk())
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "b", Walk(die_at=13))
    resumed = run(tmp_path / "b", Walk())
    assert resumed.resumed_from == [10]
    assert resumed.history == whole.history
    assert torch.equal(resumed.best_weights["weight"], whole.best_weights["weight"])
    assert [row["step"] for row in whole.history] == list(range(23))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("checkpoint_every", [5, 0])
def test_a_stopped_run_writes_a_checkpoint_first(tmp_path: Path, number: int, checkpoint_every: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="after step 8 of 23; run again to go on from it"):
        run(tmp_path, Walk(die_at=7, how=number), checkpoint_every=checkpoint_every)
    assert signal.getsignal(number) is before
    assert Checkpoints(tmp_path).load_last()[0] == 8
    resumed = run(tmp_path, Walk())
    assert resumed.resumed_from == [8]
    assert resumed.history == run(tmp_path / "other", Walk()).history


def test_a_run_stopped_at_its_last_step_has_nothing_left_to_do(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="after step 23 of 23"):
        run(tmp_path, Walk(die_at=22, how=signal.SIGTERM))
    resumed, whole = run(tmp_path, Walk()), run(tmp_path / "other", Walk())
    assert resumed.history == whole.history
    assert torch.equal(resumed.best_weights["weight"], whole.best_weights["weight"])


def test_a_stop_that_arrives_while_rows_are_read_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question whether to read the rows and the one whether to write a checkpoint."""

    class Stop(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 6

    monkeypatch.setattr("s5.engine.loop._stop_requested", lambda: nullcontext(Stop()))
    with pytest.raises(Interrupted, match="after step 7"):
        run(tmp_path, Walk())
    monkeypatch.undo()
    assert [row["step"] for row in run(tmp_path, Walk()).history] == list(range(23))


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_damaged_checkpoints_are_passed_over(tmp_path: Path, whole: int, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, Walk(die_at=13))
    for step in (5, 10)[whole:]:
        path = tmp_path / f"step_{step}" / "tensors.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    resumed = run(tmp_path, Walk())
    assert resumed.resumed_from == [5, 10][:whole][-1:]
    assert len([r for r in caplog.records if "is skipped" in r.getMessage()]) == 2 - whole
    assert ("starting again from step 0" in caplog.text) == (whole == 0)
    assert resumed.history == run(tmp_path / "other", Walk()).history


def test_a_checkpoint_of_another_network_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, Walk(die_at=13))
    other = Walk()
    other.net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"step_10: this checkpoint is not of this walk \(.*remove the folder"):
        run(tmp_path, other)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = Walk.step

    def fills_the_disk(self: Walk, number: int, batches: Any) -> dict[str, torch.Tensor]:
        if number == 8:
            monkeypatch.setattr("s5.engine.checkpoint.safetensors.torch.save_file", full)
        return step(self, number, batches)

    monkeypatch.setattr(Walk, "step", fills_the_disk)
    state = run(tmp_path, Walk())
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [w.split("(")[0] for w in warnings] == [
        f"walk: the checkpoint of step {n} could not be written " for n in (10, 15, 20)
    ]
    assert "No space left on device" in warnings[0] and "stopped now, it would go on from step 5" in warnings[0]
    assert [path.name for path in tmp_path.iterdir()] == ["step_5"]
    assert len(state.history) == 23


def test_a_run_stopped_on_a_full_disk_says_that_the_step_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s5.engine.checkpoint.safetensors.torch.save_file", full)
    with pytest.raises(Interrupted, match="after step 8 of 23; no checkpoint of it could be written, see above"):
        run(tmp_path, Walk(die_at=7, how=signal.SIGTERM))


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_threads_do_not_change_what_is_read(tmp_path: Path, threads: int) -> None:
    class Slow(Walk):
        def read(self, step: int) -> Any:
            time.sleep(0.002 * (step % 3))  # threads overtake each other
            self.readers.add(threading.get_ident())
            return (step,)

    method = Slow()
    method.readers = set()
    state = fit(method, LoopConfig(steps=23), name="walk", seed=1, folder=tmp_path, read_threads=threads)
    assert len(method.readers) == threads
    assert state.history == run(tmp_path / "other", Walk()).history


def test_every_step_is_logged_once_and_in_order(tmp_path: Path) -> None:
    seen: list[int] = []
    run(tmp_path, Walk(), log=lambda metrics, step: seen.append(step))
    assert seen == list(range(23))


def test_a_resumed_run_hands_the_log_what_was_before_it(tmp_path: Path) -> None:
    """A killed process may have had steps of a checkpoint waiting that it never wrote to its log."""
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, Walk(die_at=13))
    seen: list[tuple[int, float]] = []
    resumed = run(tmp_path, Walk(), log=lambda metrics, step: seen.append((step, metrics["value"])))
    assert seen == [(row["step"], row["value"]) for row in resumed.history]


def test_the_best_weights_survive(tmp_path: Path) -> None:
    """The best validation is that of step 2: its checkpoint stays, and its weights are in all later ones."""
    runs = []
    for folder, deaths in ((tmp_path / "whole", ()), (tmp_path / "killed", (5, 7))):
        for die_at in (*deaths, None):
            method = Walk(die_at)

            def validate(net: nn.Module, method: Walk = method) -> float:
                return {2: 30.0, 4: 10.0, 6: 20.0, 8: 5.0}[method.done]

            config = LoopConfig(steps=8, validate_every=2, checkpoint_every=1, keep=1)
            try:
                runs.append(fit(method, config, name="walk", seed=0, folder=folder, validate=validate))
            except RuntimeError:
                kept = sorted(path.name for path in folder.iterdir())
                assert kept == ["step_2", f"step_{die_at}"]
    whole, killed = runs
    assert killed.resumed_from == [5, 7]
    assert (killed.best_score, killed.best_step) == (whole.best_score, whole.best_step) == (30.0, 2)
    assert torch.equal(killed.best_weights["weight"], whole.best_weights["weight"])
    assert killed.history == whole.history


def test_the_best_validation_is_kept(tmp_path: Path) -> None:
    scores = iter([10.0, 30.0, 20.0, 5.0])
    method = Walk()
    state = fit(
        method,
        LoopConfig(steps=8, validate_every=2),
        name="walk",
        seed=0,
        folder=tmp_path,
        validate=lambda model: next(scores),
    )
    assert (state.best_score, state.best_step) == (30.0, 4)
    assert state.best_weights["weight"].item() == pytest.approx(state.history[3]["value"])
    assert [r["val_miou"] for r in state.history if "val_miou" in r] == [10.0, 30.0, 20.0, 5.0]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        run(tmp_path, Walk(loss=float("nan")))


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"steps": 1.5}, {"steps": 1, "keep": 0}, {"steps": 1, "validate_every": -1}]
)
def test_ranges(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        LoopConfig(**values)


def test_run_key_is_of_the_content() -> None:
    assert run_key(a=1, b={"x": [1, 2]}) == run_key(b={"x": [1, 2]}, a=1)
    assert run_key(a=1) != run_key(a=2)
