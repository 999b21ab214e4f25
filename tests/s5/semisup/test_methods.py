"""What each method does with a step, its views and its gradients; that none waits for the device; exact resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from s5.data.loader import Batch, SegmentationData
from s5.data.transforms import Normalizer, PhotometryConfig
from s5.engine import ComputeConfig, resolve_compute
from s5.losses import LABELED_LOSSES, alone, labeled_loss
from s5.models import ModelConfig, create_model
from s5.seeds import Draws
from s5.semisup import S4PConfig, pretrain_s4p
from s5.semisup.cutmix import CutMixConfig, draw_boxes, partners_of
from s5.semisup.fixmatch import fixmatch
from s5.semisup.mean_teacher import MeanTeacherConfig, mean_teacher
from s5.semisup.pseudo_labels import PseudoLabelConfig, PseudoLabeler
from s5.semisup.s4p import S4P
from s5.semisup.step import ChangeMaps, Step, StrongView
from s5.semisup.unimatch_v2 import UniMatchV2Config, complementary_dropout, complementary_masks, unimatch_v2
from s5.types import BandStatistics, LabelSpace

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
METHODS: dict[str, dict[str, Any]] = {
    "fixmatch, ema": {},
    "fixmatch, self": {"teacher": "self"},
    "mean_teacher, mse": {"method": "mean_teacher"},
    "mean_teacher, kl": {"method": "mean_teacher", "mean_teacher": {"distance": "kl"}},
    "unimatch_v2": {"method": "unimatch_v2"},
}
THRESHOLDS: list[dict[str, Any]] = [
    {"threshold": "per_class", "tau": 0.4},
    {"threshold": "share", "tau": 0.4},
    {"threshold": "freematch"},
    {"threshold": "softmatch", "uniform_alignment": True},
]
LABELS = LabelSpace(("a", "b", "c"))
NO_PHOTOMETRY = PhotometryConfig(jitter=0.0, gray=0.0, blur=0.0)


class Recorder:
    """A student that keeps what it is shown and says what it is told."""

    def __init__(self, *logits: torch.Tensor) -> None:
        self.logits = logits
        self.seen: tuple[torch.Tensor, ...] = ()
        self.change_maps: ChangeMaps | None = None

    def __call__(self, *images: torch.Tensor, change_maps: ChangeMaps | None = None) -> tuple[torch.Tensor, ...]:
        assert len(images) == len(self.logits)
        self.seen, self.change_maps = images, change_maps
        return self.logits


def make_step(student: Recorder, *, valid: torch.Tensor | None = None, seed: int = 0, **cutmix: Any) -> Step:
    """Two labelled and four unlabelled images of 8 x 8 px, with a teacher that is sure of some pixels."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(4, 8, 8, generator=g) < 0.8 if valid is None else valid
    teacher = 3 * torch.randn(4, 3, 8, 8, generator=g)
    return Step(
        labeled=torch.rand(2, 3, 8, 8, generator=g),
        unlabeled=torch.rand(4, 3, 8, 8, generator=g),
        valid=valid,
        teacher_logits=teacher,
        pseudo=PseudoLabeler(PseudoLabelConfig(tau=0.7), 3, device=torch.device("cpu")).label(teacher, valid),
        class_weights=torch.tensor([0.5, 1.0, 2.0]),
        student=student,
        photometry=NO_PHOTOMETRY,
        cutmix=CutMixConfig(**cutmix),
        pool=alone,
        drawn=Draws(torch.Generator().manual_seed(seed + 1)),
    )


def student_logits(views: int, seed: int = 5) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 8, 8, generator=g).requires_grad_() for n in (2, *[4] * views)]


def pasted(values: torch.Tensor, view: StrongView) -> torch.Tensor:
    """CutMix by a loop."""
    out = values.clone()
    for b, y, x in view.boxes.nonzero().tolist():
        out[b, ..., y, x] = values[view.partners[b], ..., y, x]
    return out


