"""The loop with a method that can be worked out by hand."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from s5.engine import Interrupted, LoopConfig, fit, load_last_checkpoint
from s5.engine.loop import run_key


class Walk:
    """Adds step + a random draw to one weight; `die_at` stops the process's run at that step."""

    def __init__(self, die_at: int | None = None, how: str = "raise", loss: float = 1.0) -> None:
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)
        self.die_at, self.how, self.loss = die_at, how, loss

    def read(self, step: int) -> Any:
        return (step,)

    def step(self, step: int, batches: Any) -> dict[str, torch.Tensor]:
        assert batches == (step,)
        if step == self.die_at:
            if self.how == "raise":
                raise RuntimeError("killed")
            os.kill(os.getpid(), signal.SIGTERM)
        with torch.no_grad():
            self.net.weight += step + torch.rand(())
        return {"loss": torch.tensor(self.loss), "value": self.net.weight.detach().clone().squeeze()}

    def evaluated(self) -> nn.Module:
        return self.net

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


def test_sigterm_writes_a_checkpoint_first(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="after step 8 of 23"):
        run(tmp_path, Walk(die_at=7, how="sigterm"))
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_last_checkpoint(tmp_path)[0] == 8
    resumed = run(tmp_path, Walk())
    assert resumed.resumed_from == [8]
    assert resumed.history == run(tmp_path / "other", Walk()).history


def test_every_step_is_logged_once_and_in_order(tmp_path: Path) -> None:
    seen: list[int] = []
    run(tmp_path, Walk(), log=lambda metrics, step: seen.append(step))
    assert seen == list(range(23))


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
