from __future__ import annotations

import numpy as np
import pytest

from s5.report import plot_confusion
from s5.report.canvas import encode
from s5.report.confusion import row_percent


def test_rows_sum_to_hundred_and_empty_rows_are_unknown() -> None:
    shares = row_percent([[8, 2, 0], [1, 3, 0], [0, 0, 0]], 3)
    np.testing.assert_allclose(shares[:2], [[80, 20, 0], [25, 75, 0]])
    assert np.isnan(shares[2]).all()


def test_the_numbers_stand_in_the_cells() -> None:
    figure = plot_confusion({"s4p": np.array([[997, 3], [1, 1]])}, ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "<1", "50", "50"]


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 x 3 counts, got shape \(2, 2\)"):
        plot_confusion({"s4p": np.eye(2)}, ["a", "b", "c"])


@pytest.mark.parametrize("count", [2, 12, 30])
def test_any_number_of_classes(count: int) -> None:
    names = [f"a rather long class name {i}" for i in range(count)]
    figure = plot_confusion({m: np.ones((count, count)) for m in ("supervised", "s4p", "finetuned", "mine")}, names)
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 4
    assert bool(figure.axes[0].texts) == (count < 20)


def test_no_model_says_so() -> None:
    assert encode(plot_confusion({}, ["a", "b"]))[0].startswith("image/")
