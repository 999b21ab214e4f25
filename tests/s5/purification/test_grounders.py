"""Real classes of transformers and open_clip, tiny and with random weights, through their real processors."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", reason="needs the extra s5[vlm]")
pytest.importorskip("open_clip", reason="needs the extra s5[vlm]")

from s5.purification.clip import dense_features, entropy_as_unknown, window_starts
from s5.purification.grounding import GroundingConfig, create_grounder, with_unknown
from s5.purification.qwen import filled
from s5.purification.sam import BoxMasker

spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

CLASSES = ["road", "water", "other"]
PROMPTS = {"road": ["road", "street"], "water": ["river or lake"]}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 48, 64), dtype=np.uint8))


def check(evidence: torch.Tensor, size: tuple[int, int] | None = None) -> None:
    assert evidence.dtype == torch.float32 and evidence.shape[:2] == (2, 4)
    assert evidence.min() >= 0 and evidence.max() <= 1
    assert size is None or tuple(evidence.shape[2:]) == size


@pytest.mark.parametrize("version", ["2.5", "3"])
@pytest.mark.parametrize("masks", [None, "sam", "sam2"])
def test_qwen_vl(tmp_path, images, version, masks, monkeypatch):
    folder = tiny.qwen(tmp_path / "qwen", version)
    sam = str(getattr(tiny, masks)(tmp_path / masks)) if masks else None
    config = GroundingConfig("qwen_vl", str(folder), sam=sam, device="cpu", max_new_tokens=4)
    grounder = create_grounder(config, CLASSES, PROMPTS, background="other")
    evidence = grounder.ground(images)  # random weights write nonsense: nothing is known
    check(evidence, (48, 64))
    assert (evidence[:, 3] == 1).all() and (evidence[:, :3] == 0).all()

    # 64 x 48 pixels become 56 x 56 for Qwen2.5-VL (multiples of 28), and Qwen3-VL speaks of thousandths
    right_half = {"2.5": "[28, 0, 56, 56]", "3": "[500, 0, 1000, 1000]"}[version]
    asked = []

    def answer(**inputs):
        asked.append(grounder._processor.batch_decode(inputs["input_ids"])[0])
        said = f'```json\n[{{"bbox_2d": {right_half}, "label": "street"}}]\n```'
        written = grounder._processor.tokenizer(said, return_tensors="pt")["input_ids"]
        return torch.cat([inputs["input_ids"], written.expand(2, -1)], 1)

    monkeypatch.setattr(grounder._model, "generate", answer)
    evidence = grounder.ground(images)
    check(evidence, (48, 64))
    assert len(asked) == 2 and "street, river or lake" in asked[1] and "other" not in asked[0].split("Answer")[0]
    if masks is None:
        right = torch.zeros(48, 64)
        right[:, 32:] = 1
        assert torch.equal(evidence[:, 0], right.expand(2, -1, -1))
        assert torch.equal(evidence[:, 3], 1 - right.expand(2, -1, -1))
    else:
        assert evidence[:, 0].std() > 0 and (evidence[:, 1:3] == 0).all()
        torch.testing.assert_close(evidence[:, 3], 1 - evidence[:, 0])


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_box_masks_have_the_images_size_and_depend_on_the_box(tmp_path, images, kind):
    masker = BoxMasker.load(str(getattr(tiny, kind)(tmp_path)), GroundingConfig(model="-", device="cpu"))
    masks = masker.masks(images[0], [(0, 0, 20, 20), (30, 10, 60, 40)])
    assert masks.shape == (2, 48, 64) and masks.min() >= 0 and masks.max() <= 1
    again = masker.masks(images[0], [(30, 10, 60, 40)])
    torch.testing.assert_close(again[0], masks[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(masks[0], masks[1], atol=1e-6)


@pytest.mark.parametrize("name", ["sam3", "clipseg"])
def test_text_to_masks(tmp_path, images, name):
    config = GroundingConfig(name, str(getattr(tiny, name)(tmp_path)), device="cpu")
    grounder = create_grounder(config, CLASSES, PROMPTS, background="other")
    evidence = grounder.ground(images)
    check(evidence)
    assert (evidence[:, 2] == 0).all() and (evidence[:, :2] > 0).all()
    torch.testing.assert_close(evidence[:, 3], 1 - evidence[:, :3].amax(1))
    torch.testing.assert_close(grounder.ground(images[1:]), evidence[1:], atol=1e-5, rtol=1e-4)
    # two phrasings of a class are averaged
    alone = [
        create_grounder(config, CLASSES, {"road": [phrase]}, background="other").ground(images)[:, 0]
        for phrase in PROMPTS["road"]
    ]
    torch.testing.assert_close(evidence[:, 0], (alone[0] + alone[1]) / 2)


def test_clip_dense(tmp_path, images):
    folder = tiny.clip(tmp_path)
    config = GroundingConfig("clip_dense", str(folder), device="cpu", scale=1.0)
    grounder = create_grounder(config, CLASSES, PROMPTS)
    evidence = grounder.ground(images)
    check(evidence, (6, 8))
    torch.testing.assert_close(evidence.sum(1), torch.ones(2, 6, 8))
    # a bare name with a local file of weights, as RemoteCLIP and GeoRSCLIP come, is refused without the file
    with pytest.raises(ValueError, match=r"grounder.weights: 'ViT-B-32' is a bare architecture"):
        create_grounder(GroundingConfig("clip_dense", "ViT-B-32", device="cpu"), CLASSES)
    with pytest.raises(FileNotFoundError, match=r"grounder.weights: no file 'RemoteCLIP.pt'"):
        create_grounder(GroundingConfig("clip_dense", "ViT-B-32", weights="RemoteCLIP.pt", device="cpu"), CLASSES)


def test_clip_windows_are_averaged_where_they_overlap(tmp_path, images):
    """By brute force: each window alone, its cosine similarities added up patch by patch."""
    grounder = create_grounder(
        GroundingConfig("clip_dense", str(tiny.clip(tmp_path)), device="cpu", scale=1.0), CLASSES, PROMPTS
    )
    grounder._texts = grounder._texts.clone()
    normalised = (images.float() / 255 - grounder._mean) / grounder._std
    total, seen = torch.zeros(2, 3, 6, 8), torch.zeros(6, 8)
    for row in (0, 16):
        for col in (0, 16, 32):
            with torch.no_grad():
                part = dense_features(grounder._model.visual, normalised[:, :, row : row + 32, col : col + 32])
            for r in range(4):
                for c in range(4):
                    total[:, :, row // 8 + r, col // 8 + c] += F.cosine_similarity(
                        part[:, None, :, r, c], grounder._texts[None], dim=2
                    )
                    seen[row // 8 + r, col // 8 + c] += 1
    with torch.no_grad():
        found = grounder._similarity(normalised)
    torch.testing.assert_close(found, total / seen, atol=1e-5, rtol=1e-4)


def test_the_value_path_is_attention_to_oneself_alone(tmp_path, images):
    """The last block with a mask that lets each patch see itself only, run by open_clip's own code."""
    import open_clip

    visual = open_clip.create_model(f"local-dir:{tiny.clip(tmp_path)}").visual.eval()
    image = images[:, :, :32, :32].float() / 255
    with torch.no_grad():
        x = visual._embeds(image)
        x = visual.transformer.resblocks[0](x)
        alone = torch.full((17, 17), float("-inf")).fill_diagonal_(0)
        x = visual.ln_post(visual.transformer.resblocks[1](x, attn_mask=alone)[:, 1:]) @ visual.proj
        expected = x.transpose(1, 2).reshape(2, 16, 4, 4)
        torch.testing.assert_close(dense_features(visual, image), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "side", "patch"), [(32, 32, 8), (40, 32, 8), (128, 64, 4), (72, 32, 16 // 2)])
def test_windows_cover_a_length(length, side, patch):
    starts = window_starts(length, side, patch)
    covered = {pixel for start in starts for pixel in range(start, start + side)}
    assert covered == set(range(length)) and all(start % patch == 0 for start in starts)


def test_unknown_is_entropy():
    shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])[:, :, None, None]
    expected = [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0.25, 0.25, 0, 0, 0.5]]
    torch.testing.assert_close(entropy_as_unknown(shares)[:, :, 0, 0], torch.tensor(expected))


