import re

import pytest

from s5.data.card import CardError, load_card
from s5.data.protocol import PRESETS


@pytest.fixture
def labeled(world):
    world.pair("labeled", "a")
    return world


def test_a_card_is_read_with_all_its_keys(labeled):
    labeled.text("list.csv", "image,mask\nlabeled/images/a.tif,labeled/masks/a.tif\n")
    labeled.text("boxes/a.txt", "")
    path = labeled.card(
        {"labeled": {"images": "labeled/images", "masks": "labeled/masks", "boxes": "boxes"},
         "noisy": {"list": "list.csv", "legend": {11: "water", 82: "field", 0: None}}},
        ignore_index=200, scale=10000, background="field", gsd=0.5, group=r"(\w)_", protocol="whole",
        palette={"field": [255, 0, 0], "water": ["#00ff00"], "road": [[0, 0, 1], [0, 0, 2]], "ignore": [0, 0, 0]},
        ignore_values=[7, -1], class_field="kind", prompts={"road": "street", "water": ["lake", "river"]},
        sensors={"optical": ["red", "green"]},
    )  # fmt: skip
    path.write_text(path.read_text().replace("- '#00ff00'", "- [0, 255, 0]"))
    card = load_card(path)
    assert card.labels.classes == ("field", "water", "road")
    assert (card.labels.ignore_index, card.labels.background) == (200, "field")
    assert (card.scale, card.gsd, card.group, card.protocol) == (10000.0, 0.5, r"(\w)_", PRESETS["whole"])
    assert card.prompts == {"road": ("street",), "water": ("lake", "river")}
    assert card.sensors == {"optical": ("red", "green")}
    coding = card.splits["labeled"].coding
    assert dict(coding.palette) == {
        (255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 1): 2, (0, 0, 2): 2, (0, 0, 0): None,
    }  # fmt: skip
    assert (coding.ignore_values, coding.class_field, coding.legend) == ((7, -1), "kind", ())
    assert dict(card.splits["noisy"].coding.legend) == {11: 1, 82: 0, 0: None}
    assert card.splits["noisy"].list_file == labeled.folder / "list.csv"
    assert card.splits["labeled"].boxes == labeled.folder / "boxes"


def test_defaults(labeled):
    card = load_card(labeled.card())
    assert card.labels.ignore_index == 255
    assert (card.scale, card.group, card.labels.background) == (None, None, None)
    assert list(card.splits) == ["labeled"]


def test_a_palette_may_be_a_list_of_hex_colours(labeled):
    card = load_card(labeled.card(palette=["#ff0000", "#00ff00", "#0000ff"]))
    assert dict(card.splits["labeled"].coding.palette) == {(255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 255): 2}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": []}, "at least 2 classes, got 0"),
        ({"classes": ["only"]}, "at least 2 classes, got 1"),
        ({"classes": ["a", "a"]}, "stands twice"),
        ({"classes": [True, "a"]}, "unless quoted"),
        ({"classes": "field"}, "classes: expected a list of names, got str 'field'"),
        ({"bands": []}, "bands: the list is empty"),
        ({"bands": ["red", "red"]}, "bands: a name stands twice"),
        ({"bands": ..., "name": ...}, "lacks 'name', 'bands'; every card needs"),
        ({"ignore_index": 1}, "also the value of class 'water'"),
        ({"ignore_index": 300}, "in 0..255, got 300"),
        ({"ignore_index": "no"}, "in 0..255, got 'no'"),
        ({"background": "sky"}, "background: 'sky' is not one of the classes"),
        ({"scale": 0}, "scale: expected a number over 0, got 0"),
        ({"gsd": "fine"}, "gsd: expected a number over 0, got 'fine'"),
        ({"group": "(("}, r"group: '\(\(' is no column name and no regular expression"),
        ({"class": ["x"]}, "class: unknown; did you mean 'classes'"),
        ({"xyz": 1}, "xyz: unknown; known are name, classes"),
        ({"palette": {"sky": [0, 0, 0]}}, "palette: 'sky' is not one of the classes"),
        ({"palette": {"road": [0, 0]}}, r"palette.road: expected a colour such as .*got \[0, 0\]"),
        ({"palette": [[0, 0, 0]]}, "palette: 1 colours for 3 classes"),
        ({"palette": {"road": [1, 2, 3], "water": [1, 2, 3]}}, "is given twice"),
        ({"legend": {"road": 1}}, "legend: expected whole numbers, got 'road'"),
        ({"ignore_values": ["x"]}, "ignore_values: expected whole numbers"),
        ({"prompts": {"raod": "street"}}, "prompts.raod: unknown; did you mean 'road'"),
        ({"prompts": ["street"]}, "prompts: expected 'name: value' pairs"),
        ({"sensors": {"s1": ["vv"]}}, "sensors.s1: vv: unknown"),
    ],
)
def test_a_wrong_key_is_named_in_one_line(labeled, keys, message):
    path = labeled.card(**keys)
    with pytest.raises(CardError, match=message) as error:
        load_card(path)
    assert str(error.value).startswith("dataset.yml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "splits: expected one or more of labeled, unlabeled, noisy, val, test, got nothing"),
        ({"train": {"list": "x.csv"}}, "splits.train: unknown"),
        ({"labelled": {"list": "x.csv"}}, "splits.labelled: unknown; did you mean 'labeled'"),
        ({"labeled": None}, "splits.labeled: expected {images: ..., masks: ...}"),
        ({"labeled": {"image": "x"}}, "splits.labeled.image: unknown; did you mean 'images'"),
        ({"labeled": {"masks": "labeled/masks"}}, "expected either 'images' or 'list'"),
        ({"labeled": {"images": "labeled/images"}}, "splits.labeled: lacks 'masks'"),
        ({"labeled": {"list": "x.csv", "masks": "y"}}, "'masks' goes with 'images'"),
        ({"labeled": {"list": "x.csv"}}, "splits.labeled.list: .*x.csv does not exist"),
        ({"labeled": {"images": "gone", "masks": "labeled/masks"}}, "splits.labeled.images: .*gone does not exist"),
        ({"labeled": {"images": 3, "masks": "labeled/masks"}}, "splits.labeled.images: expected text, got 3"),
    ],
)
def test_a_wrong_split_is_named(labeled, splits, message):
    path = labeled.card()
    text = path.read_text()
    import yaml

    path.write_text(yaml.safe_dump(yaml.safe_load(text) | {"splits": splits}))
    with pytest.raises(CardError, match=message.replace("{", r"\{")):
        load_card(path)


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.yml"))):
        load_card(tmp_path / "none.yml")


def test_what_is_no_card_is_named(tmp_path):
    with pytest.raises(CardError, match="is a folder; give the path of the dataset card in it"):
        load_card(tmp_path)
    path = tmp_path / "dataset.yml"
    path.write_text("name: [unclosed\nbands: {")
    with pytest.raises(CardError, match=r"dataset.yml: is not YAML \(.*line 2"):
        load_card(path)
    path.write_text("just words")
    with pytest.raises(CardError, match="expected keys such as name, classes"):
        load_card(path)
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(CardError, match="is not YAML"):
        load_card(path)
