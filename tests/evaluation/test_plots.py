"""Figures: the words they must show, complete files, repeatable drawing."""

import re

import numpy as np
import pytest

from softbio_jax.evaluation import plots
from softbio_jax.tasks import AGE, GENDER


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_confusion_matrix_says_counts_shares_and_accuracies():
    figure = plots.confusion_matrix([[30, 10], [5, 15]], GENDER.classes, title="gender on faces")
    shown = words(plots.svg(figure))
    assert {"75.0%", "25.0%", "30", "10", "n=40", "male", "female", "gender on faces"} <= set(shown)
    assert any("n = 60" in w and "75.00 %" in w for w in shown)


def test_confusion_matrix_of_a_class_without_examples():
    counts = np.zeros((9, 9), int)
    counts[3, 3] = 7
    shown = words(plots.svg(plots.confusion_matrix(counts, AGE.classes, title="age")))
    assert shown.count("n=0") == 8
    assert not any("nan" in word for word in shown)


def test_a_long_title_stays_inside_the_figure():
    title = "gender on synthetic_vggface2: a run of a long name"
    figure = plots.confusion_matrix([[1, 0], [0, 1]], GENDER.classes, title=title)
    figure.draw_without_rendering()
    (text,) = (t for t in figure.axes[0].texts if t.get_text() == title)
    box = text.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_png_file_is_complete(tmp_path):
    figure = plots.confusion_matrix([[1, 0], [0, 1]], GENDER.classes, title="t")
    path = plots.save_png(figure, tmp_path / "a" / "b.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in path.parent.iterdir()] == ["b.png"]


def test_svg_is_one_element_and_repeatable():
    first, second = (
        plots.svg(plots.confusion_matrix([[1, 0], [0, 1]], GENDER.classes, title="t")) for _ in range(2)
    )
    assert first == second
    assert first.startswith("<svg") and first.rstrip().endswith("</svg>")


@pytest.mark.parametrize("prefixes", [True, False])
@pytest.mark.parametrize("high", [1.0, 1.05, 3.0, 30.0, 900.0, 1e5])
@pytest.mark.parametrize("low", [0.7, 2.1e6])
def test_ticks_of_a_logarithmic_axis_are_plain_numbers_in_its_range(low, high, prefixes):
    figure = plots.new_figure(5, 3)
    axes = figure.add_subplot()
    axes.plot([low, low * high], [1, 2], "o")
    plots.logarithmic(axes, "x", [low, low * high], prefixes=prefixes)
    text = plots.svg(figure)
    assert "mathdefault" not in text and "$" not in text
    first, last = axes.get_xlim()
    shown = [
        label.get_text()
        for value, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        if first <= value <= last
    ]
    assert 2 <= len(shown) <= 12 and len(set(shown)) == len(shown)
    numbers = [float(label.rstrip("mkMG")) for label in shown]
    assert prefixes or numbers == sorted(numbers)