def fixmatch_by_hand(step: Step, view: StrongView, logits: torch.Tensor) -> float:
    classes, confidence = pasted(step.pseudo.classes, view), pasted(step.pseudo.confidence, view)
    valid = pasted(step.valid, view)
    total = 0.0
    for b, y, x in valid.nonzero().tolist():
        if confidence[b, y, x] >= 0.7:
            label = int(classes[b, y, x])
            total -= float(logits[b, :, y, x].detach().log_softmax(0)[label] * step.class_weights[label])
    return total / int(valid.sum())


@contextmanager
def views_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StrongView]]:
    made: list[StrongView] = []
    real = Step.strong_view

    def strong_view(self: Step) -> StrongView:
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Step, "strong_view", strong_view)
    yield made
    monkeypatch.setattr(Step, "strong_view", real)


def test_fixmatch_equals_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = student_logits(1)
    student = Recorder(*logits)
    step = make_step(student, probability=1.0)
    with views_of(monkeypatch) as views:
        found_labeled, loss = fixmatch(step)
    assert found_labeled is logits[0]
    assert len(views) == 1 and student.seen[0] is step.labeled and student.change_maps is None
    torch.testing.assert_close(student.seen[1], pasted(step.unlabeled, views[0]))
    assert loss.item() == pytest.approx(fixmatch_by_hand(step, views[0], logits[1]), rel=1e-5)


@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_mean_teacher_equals_the_loop(monkeypatch: pytest.MonkeyPatch, distance: str) -> None:
    logits = student_logits(1)
    step = make_step(Recorder(*logits), probability=1.0)
    with views_of(monkeypatch) as views:
        _, loss = mean_teacher(step, MeanTeacherConfig(distance))
    teacher, valid = pasted(step.teacher_logits.softmax(1), views[0]), pasted(step.valid, views[0])
    student, total = logits[1].detach().softmax(1), 0.0
    for b, y, x in valid.nonzero().tolist():
        p, q = student[b, :, y, x], teacher[b, :, y, x]
        cost = ((p - q) ** 2).sum() / 3 if distance == "mse" else (q * (q.log() - p.log())).sum()
        total += float(cost * step.class_weights[int(q.argmax())])
    assert loss.item() == pytest.approx(total / int(valid.sum()), rel=1e-5)


