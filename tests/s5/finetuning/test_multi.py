"""Several data sets in one training: who moves what, who joins when, and the same end however often it is stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig
from s5.finetuning import DatasetTerm, MultiConfig, train_mode, train_multi
from s5.finetuning.multi import MultiDatasetTraining, start_multi_model
from s5.models import (
    ModelConfig,
    MultiDatasetModel,
    create_model,
    load_model,
    load_multi_model,
    make_pointer,
    open_pointer,
    save_model,
)
from s5.types import LabelSpace

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
SIZES = {"width": 24, "depth": 4, "heads": 2}
MODEL = ModelConfig(encoder="s5_vit", decoder="light", decoder_channels=8, image_size=32, encoder_options=SIZES)
CONFIG = MultiConfig(
    steps=4,
    batch_size=2,
    part_features=8,
    validate_every=2,
    checkpoint_every=1,
    log_every=1,
    optimizer={"lr": 3e-3, "weight_decay": 0.5},  # type: ignore[arg-type]
    augmentation={"crop": 32},  # type: ignore[arg-type]
)


@pytest.fixture(scope="module")
def data(tiny_data: SegmentationData) -> dict[str, SegmentationData]:
    """The tiny data set, one with two of its four tiles, and one whose legend has a class more."""
    rows = tiny_data.manifest
    few = rows[~rows["tile_id"].isin(["labeled_2", "labeled_3"])]
    more = LabelSpace((*tiny_data.labels.classes, "road"))
    return {"town": tiny_data, "few": replace(tiny_data, manifest=few), "more": replace(tiny_data, labels=more)}


def train(data: dict[str, SegmentationData], project: Path, **changes: Any) -> Any:
    terms = changes.pop("terms", {})
    given = {key: changes.pop(key) for key in ("init", "like") if key in changes}
    config = replace(CONFIG, **changes)
    return train_multi(data, terms, MODEL, config, CPU, name="multi_model", project=project, seed=1, **given)


def weights(result: Any, project: Path) -> tuple[MultiDatasetModel, dict[str, Any]]:
    return load_multi_model(open_pointer(result.pointer, project))


def own_tensors(model: MultiDatasetModel, task: str) -> dict[str, torch.Tensor]:
    place = list(model.datasets).index(task)
    marks = (f"decoders.{task}.", f"heads.{task}.", f".experts.{place}.")
    return {name: value for name, value in model.state_dict().items() if any(mark in name for mark in marks)}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and one
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_steps_on_one_data_set_leave_the_others_parts_as_they_are_bit_for_bit(
    data: dict[str, SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decay pulls hard and the average follows: neither may reach a data set that has not begun."""
    found: list[MultiDatasetTraining] = []
    step = MultiDatasetTraining.step

    def watched(self: MultiDatasetTraining, number: int, batches: Any) -> Any:
        if number == 0:
            self.before = {name: t.clone() for name, t in self.learner.model.state_dict().items()}  # type: ignore[attr-defined]
        metrics = step(self, number, batches)
        if number == 2:
            for network in (self.learner.model, self.learner.ema.average):
                after = network.state_dict()
                moved = {name for name, t in after.items() if not torch.equal(t, self.before[name])}  # type: ignore[attr-defined]
                for task in ("few", "more"):
                    assert not moved & set(own_tensors(network, task))
                parameters = {name for name, _ in network.named_parameters()}
                assert moved & parameters >= set(own_tensors(network, "town")) & parameters
            found.append(self)
        return metrics

    monkeypatch.setattr(MultiDatasetTraining, "step", watched)
    terms = {"few": DatasetTerm(start=3), "more": DatasetTerm(start=3)}
    result = train(data, tmp_path, terms=terms)
    assert len(found) == 1
    assert ["loss_few" in row for row in result.history] == [False, False, False, True]
    assert result.pointer["labeled_seen"] == 2 * (4 + 1 + 1)


