"""Recorded answers of several styles are read, and malformed ones are left out."""

import pytest

from s5.purification.boxes import Box, parse_boxes

NAMES = {"road": 0, "river or lake": 1, "Building": 2}
ROAD, WATER = Box(0, (10, 20, 30, 40)), Box(1, (1, 2, 3, 4))


def read(answer: str, frame=(100.0, 100.0), size=(100, 100)) -> list[Box]:
    return parse_boxes(answer, NAMES, frame, size)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('[{"bbox_2d": [10, 20, 30, 40], "label": "road"}]', [ROAD]),
        ('```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "road"}\n]\n```', [ROAD]),
        ('Here you are:\n```json\n[{"bbox_2d":[10,20,30,40],"label":"Road"}]\n```\nThat is all.', [ROAD]),
        ('{"label": "road", "bbox_2d": [10, 20, 30, 40]}', [ROAD]),
        ('{"road": [[10, 20, 30, 40]], "river or lake": [1, 2, 3, 4]}', [ROAD, WATER]),
        ('{"objects": [{"bbox": [10, 20, 30, 40], "category": "road"}]}', [ROAD]),
        ('[{"bbox_2d": [[10, 20, 30, 40], [1, 2, 3, 4]], "label": "road"}]', [ROAD, Box(0, (1, 2, 3, 4))]),
        ("road: [10, 20, 30, 40]\nriver or lake: [1, 2, 3, 4]", [ROAD, WATER]),
        ("- road: [10, 20, 30, 40], [1.5, 2, 3, 4]", [ROAD, Box(0, (1.5, 2, 3, 4))]),
        ("road: (10, 20, 30, 40)", [ROAD]),
        # cut off in the second object: the first is whole
        ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "road"}, {"bbox_2d": [1, 2,', [ROAD]),
        ('[{"bbox_2d": [10, 20, 30, 40], "label": "road"}, {"bbox_2d": [10, 20, 30, 40], "label": "road"}]', [ROAD]),
    ],
)
def test_answers_that_can_be_read(answer, expected):
    assert read(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "```json\n[]\n```",
        "There is a road from (10, 20) to (30, 40) beside a lake.",
        "I see a road: it runs through the middle of the picture.",
        '[{"bbox_2d": [10, 20, 30, 40], "label": "aeroplane"}]',
        '[{"bbox_2d": [10, 20, 30], "label": "road"}]',
        '[{"bbox_2d": ["10", "20", "30", "40"], "label": "road"}]',
        '[{"bbox_2d": [10, 20, NaN, 40], "label": "road"}]',
        '[{"bbox_2d": [10, 20, Infinity, 40], "label": "road"}]',
        '[{"bbox_2d": [true, 20, 30, 40], "label": "road"}]',
        '[{"bbox_2d": [30, 20, 10, 40], "label": "road"}]',  # corners the wrong way round
        '[{"bbox_2d": [10, 20, 10, 40], "label": "road"}]',  # no area
        '[{"bbox_2d": [110, 20, 130, 40], "label": "road"}]',  # beside the image
        '[{"bbox_2d": null, "label": "road"}]',
        '[{"bbox_2d": [10, 20, 30, 40]}]',
        '[{"bbox_2d": [10, 20, 30, 40], "label": 3}]',
        '[{"bbox_2d": [10, 20',
        "road: [10, 20, 30]",
        "road: 10, 20, 30, 40, 50",
        '{"a": ' * 5000,
    ],
)
def test_answers_that_hold_no_box(answer):
    assert read(answer) == []


def test_boxes_are_cut_to_the_image():
    (box,) = read('[{"bbox_2d": [-5, 50, 400, 90], "label": "road"}]')
    assert box.xyxy == (0, 50, 100, 90)


def test_coordinates_come_back_from_the_models_frame():
    """Qwen3-VL answers in thousandths; Qwen2.5-VL in its resized image, 140 wide and 84 high here."""
    answer = '[{"bbox_2d": [70, 21, 140, 42], "label": "road"}]'
    assert read(answer, (140, 84), (128, 256))[0].xyxy == (128, 32, 256, 64)
    assert read(answer, (1000, 1000), (200, 500))[0].xyxy == pytest.approx((35, 4.2, 70, 8.4))


def test_long_answers_are_read_in_time():
    """Thousands of digits and brackets without a box between them."""
    assert read("road: " + "[1, 2, " * 5000 + "x") == []
    assert read("road: " + "1 " * 20000) == []