def test_unimatch_is_the_mean_of_two_views_and_teaches_both(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = student_logits(2)
    student = Recorder(*logits)
    step = make_step(student, probability=1.0)
    with views_of(monkeypatch) as views:
        _, loss = unimatch_v2(step, UniMatchV2Config())
    assert len(views) == 2 and not torch.equal(views[0].boxes, views[1].boxes)
    by_hand = [fixmatch_by_hand(step, view, one) for view, one in zip(views, logits[1:], strict=True)]
    assert loss.item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    loss.backward()
    for one in logits[1:]:
        assert one.grad is not None and one.grad.abs().sum() > 0
    assert logits[0].grad is None  # the labelled half has a loss of its own
    assert student.change_maps is not None


@given(
    batch=st.integers(1, 6),
    channels=st.integers(1, 40),
    seed=st.integers(0, 100),
    dropped=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_masks_are_complementary(batch: int, channels: int, seed: int, dropped: float) -> None:
    g = torch.Generator().manual_seed(seed)
    chosen = Draws(g).some(batch, dropped)
    assert int(chosen.sum()) == batch - int(batch * (1 - dropped))
    first, second = complementary_masks(channels, chosen, Draws(g))
    assert torch.equal(first + second, torch.full((batch, channels), 2.0))
    for b in range(batch):
        allowed = {1.0} if not chosen[b] else {0.0, 2.0}  # 2 is one over the odds of keeping
        assert set(first[b].tolist()) <= allowed and set(second[b].tolist()) <= allowed


def test_half_of_the_channels_go() -> None:
    first, _ = complementary_masks(200, torch.ones(50, dtype=torch.bool), Draws(torch.Generator().manual_seed(0)))
    assert float((first == 0).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_maps_of_one_width_lose_the_same_channels_and_labelled_images_none() -> None:
    change = complementary_dropout(2, torch.tensor([True, False, True]), Draws(torch.Generator().manual_seed(0)))
    maps = [torch.ones(8, width, side, side) for width, side in ((16, 8), (32, 4), (16, 2))]
    fine, other, coarse = change(maps)
    assert all(one.shape == map_.shape for one, map_ in zip((fine, other, coarse), maps, strict=True))
    assert torch.equal(fine[:, :, 0, 0], coarse[:, :, 0, 0])
    for one in (fine, other, coarse):
        assert torch.equal(one, one[:, :, :1, :1].expand_as(one))  # whole channels
        assert (one[:2] == 1).all()
        assert (one[2:5] + one[5:8] == 2).all()
        assert (one[3] == 1).all() and (one[6] == 1).all()  # the image that is kept, in both views
        assert (one[2] == 0).any() and (one[2] == 2).any()


def test_the_decoder_gets_the_changed_maps() -> None:
    model = create_model("resnet10t", "light", classes=3, decoder_channels=8).eval()
    images = torch.randn(2, 3, 64, 64)
    plain = model(images)
    torch.testing.assert_close(model(images, lambda maps: maps), plain, rtol=0, atol=0)
    without = model(images, lambda maps: [0 * one for one in maps])
    torch.testing.assert_close(without[0], without[1], rtol=0, atol=0)  # nothing of the image is left
    assert not torch.allclose(plain[0], plain[1])


class Waits(TorchDispatchMode):
    """Fails where an operation on a GPU would make the host wait: a read value, or a shape that depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "is_nonzero", "equal.")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        assert not name.startswith(self.WAITING), f"{name} waits for the device"
        if name.startswith("index"):
            indices = [i for i in (args[1] if isinstance(args[1], list | tuple) else []) if i is not None]
            assert not any(i.dtype is torch.bool for i in indices), f"{name} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


def test_waits_are_seen() -> None:
    values = torch.ones(3)
    for wait in (lambda: values[values > 0], lambda: values[0].item(), lambda: bool(values.sum() > 0), values.nonzero):
        with Waits(), pytest.raises(AssertionError, match="waits for the device"):
            wait()


@pytest.mark.parametrize("threshold", [{"threshold": "fixed"}, *THRESHOLDS])
def test_pseudo_labels_do_not_wait_for_the_device(threshold: dict[str, Any]) -> None:
    one = PseudoLabeler(PseudoLabelConfig(**threshold), 3, device=torch.device("cpu"))
    valid, truth = torch.rand(2, 8, 8) < 0.8, torch.randint(0, 3, (2, 8, 8))
    with Waits():
        one.metrics(one.label(torch.randn(2, 3, 8, 8), valid), valid, truth, LABELS)


@pytest.mark.parametrize("name", LABELED_LOSSES)
def test_labelled_losses_do_not_wait_for_the_device(name: str) -> None:
    logits, target = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (2, 8, 8))
    with Waits():
        labeled_loss(logits, target, name=name, class_weights=torch.ones(3)).backward()


@pytest.mark.parametrize("method", [fixmatch, mean_teacher, unimatch_v2])
def test_methods_do_not_wait_for_the_device(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are made beforehand: their draws are on the CPU, where reading a value waits for nobody."""
    step = make_step(Recorder(*student_logits(2 if method is unimatch_v2 else 1)))
    boxes = draw_boxes(4, 8, 8, step.cutmix, Draws(torch.Generator().manual_seed(0)))
    partners = partners_of(4)
    monkeypatch.setattr(Step, "strong_view", lambda self: StrongView(self.unlabeled, boxes, partners))
    config = {mean_teacher: (MeanTeacherConfig("kl"),), unimatch_v2: (UniMatchV2Config(),)}.get(method, ())
    with Waits():
        method(step, *config)[1].backward()


class Blank:
    """Tiles without a label and without a valid pixel."""

    def __len__(self) -> int:
        return 4

    def read(self, index: int) -> Any:
        import numpy as np

        mask = np.full((32, 32), 255 if index else 0, np.uint8)  # one labelled tile, for the class weights
        return np.full((3, 32, 32), 9 * index, np.uint8), mask, np.zeros((32, 32), bool)


@pytest.mark.parametrize("labeled", LABELED_LOSSES)
@pytest.mark.parametrize("threshold", [{"threshold": "fixed"}, *THRESHOLDS])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_nothing_is_a_loss_of_zero(method: str, threshold: dict[str, Any], labeled: str) -> None:
    torch.manual_seed(0)
    options = {"width": 12, "depth": 4, "heads": 2}
    model = create_model("s5_vit", "light", classes=3, decoder_channels=8, image_size=32, encoder_options=options)
    statistics = BandStatistics(("r", "g", "b"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
    config = S4PConfig(
        steps=2,
        batch_size=2,
        unlabeled_batch_size=2,
        labeled_loss=labeled,
        pseudo_labels=threshold,
        augmentation={"crop": 32},
        **METHODS[method],
    )
    s4p = S4P(model, Blank(), Blank(), Normalizer(statistics), LABELS, config, resolve_compute(CPU), seed=0)
    nothing = Batch(
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        torch.full((2, 32, 32), 255, dtype=torch.uint8),
        torch.zeros(2, 32, 32, dtype=torch.bool),
        [0, 1],
    )
    row = {name: float(value) for name, value in s4p.step(0, (nothing, nothing)).items()}
    assert row["loss"] == row["loss_labeled"] == row["loss_unlabeled"] == 0
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize(
    ("method", "threshold"),
    [*[(name, {"tau": 0.4}) for name in METHODS], *[("fixmatch, ema", threshold) for threshold in THRESHOLDS]],
)
def test_resumed_is_bit_identical(
    tiny_data: SegmentationData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    threshold: dict[str, Any],
) -> None:
    config = S4PConfig(
        steps=7,
        batch_size=2,
        unlabeled_batch_size=2,
        validate_every=0,
        checkpoint_every=3,
        pseudo_labels=threshold,
        augmentation={"crop": 32},
        **METHODS[method],
    )
    model = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)

    def train(folder: str) -> Any:
        pool = [f"unlabeled_{i}" for i in range(6)]
        return pretrain_s4p(tiny_data, pool, model, config, CPU, name="s4p", project=tmp_path / folder, seed=3)

    whole = train("whole")
    real = S4P.step

    def dies(self: S4P, step: int, batches: Any) -> Any:
        if step == 5:
            raise RuntimeError("killed")
        return real(self, step, batches)

    monkeypatch.setattr(S4P, "step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train("killed")
    monkeypatch.setattr(S4P, "step", real)
    resumed = train("killed")
    assert resumed.pointer["resumed_from"] == [3]
    assert resumed.pointer["sha256"] == whole.pointer["sha256"]
    assert repr(resumed.history) == repr(whole.history)  # NaN is not equal to itself


def test_mean_teacher_counts_every_valid_pixel(tiny_data: SegmentationData, tmp_path: Path) -> None:
    config = S4PConfig(steps=2, batch_size=2, unlabeled_batch_size=2, method="mean_teacher", augmentation={"crop": 32})
    model = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)
    result = pretrain_s4p(tiny_data, ["unlabeled_0"], model, config, CPU, name="s4p", project=tmp_path, seed=0)
    assert [row["confident_share"] for row in result.history] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "unimatch"}, r"method: expected one of .*unimatch_v2'\), got 'unimatch'"),
        (
            {"method": "mean_teacher", "teacher": "self"},
            r"teacher: expected 'ema' with the method 'mean_teacher', got 'self'",
        ),
        ({"method": "unimatch_v2", "teacher": "self"}, r"teacher: expected 'ema' with the method 'unimatch_v2'"),
        ({"mean_teacher": {"distance": "l1"}}, r"mean_teacher\.distance: expected one of \('mse', 'kl'\), got 'l1'"),
        (
            {"unimatch_v2": {"dropped": 1.5}},
            r"unimatch_v2\.dropped: expected a share of the images in \[0, 1\], got 1\.5",
        ),
        ({"labeled_loss": "focal"}, r"labeled_loss: expected one of \('ce', 'ohem', 'ce_dice'\), got 'focal'"),
        ({"ohem": {"min_kept": 0}}, r"ohem\.min_kept: expected a value in \(0, 1\], got 0"),
    ],
)
def test_ranges(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        S4PConfig(**values)
