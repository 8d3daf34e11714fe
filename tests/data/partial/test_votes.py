"""Votes as distributions over classes."""

import numpy as np
import pytest

from softbio_jax.data.partial import votes
from softbio_jax.data.partial.years import Rows
from softbio_jax.errors import UserError


def test_shares():
    assert votes.shares("3 0 1 0 0 0 6", "emotion", where="x").tolist() == [0.3, 0, 0.1, 0, 0, 0, 0.6]


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
