"""A checkpoint is whole or it is not taken."""

import json
import logging
from pathlib import Path

import pytest
import torch

from s5.engine import load_last_checkpoint, save_checkpoint


def test_the_last_whole_one_is_taken_and_old_ones_go(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        save_checkpoint(tmp_path, step, {"x": torch.tensor([step]), "rows": [{"a": 1.5}]}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_10", "step_4"]
    step, state = load_last_checkpoint(tmp_path)
    assert step == 10 and state["x"].item() == 10 and state["rows"] == [{"a": 1.5}]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no_seal", "empty_seal"])
def test_a_damaged_one_is_skipped_aloud(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.arange(100)}, keep=3)
    state = tmp_path / "step_2" / "state.pt"
    data = bytearray(state.read_bytes())
    if damage == "truncate":
        state.write_bytes(data[:-10])
    elif damage == "flip":
        data[len(data) // 2] ^= 0xFF
        state.write_bytes(data)
    elif damage == "no_seal":
        (tmp_path / "step_2" / "checkpoint.json").unlink()
    else:
        (tmp_path / "step_2" / "checkpoint.json").write_text("")
    with caplog.at_level(logging.WARNING):
        step, _ = load_last_checkpoint(tmp_path)
    assert step == 1
    assert "step_2" in caplog.text and "not whole" in caplog.text


def test_a_pickle_with_code_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "checkpoints" / "step_3"
    folder.mkdir(parents=True)
    torch.save({"x": Evil()}, folder / "state.pt")
    from s5.files import sha256_of

    (folder / "checkpoint.json").write_text(json.dumps({"step": 3, "sha256": sha256_of(folder / "state.pt")}))
    assert load_last_checkpoint(tmp_path / "checkpoints") is None
    assert not (tmp_path / "ran").exists()


def test_nothing_there(tmp_path: Path) -> None:
    assert load_last_checkpoint(tmp_path / "nowhere") is None


def test_a_half_written_one_does_not_count(tmp_path: Path) -> None:
    (tmp_path / ".step_5.tmp").mkdir()
    (tmp_path / ".step_5.tmp" / "state.pt").write_bytes(b"half")
    assert load_last_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 5, {"x": 1}, keep=1)
    assert load_last_checkpoint(tmp_path)[0] == 5