def test_unknown_is_what_no_class_claims():
    scores = torch.tensor([[0.2, 0.7], [0.0, 0.0]])[:, :, None, None]
    torch.testing.assert_close(with_unknown(scores)[:, :, 0, 0], torch.tensor([[0.2, 0.7, 0.3], [0, 0, 1.0]]))


def test_a_filled_box_holds_the_pixels_whose_centres_it_holds():
    box = filled((1.4, 0.6, 3.5, 2.5), (3, 4))
    assert torch.equal(box, torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).float())


def test_the_key_depends_on_weights_and_prompts(tmp_path):
    folder = tiny.clip(tmp_path)

    def key(prompts=None, **kwargs):
        return create_grounder(GroundingConfig("clip_dense", str(folder), device="cpu", **kwargs), CLASSES, prompts).key

    first = key(PROMPTS)
    assert first == key(PROMPTS) and first["grounder"] == "clip_dense" and first["model"].startswith("sha256:")
    assert first != key({"road": ["track"]}) and first != key(PROMPTS, scale=2.0)
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text() + " ")
    assert key(PROMPTS)["model"] != first["model"]


@pytest.mark.parametrize(
    ("name", "library"), [("qwen_vl", "transformers"), ("clipseg", "transformers"), ("clip_dense", "open_clip")]
)
def test_the_error_names_the_extra(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs the library '{library}'.*pip install 's5\[vlm\]'"):
        create_grounder(GroundingConfig(name, "somewhere/model", device="cpu"), CLASSES)


def test_the_libraries_are_imported_when_they_are_needed():
    names = ["boxes", "clip", "embedded", "grounding", "prompts", "qwen", "refinement", "sam", "text_masks"]
    code = f"import sys, {', '.join('s5.purification.' + name for name in names)}\n"
    code += "assert not {'transformers', 'open_clip'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "gpt"}, "grounder.name"),
        ({"model": ""}, "grounder.model"),
        ({"precision": "fp8"}, "grounder.precision"),
        ({"name": "clip_dense", "precision": "4bit"}, "grounder.precision"),
        ({"temperature": 0.0}, "grounder.temperature"),
        ({"device": "tpu"}, "grounder.device"),
        ({"max_new_tokens": 0}, "grounder.max_new_tokens"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        GroundingConfig(**{"model": "m", **values})


def test_a_background_that_is_no_class():
    with pytest.raises(ValueError, match="background: 'sky' is not one of the classes"):
        create_grounder(GroundingConfig("clipseg", "m"), CLASSES, background="sky")
