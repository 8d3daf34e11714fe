import math

import pytest

from softbio_jax.data import labels
from softbio_jax.tasks import AGE, EMOTION, MISSING, TASKS


@pytest.mark.parametrize(
    ("years", "name"),
    [
        (0, "0-2"),
        (2, "0-2"),
        (2.4, "0-2"),
        (2.5, "3-9"),
        (9, "3-9"),
        (10, "10-19"),
        (29.49, "20-29"),
        (29.5, "30-39"),
        (69, "60-69"),
        (70, "70+"),
        (116, "70+"),
    ],
)
def test_ages_are_rounded_then_binned(years, name):
    assert AGE.classes[labels.age_class(years)] == name


@pytest.mark.parametrize("years", [-1, -100.0, math.nan, math.inf])
def test_unknown_ages_are_missing(years):
    assert labels.age_class(years) == MISSING


@pytest.mark.parametrize("task", list(TASKS))
def test_every_class_name_is_its_own_word(task):
    for label, name in enumerate(TASKS[task].classes):
        assert labels.class_of(task, name) == label


def test_synonyms_and_spelling():
    assert EMOTION.classes[labels.class_of("emotion", " Anger ")] == "angry"
    assert labels.class_of("age", "more than 70") == 8
    assert labels.class_of("gender", "F") == 1
    assert labels.class_of("emotion", "contempt") is None
    assert "angry/anger" in labels.known_words("emotion")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("25-29", ["20-29"]),
        ("25 – 29 years", ["20-29"]),
        ("25—29", ["20-29"]),
        ("(4, 6)", ["3-9"]),
        ("[20, 30)", ["20-29"]),
        ("[20.0, 30.0)", ["20-29"]),
        ("(19, 29]", ["20-29"]),
        ("(-0.001, 2.0]", ["0-2"]),
        ("(20, 30)", ["20-29", "30-39"]),
        ("75 and over", ["70+"]),
        ("60+", ["60-69", "70+"]),
        ("29-25", []),
        ("[20, 20)", []),
        ("25-130", []),
        ("2.5-3.5", []),
        ("25", []),
    ],
)
def test_ranges_cover_the_classes_of_their_years(text, classes):
    assert labels.spanned(text) == classes
    alone = AGE.classes.index(classes[0]) if len(classes) == 1 else None
    assert labels.age_range_class(text) == alone
