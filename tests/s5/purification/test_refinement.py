"""Evidence takes the boundaries of masks: closed forms, a loop over pixels, and SAM through its real processor."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s5.purification.config import MaskConfig, PriorConfig, PurificationConfig
from s5.purification.grounding import GroundingConfig
from s5.purification.priors import ground_tiles, open_priors
from s5.purification.refinement import Refined, mask_record, regions_of, vote
from s5.purification.sam import GridMasker, grid_points
from s5.types import BandStatistics, LabelSpace

CONFIG = MaskConfig(model="sam", vote=0.75, reach=3)
NO_MASKS = torch.zeros(0, 24, 24, dtype=torch.bool)


def square(row: int, col: int, height: int = 10, width: int = 10, size: int = 24) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[row : row + height, col : col + width] = True
    return mask


def evidence_of(objects: torch.Tensor, share: float = 0.7, unknown: float = 0.2) -> torch.Tensor:
    """Class 1 within, class 0 around, with some doubt and some that is unknown."""
    first = torch.where(objects, 1 - share - unknown, share)
    return torch.stack([first, 1 - unknown - first, torch.full_like(first, unknown)])


@pytest.mark.parametrize("shift", [(0, 3), (-3, 1), (2, -2)])
def test_a_mask_equal_to_an_object_gives_its_boundary_exactly(shift: tuple[int, int]) -> None:
    """The evidence lies some pixels off: too much on one side of the object, too little on the other."""
    truth = square(7, 7)
    evidence = evidence_of(square(7 + shift[0], 7 + shift[1]), share=0.78)
    assert not torch.equal(evidence[:-1].argmax(0), truth.long())
    found = vote(evidence, truth[None], replace(CONFIG, vote=0.55))
    assert torch.equal(found[:-1].argmax(0), truth.long())


def test_no_masks_and_a_mask_of_everything_change_nothing() -> None:
    evidence = evidence_of(square(7, 7))
    assert torch.equal(vote(evidence, NO_MASKS, CONFIG), evidence)
    assert torch.equal(vote(evidence, torch.ones(1, 24, 24, dtype=torch.bool), CONFIG), evidence)


def test_unknown_stays_unknown() -> None:
    truth = square(7, 7)
    evidence = evidence_of(truth, unknown=0.0)
    evidence[:, 8, 8] = torch.tensor([0.0, 0.0, 1.0])
    evidence[:, 9, 8] = 0.0  # nothing is said of it, which is unknown too
    evidence[:, 10, 8] = torch.tensor([0.3, 0.1, 0.6])
    found = vote(evidence, truth[None], replace(CONFIG, vote=0.6))
    assert torch.equal(found[-1], evidence[-1])
    assert torch.equal(found[:, 8, 8], evidence[:, 8, 8]) and torch.equal(found[:, 9, 8], evidence[:, 9, 8])
    torch.testing.assert_close(found[:, 10, 8], torch.tensor([0.0, 0.4, 0.6]))  # as much as before, for the other class
    nothing = torch.zeros(3, 24, 24)
    nothing[2] = 1
    assert torch.equal(vote(nothing, truth[None], CONFIG), nothing)


def test_a_mask_that_is_not_clear_and_what_lies_deep_in_it_are_left_alone() -> None:
    half = square(7, 7, width=5)
    evidence = evidence_of(half, share=0.8, unknown=0.0)
    mixed = square(7, 7)
    outside = ~mixed
    found = vote(evidence, mixed[None], CONFIG)
    assert torch.equal(found[:, mixed], evidence[:, mixed])
    assert not torch.equal(found[:, outside], evidence[:, outside])  # what lies around is clear
    island = square(11, 11, 2, 2)  # 4 pixels from the outline
    evidence = evidence_of(mixed & ~island, share=1.0, unknown=0.0)
    assert torch.equal(vote(evidence, mixed[None], CONFIG), evidence)
    assert torch.equal(vote(evidence, mixed[None], replace(CONFIG, reach=5))[1].bool(), mixed)


def test_a_smaller_mask_lies_over_a_larger_one_and_what_is_left_falls_in_pieces() -> None:
    wall, small, twice = square(0, 10, 24, 4), square(2, 11, 2, 2), square(1, 10, 4, 4)
    regions = regions_of(torch.stack([small, wall, twice]))
    ids = {name: set(regions[where].tolist()) for name, where in {
        "small": small, "twice": twice & ~small, "wall": wall & ~twice, "left": square(0, 0, 24, 10),
        "right": square(0, 14, 24, 10),
    }.items()}  # fmt: skip
    assert all(len(found) == 1 for found in ids.values()) and len(set.union(*ids.values())) == 5
    assert regions.unique().tolist() == list(range(5))
    assert (regions_of(NO_MASKS) == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_vote_equals_the_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    evidence = torch.from_numpy(rng.dirichlet([0.4] * 4, (10, 12))).float().permute(2, 0, 1)
    masks = torch.zeros(3, 10, 12, dtype=torch.bool)
    for mask in masks:
        row, col = rng.integers(0, 6, 2)
        mask[row : row + rng.integers(3, 6), col : col + rng.integers(3, 6)] = True
        evidence[int(rng.integers(3)), mask] += 1.5
    evidence /= evidence.sum(0)
    config = MaskConfig(vote=0.6, reach=2)
    regions, expected = regions_of(masks), evidence.clone()
    for y in range(10):
        for x in range(12):
            window = regions[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            said = evidence[:-1, regions == regions[y, x]].sum(1)
            if (window != regions[y, x]).any() and said.max() / said.sum() >= 0.6:
                expected[:-1, y, x] = 0
                expected[said.argmax(), y, x] = evidence[:-1, y, x].sum()
    found = vote(evidence, masks, config)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, evidence)


class Tiles:
    tile_ids = ("a", "b", "c")

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.full((3, 24, 24), index, np.uint8)
        return image, np.zeros((24, 24), np.uint8), np.ones((24, 24), bool)


class Coarse:
    """Evidence of half the size."""

    key = {"grounder": "coarse"}  # noqa: RUF012

    def ground(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return evidence_of(square(4, 4, 5, 5, size=12), share=1.0, unknown=0.0).repeat(len(images_BCHW), 1, 1, 1)


class Oracle:
    """The object, in all images but that of value 2, in which it finds nothing."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def masks(self, image: torch.Tensor) -> torch.Tensor:
        self.asked.append(int(image[0, 0, 0]))
        return NO_MASKS if image[0, 0, 0] == 2 else square(7, 7)[None]


