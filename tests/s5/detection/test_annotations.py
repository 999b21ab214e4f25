"""Label files, submissions, windows, and AP against the devkit's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s5.detection import (
    Annotations,
    Detections,
    crop_annotations,
    evaluate,
    evaluate_dota,
    merge_patches,
    patch_name,
    read_annotations,
    read_submission,
    write_label_txt,
    write_submission,
)
from s5.types import Window

GOLDEN = Path(__file__).parents[2] / "golden" / "dota_eval"
DOTA = """imagesource:GoogleEarth
gsd:0.25
10 10 30 10 30 20 10 20 ship 0
40.5 10 50 10 50 20 40.5 20 plane 1
10 40 30 40 30 50 10 50 helipad 0
1 1 2 2 3 3 4 4 ship 0
1 1 5 5 5 1 1 5 ship 0
nan 1 5 5 5 1 1 5 ship 0
200 200 210 200 210 210 200 210 ship 0
1 2 3 4 ship 0
60 60 70 60 70 66 60 66 ship
"""
DIOR = """<annotation><filename>1.jpg</filename>
<object><name>ship</name><difficult>1</difficult><angle>0</angle><robndbox><x_left_top>10</x_left_top>
<y_left_top>10</y_left_top><x_right_top>30</x_right_top><y_right_top>10</y_right_top><x_right_bottom>30</x_right_bottom>
<y_right_bottom>20</y_right_bottom><x_left_bottom>10</x_left_bottom><y_left_bottom>20</y_left_bottom></robndbox></object>
<object><name>plane</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>9</ymax></bndbox></object>
<object><name>plane</name><robndbox><x_left_top>10</x_left_top></robndbox></object>
<object><name>plane</name></object></annotation>"""


def square(x: float, y: float, side: float = 10) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def objects(*corners: list[list[float]], name: str = "ship", difficult: bool = False) -> Annotations:
    return Annotations(
        np.array(corners, float).reshape(-1, 4, 2), (name,) * len(corners), np.full(len(corners), difficult)
    )


def found(*scored: tuple[float, list[list[float]]], name: str = "ship") -> Detections:
    corners = np.array([c for _, c in scored], float).reshape(-1, 4, 2)
    return Detections(corners, (name,) * len(scored), np.array([s for s, _ in scored]))


def test_label_txt_is_read_and_what_is_bad_is_named(tmp_path: Path) -> None:
    path = tmp_path / "P1.txt"
    path.write_text(DOTA)
    kept, bad = read_annotations(path, classes=["ship", "plane"], size=(100, 100))
    assert kept.names == ("ship", "plane", "ship")
    assert kept.difficult.tolist() == [False, True, False]
    assert kept.corners[1].tolist() == [[40.5, 10], [50, 10], [50, 20], [40.5, 20]]
    kinds = ["crossing_corners", "malformed_line", "not_finite", "outside_image", "unknown_class", "zero_area"]
    assert sorted(one.kind for one in bad) == kinds
    assert any("line 5: unknown class 'helipad'; known are plane, ship" in one.reason for one in bad)
    written = tmp_path / "again.txt"
    write_label_txt(written, kept, source="x", gsd=0.5)
    again, none = read_annotations(written)
    assert np.array_equal(again.corners, kept.corners) and again.names == kept.names and none == []
    assert np.array_equal(again.difficult, kept.difficult)


@pytest.mark.parametrize("text", ["", "imagesource:x\ngsd:null\n", "\ufeff\n"])
def test_an_empty_label_file_is_an_image_without_objects(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    kept, bad = read_annotations(tmp_path / "a.txt")
    assert len(kept) == 0 and bad == []


def test_dior_xml_is_read(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(DIOR)
    kept, bad = read_annotations(tmp_path / "1.xml")
    assert kept.names == ("ship", "plane") and kept.difficult.tolist() == [True, False]
    assert kept.corners.tolist() == [[[10, 10], [30, 10], [30, 20], [10, 20]], [[1, 2], [5, 2], [5, 9], [1, 9]]]
    assert [one.kind for one in bad] == ["malformed_line"] * 2
    (tmp_path / "2.xml").write_text("<annotation><object>")
    kept, bad = read_annotations(tmp_path / "2.xml")
    assert len(kept) == 0 and [one.kind for one in bad] == ["unreadable_labels"]


def test_a_submission_comes_back(tmp_path: Path) -> None:
    given = {"P1": found((0.5, square(1, 2)), (0.25, square(30, 2)))}
    write_submission(tmp_path, given, ["ship", "plane"])
    assert (tmp_path / "Task1_ship.txt").read_text().splitlines()[0] == (
        "P1 0.500000 1.00 2.00 11.00 2.00 11.00 12.00 1.00 12.00"
    )
    again, classes = read_submission(tmp_path)
    assert classes == ["plane", "ship"]
    assert np.array_equal(again["P1"].corners, given["P1"].corners)
    (tmp_path / "Task1_plane.txt").write_text("P1 0.5 1 2 3\n")
    with pytest.raises(ValueError, match=r"Task1_plane\.txt: line 1: expected 'image score x1"):
        read_submission(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no Task1_<class>"):
        read_submission(tmp_path / "nothing")


def test_a_window_keeps_what_it_shows() -> None:
    whole = objects(square(10, 10), square(95, 10), square(98, 40), square(200, 10))
    cut = crop_annotations(whole, Window(0, 0, 100, 100))
    assert len(cut) == 3 and cut.difficult.tolist() == [False, True, True]  # 100 %, 50 % and 20 % are seen
    moved = crop_annotations(whole, Window(5, 90, 100, 120))
    assert moved.corners[0].tolist() == square(5, 5) and moved.difficult.tolist() == [False, False, False]


def test_patches_merge_to_whole_images() -> None:
    left, right = Window(0, 0, 100, 100), Window(0, 60, 100, 100)
    patches = {
        patch_name("P1", left): found((0.9, square(70, 10)), (0.3, square(5, 5))),
        patch_name("P1", right): found((0.8, square(10.5, 10)), (0.7, square(80, 50))),
        patch_name("P2", right, rate=2.0): found((0.5, square(20, 20, 20))),
    }
    merged = merge_patches(patches, 0.1)
    assert merged["P1"].corners[:, 0].tolist() == [[70, 10], [140, 50], [5, 5]]
    assert merged["P1"].scores.tolist() == [0.9, 0.7, 0.3]
    assert merged["P2"].corners[0].tolist() == square(40, 10)
    with pytest.raises(ValueError, match="expected the name of a window"):
        merge_patches({"P1": found()})


@pytest.mark.parametrize("key", sorted(json.loads((GOLDEN / "golden.json").read_text())))
def test_ap_is_that_of_the_devkit(key: str) -> None:
    golden = json.loads((GOLDEN / "golden.json").read_text())[key]
    iou, metric = key.removeprefix("iou").split("_")
    ours = evaluate_dota(GOLDEN / "detections", GOLDEN / "labelTxt", GOLDEN / "images.txt", float(iou), metric)
    assert ours["ap"] == pytest.approx(golden["ap"], abs=1e-6)
    assert ours["map"] == pytest.approx(golden["map"], abs=1e-6)


def test_the_mean_over_ten_thresholds() -> None:
    images = (GOLDEN / "images.txt").read_text().split()
    each = [
        evaluate_dota(GOLDEN / "detections", GOLDEN / "labelTxt", images, 0.5 + 0.05 * i, "area")["map"]
        for i in (0, 3, 6, 9)
    ]
    mean = evaluate_dota(GOLDEN / "detections", GOLDEN / "labelTxt", images, "0.5:0.95", "area")["map"]
    assert each == sorted(each, reverse=True) and each[3] < mean < each[0]


def test_ap_of_cases_worked_out_by_hand() -> None:
    truth = {"a": objects(square(0, 0), square(50, 0)), "b": objects(square(0, 0), difficult=True)}
    # right, double, missed by far; and one on a difficult object, which counts neither way
    seen = {
        "a": found((0.9, square(1, 0)), (0.8, square(0, 0)), (0.7, square(200, 0))),
        "b": found((0.95, square(0, 0))),
    }
    assert evaluate(seen, truth, ["ship"], 0.5, "area") == {"ap": {"ship": 0.5}, "map": 0.5}
    assert evaluate(seen, truth, ["ship"], 0.5, "voc07")["map"] == pytest.approx(6 / 11)
    assert evaluate({}, truth, ["ship"], 0.5, "area")["map"] == 0.0
    assert evaluate(seen, truth, ["ship", "plane"], 0.5, "area")["ap"] == {"ship": 0.5, "plane": None}
    assert evaluate({}, {"a": objects()}, ["ship"], 0.5, "area") == {"ap": {"ship": None}, "map": None}
    third = {"a": found((0.9, square(5, 0)))}  # an IoU of a third, and no more than a third
    assert evaluate(third, truth, ["ship"], 1 / 3 + 1e-9, "area")["map"] == 0.0
    assert evaluate(third, truth, ["ship"], 1 / 3 - 1e-9, "area")["map"] == 0.5


def test_what_cannot_be_evaluated_says_why(tmp_path: Path) -> None:
    where = GOLDEN / "detections", GOLDEN / "labelTxt"
    with pytest.raises(FileNotFoundError, match="no labels of image 'P9999'"):
        evaluate_dota(*where, ["P9999"])
    with pytest.raises(ValueError, match=r"iou: expected a value in \(0, 1\) or '0.5:0.95', got 1.5"):
        evaluate_dota(*where, ["P0000"], 1.5)
    with pytest.raises(ValueError, match="metric: expected one of voc07, area, got 'coco'"):
        evaluate_dota(*where, ["P0000"], 0.5, "coco")