def test_losses_are_summed_with_weights_and_the_best_is_that_of_the_mean(
    data: dict[str, SegmentationData], tmp_path: Path
) -> None:
    result = train(data, tmp_path, terms={"few": DatasetTerm(weight=0.25)})
    for row in result.history:
        total = row["loss_town"] + 0.25 * row["loss_few"] + row["loss_more"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    scored = [row for row in result.history if "val_miou" in row]
    assert [row["step"] for row in scored] == [1, 3]
    for row in scored:
        assert row["val_miou"] == pytest.approx(sum(row[f"val_miou_{name}"] for name in data) / 3)
    best = max(scored, key=lambda row: row["val_miou"])
    assert result.pointer["step"] == best["step"] + 1
    assert result.pointer["val_mious"] == {name: best[f"val_miou_{name}"] for name in data}
    dense, metadata = load_model(open_pointer(result.pointer, tmp_path), task="more")
    assert metadata["classes"] == ["roof", "tree", "lake", "road"] and dense.num_classes == 4


def test_a_shorter_data_set_is_gone_through_again(
    data: dict[str, SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[int]]] = []
    step = MultiDatasetTraining.step
    monkeypatch.setattr(
        MultiDatasetTraining,
        "step",
        lambda self, n, b: (seen.append([batch.indices for batch in b]), step(self, n, b))[1],
    )
    train({name: data[name] for name in ("town", "few")}, tmp_path)
    assert [sorted(few) for _, few in seen] == [[0, 1]] * 4
    assert [sorted(seen[i][0] + seen[i + 1][0]) for i in (0, 2)] == [[0, 1, 2, 3]] * 2


def test_stopped_and_resumed_is_bit_identical(
    data: dict[str, SegmentationData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = {"more": DatasetTerm(start=2)}
    whole = train(data, tmp_path / "whole", terms=terms)
    step = MultiDatasetTraining.step

    def stops(self: MultiDatasetTraining, number: int, batches: Any) -> Any:
        if number == 3:
            raise RuntimeError("killed")
        return step(self, number, batches)

    monkeypatch.setattr(MultiDatasetTraining, "step", stops)
    with pytest.raises(RuntimeError, match="killed"):
        train(data, tmp_path / "killed", terms=terms)
    monkeypatch.setattr(MultiDatasetTraining, "step", step)
    resumed = train(data, tmp_path / "killed", terms=terms)
    assert resumed.pointer["resumed_from"] == [3]
    assert resumed.pointer["sha256"] == whole.pointer["sha256"]
    assert resumed.history == whole.history


def dense_pointer(project: Path, classes: int = 3) -> dict[str, Any]:
    torch.manual_seed(5)
    options = {"decoder_channels": 8, "image_size": 32, "encoder_options": SIZES}
    dense = create_model("s5_vit", "light", classes=classes, **options)
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = project / "dense.safetensors"
    save_model(dense, path, metadata={"classes": ["roof", "tree", "lake"]})
    return make_pointer(path, root=project, step=0, config={})


@torch.no_grad()
@pytest.mark.parametrize("part_features", [0, 8])
def test_every_data_set_starts_as_the_dense_checkpoint(
    data: dict[str, SegmentationData], tmp_path: Path, part_features: int
) -> None:
    pointer = dense_pointer(tmp_path)
    config = replace(CONFIG, part_features=part_features)
    network, learning = start_multi_model(data, MODEL, config, seed=0, project=tmp_path, init=pointer)
    assert learning == list(data)
    dense = load_model(tmp_path / pointer["path"])[0].double()
    network = network.double().eval()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for task in ("town", "few"):
        assert float((network(image, task) - dense(image)).abs().max()) <= 1e-6
    assert network(image, "more").shape[1] == 4


def test_a_data_set_is_added_and_the_rest_stays_or_moves(data: dict[str, SegmentationData], tmp_path: Path) -> None:
    first = train({"town": data["town"], "few": data["few"]}, tmp_path)
    before, _ = weights(first, tmp_path)
    frozen = train({"more": data["more"]}, tmp_path, init=first.pointer, learns="added", like="few")
    after, metadata = weights(frozen, tmp_path)
    assert list(after.datasets) == ["town", "few", "more"] and set(metadata["datasets"]) == set(after.datasets)
    state = after.state_dict()
    assert_equal(before.state_dict(), {name: state[name] for name in before.state_dict()})
    place, copied = "encoder.body.blocks.0.mlp.experts", before.state_dict()
    assert not torch.equal(state[f"{place}.2.weight"], copied[f"{place}.1.weight"])  # it began there, and has learnt

    start, _ = start_multi_model(
        {"more": data["more"]}, MODEL, CONFIG, seed=1, project=tmp_path, init=first.pointer, like="few"
    )
    assert torch.equal(start.state_dict()[f"{place}.2.weight"], copied[f"{place}.1.weight"])
    dense = dense_pointer(tmp_path)
    start, _ = start_multi_model(
        {"more": data["more"]}, MODEL, CONFIG, seed=1, project=tmp_path, init=first.pointer, like=dense
    )
    rows = load_model(tmp_path / dense["path"])[0].state_dict()["encoder.body.blocks.0.mlp.fc2.weight"]
    assert torch.equal(start.state_dict()[f"{place}.2.weight"], rows[-8:])

    moved, _ = weights(train(data, tmp_path, init=first.pointer), tmp_path)
    for task in before.datasets:
        theirs = own_tensors(before, task)
        assert any(not torch.equal(value, theirs[name]) for name, value in own_tensors(moved, task).items())


def test_modes_are_the_rows_of_the_papers_table(data: dict[str, SegmentationData], tmp_path: Path) -> None:
    two, config = {name: data[name] for name in ("town", "more")}, replace(CONFIG, steps=2)
    for mode, sizes in (("sdf", [("town",), ("more",)]), ("mdf", [("town", "more")])):
        found = train_mode(mode, two, {}, MODEL, config, CPU, name=mode, project=tmp_path, seed=0)
        assert list(found) == sizes
    alone = train_mode(
        "sdf", two, {"more": DatasetTerm(start=1)}, MODEL, config, CPU, name="x", project=tmp_path, seed=0
    )
    assert [result.pointer["steps_total"] for result in alone.values()] == [2, 1]
    dense, metadata = load_model(open_pointer(alone["more",].pointer, tmp_path))
    assert metadata["classes"] == list(data["more"].labels.classes) and dense.num_classes == 4


def test_bad_requests_say_what_to_do(data: dict[str, SegmentationData], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weight: expected a factor over 0, got 0"):
        DatasetTerm(weight=0)
    with pytest.raises(ValueError, match="learns: expected all or added, got 'some'"):
        replace(CONFIG, learns="some")
    with pytest.raises(ValueError, match="it would join at step 4 of 4; take an earlier one"):
        train(data, tmp_path, terms={"few": DatasetTerm(start=4)})
    with pytest.raises(ValueError, match="none of them starts at step 0"):
        train({"few": data["few"]}, tmp_path, terms={"few": DatasetTerm(start=1)})
    with pytest.raises(ValueError, match="'added' needs init"):
        train(data, tmp_path, learns="added")
    with pytest.raises(ValueError, match="mode: expected one of sdf, mdf, moe, got 'mode'"):
        train_mode("mode", data, {}, MODEL, CONFIG, CPU)


@pytest.mark.slow
def test_two_processes_with_half_of_each_batch_are_one_with_all(
    data: dict[str, SegmentationData], tmp_path: Path
) -> None:
    """A pass uses some parameters alone, and a data set that has not begun none of its own: DDP must not wait."""
    model = replace(MODEL, dropout=0.0)
    terms, config = {"more": DatasetTerm(start=2)}, replace(CONFIG, batch_size=4, optimizer={"lr": 5e-4})  # type: ignore[arg-type]
    one, two = (
        train_multi(
            data, terms, model, config, replace(CPU, devices=devices), name="m", project=tmp_path / str(devices), seed=1
        )
        for devices in (1, 2)
    )
    for row, other in zip(one.history, two.history, strict=True):
        assert row.keys() == other.keys()
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
    ours, theirs = weights(one, tmp_path / "1")[0].state_dict(), weights(two, tmp_path / "2")[0].state_dict()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=2e-3, msg=name)
