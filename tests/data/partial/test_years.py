"""What ages in words mean in years, and what is none."""

import numpy as np
import pytest

from softbio_jax.data.labels import age_class
from softbio_jax.data.partial.years import UNKNOWN, Rows, interval, intervals
from softbio_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("25", (25, 26)),
        ("24.5", (25, 26)),
        ("4-19", (4, 20)),
        ("(25, 32)", (25, 33)),
        ("(8, 13)", (8, 14)),
        ("[20, 30)", (20, 30)),
        ("(19, 29]", (20, 30)),
        ("(-0.001, 2.0]", (0, 3)),
        ("[20.0, 30.0)", (20, 30)),
        ("25—32", (25, 33)),
        ("25 years", (25, 26)),
        ("25-32 yrs old", (25, 33)),
        ("60 and over", (60, 121)),
        (">=60", (60, 121)),
        ("20-20", (20, 21)),
        ("70+", (70, 121)),
        ("more than 70", (70, 121)),
        ("0-120", (0, 121)),
        ("120", (120, 121)),
        ("", UNKNOWN),
        ("-1", UNKNOWN),
        ("None", UNKNOWN),
    ],
)
def test_words(text, years):
    assert interval(text, where="x") == years


@pytest.mark.parametrize("years", np.linspace(0, 100, 60))
def test_a_year_is_in_the_class_of_the_other_labels(years):
    first, end = interval(f"{years:g}", where="x")
    assert end == first + 1 and age_class(first) == age_class(float(f"{years:g}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[20, 20)", "an empty age range"),
        ("30-20", "a reversed age range"),
        ("(30, 20]", "a reversed age range"),
        ("(20, 20]", "an empty age range"),
        ("2.5-3.5", "not an age or a range"),
        ("[30, 20)", "a reversed age range"),
        ("100-130", "an impossible age"),
        ("121", "an impossible age"),
        ("[0, 122)", "an impossible age"),
        ("-5-3", "an impossible age"),
        ("adult", "not an age or a range"),
        ("1990-03-04", "not an age or a range"),
    ],
)
def test_what_is_no_interval(text, says):
    with pytest.raises(UserError, match=rf"{says}.*row 7.*0 to 120.*") as caught:
        interval(text, where="labels.csv row 7")
    assert repr(text) in str(caught.value) and "fix:" in str(caught.value)


def rows(labels=(), **columns):
    size = len(labels) or len(next(iter(columns.values())))
    given = {"age": np.array(labels)} if len(labels) else {}
    ids = np.array([f"{n}.jpg" for n in range(size)])
    return Rows(given, {k: np.array(v) for k, v in columns.items()}, ids, "set/train")


def test_the_finest_column_counts_and_labels_fill_the_rest():
    found = intervals(
        rows([3, 1, 8, -1, -1], years=["23", "", "", "", ""], age_range=["20-40", "4-6", "", "4-19", ""])
    )
    assert found.tolist() == [[23, 24], [4, 7], [70, 121], [4, 20], list(UNKNOWN)]


def test_a_column_alone_is_enough():
    assert intervals(rows(age_group=["0-3", "70+"])).tolist() == [[0, 4], [70, 121]]


def test_a_bad_cell_names_its_row():
    with pytest.raises(UserError, match=r"set/train:2\.jpg age_group.*'young'"):
        intervals(rows([0, 1, 2], age_group=["0-3", "", "young"]))