STATISTICS = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)


def test_evidence_is_refined_once_before_it_is_stored_and_the_key_says_with_what(tmp_path: Path) -> None:
    def ground(grounder: Any) -> Any:
        return ground_tiles(
            Tiles(), grounder, STATISTICS, tmp_path, PriorConfig(batch_size=2), classes=("field", "house")
        )

    masker = Oracle()
    refined = Refined(Coarse(), masker, CONFIG, mask_record(CONFIG, "fp32"))
    found = ground(refined)
    assert ground(refined).asked == 0 and masker.asked == [0, 1, 2]
    reader = open_priors(found.file, ["a", "c"])
    assert reader.shape == (3, 24, 24)
    assert np.array_equal(reader.read_maps(0)[:2].argmax(0), square(7, 7).numpy())
    plain = torch.nn.functional.interpolate(Coarse().ground(torch.zeros(1, 1)), (24, 24), mode="bilinear")[0]
    assert np.array_equal(reader.read_maps(1), (255 * plain).round().numpy())  # without masks, as it was

    folders = {found.folder, ground(Coarse()).folder}
    for name, value in {"model": "sam2", "vote": 0.8, "reach": 4, "points_per_side": 8, "min_score": 0.5}.items():
        other = replace(CONFIG, **{name: value})
        folders.add(ground(Refined(Coarse(), masker, other, mask_record(other, "fp32"))).folder)
    folders.add(ground(Refined(Coarse(), masker, CONFIG, mask_record(CONFIG, "bf16"))).folder)
    assert len(folders) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskConfig(points_per_side=0), r"masks\.points_per_side: .* got 0"),
        (lambda: MaskConfig(reach=0), r"masks\.reach: .* got 0"),
        (lambda: MaskConfig(min_score=2.0), r"masks\.min_score: .* got 2\.0"),
        (lambda: MaskConfig(vote=0.5), r"masks\.vote: expected a share over 0\.5"),
        (lambda: PurificationConfig(refine="crf"), r"refine: expected one of \('none', 'sam'\), got 'crf'"),
        (lambda: PurificationConfig(refine="sam"), r"masks\.model: refine is 'sam'; give the folder or hub id"),
    ],
)
def test_settings_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_points_are_the_middles_of_equal_fields() -> None:
    assert grid_points(2, (40, 80)) == [(20.0, 10.0), (60.0, 10.0), (20.0, 30.0), (60.0, 30.0)]


