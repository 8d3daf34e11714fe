"""Votes as distributions over classes."""

import numpy as np
import pytest

from softbio_jax.data.partial import votes
from softbio_jax.data.partial.years import Rows
from softbio_jax.errors import UserError


def test_shares():
    for text in ("3 0 1 0 0 0 6", "[3, 0, 1, 0, 0, 0, 6]", "30% 0% 10% 0% 0% 0% 60%", "0.3,0,0.1,0,0,0,0.6"):
        found = votes.shares(text, "emotion", where="x")
        np.testing.assert_allclose(found, [0.3, 0, 0.1, 0, 0, 0, 0.6])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2 -1 0 0 0 0", "negative votes"),
        ("0 0 0 0 0 0 0", "votes that are all zero"),
        ("1 2", "not votes"),
        ("1 2 3 4 5 6 x", "not votes"),
        ("1 2 3 4 5 6 nan", "not votes"),
        ("1 2 3 4 5 6 inf", "not votes"),
    ],
)
def test_what_is_no_vote(text, says):
    with pytest.raises(UserError, match=rf"^{says}: labels.csv row 3: expected 7 numbers.*fix: ") as caught:
        votes.shares(text, "emotion", where="labels.csv row 3")
    assert repr(text) in str(caught.value)


def test_a_label_without_votes_is_certain():
    given = Rows(
        {"gender": np.array([0, 1, -1, -1])},
        {"votes_gender": np.array(["", "1 3", "1 1", ""])},
        np.array(list("abcd")),
        "set/train",
    )
    assert votes.distributions(given, "gender").tolist() == [[1, 0], [0.25, 0.75], [0.5, 0.5], [0, 0]]


@pytest.mark.parametrize(("size", "refused"), [(19, False), (20, True)])
def test_votes_of_which_most_contradict_the_labels_are_in_another_order(size, refused):
    given = Rows(
        {"gender": np.arange(size) % 2},
        {"votes_gender": np.array(["1 9", "9 1"] * size)[:size]},
        np.array(list(map(str, range(size)))),
        "set/train",
    )
    if not refused:
        assert votes.distributions(given, "gender")[0].tolist() == [0.1, 0.9]
        return
    says = r"another order: set/train votes_gender: .*order male, female, found that in 0 of 20 rows"
    with pytest.raises(UserError, match=says):
        votes.distributions(given, "gender")