@pytest.fixture(scope="module")
def tiny() -> Any:
    pytest.importorskip("transformers", reason="needs the extra s5[vlm]")
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 48, 64), dtype=np.uint8))


def outspoken(folder: Path) -> str:
    """SAM with clear masks and scores on both sides of 0.5, as random weights have neither."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        if model.config.model_type == "sam":  # of SAM 2 they go through a sigmoid
            model.mask_decoder.iou_prediction_head.proj_out.bias += 0.7
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight *= 5
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_masks_are_those_of_the_librarys_own_generator(
    kind: str, tmp_path: Path, tiny: Any, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """81 points, which are asked in two parts; masks of random weights are alike, so that many count as others here."""
    import transformers
    from PIL import Image

    same = 0.99
    monkeypatch.setattr("s5.purification.sam._SAME_BOX", same)
    config = MaskConfig(outspoken(getattr(tiny, kind)(tmp_path)), points_per_side=9, min_score=0.5, min_stability=0.3)
    masker = GridMasker.load(config, GroundingConfig(model="-", device="cpu"))
    generator = transformers.pipeline(
        "mask-generation", model=masker._model, image_processor=masker._processor.image_processor, device="cpu"
    )
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    expected = generator(
        picture, points_per_crop=9, pred_iou_thresh=0.5, stability_score_thresh=0.3, crops_nms_thresh=same
    )["masks"]
    found = masker.masks(image)
    assert found.dtype == torch.bool and 0 < len(found) == len(expected) < 81 * 3
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, torch.as_tensor(np.asarray(other)).bool())
    none = GridMasker(masker._model, masker._processor, replace(config, min_score=1.0)).masks(image)
    assert none.shape == (0, 48, 64)


def test_a_model_that_is_no_sam_is_named(tmp_path: Path, tiny: Any) -> None:
    config = MaskConfig(str(tiny.clipseg(tmp_path)))
    with pytest.raises(ValueError, match=r"masks\.model: .* is a 'clipseg'; give a SAM or SAM 2"):
        GridMasker.load(config, GroundingConfig(model="-", device="cpu"))


def test_the_pipeline_asks_a_grounder_and_refines_what_it_says(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models are folders of the project."""
    pytest.importorskip("open_clip", reason="needs the extra s5[vlm]")
    from s5_kedro.pipelines.purification.nodes import make_grounder

    tiny.clip(tmp_path / "clip"), outspoken(tiny.sam(tmp_path / "sam"))
    (tmp_path / "dataset.yml").write_text(
        "name: x\nclasses: [road, water]\nbands: [r, g, b]\nsplits: {unlabeled: {images: images}}"
    )
    (tmp_path / "images").mkdir()
    monkeypatch.setattr("s5_kedro.project._root", [tmp_path])
    masks = MaskConfig("sam", points_per_side=3, min_score=0.0, min_stability=0.0, vote=0.51)
    config = PurificationConfig(
        True, refine="sam", masks=masks, grounder=GroundingConfig("clip_dense", "clip", device="cpu", scale=1.0)
    )
    card, labels = str(tmp_path / "dataset.yml"), LabelSpace(("road", "water"))
    plain, refined = (make_grounder(one, labels, card, {}) for one in (replace(config, refine="none"), config))
    assert refined.key["masks.model"].startswith("sha256:") and refined.key.items() > plain.key.items()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 48, 64), dtype=np.uint8))
    before, after = plain.ground(images), refined.ground(images)
    whole = torch.nn.functional.interpolate(before, (48, 64), mode="bilinear")
    assert after.shape == (2, 3, 48, 64) and not torch.allclose(after, whole)
    torch.testing.assert_close(after.sum(1), torch.ones(2, 48, 64))
    torch.testing.assert_close(after[:, -1], whole[:, -1])
