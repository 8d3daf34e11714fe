import numpy as np
import pytest

from softbio_jax.data import sampling
from softbio_jax.errors import UserError

# Six rows: two with age and gender, two with gender alone, two with gender and emotion.
LABELS = {
    "age": np.array([0, 1, -1, -1, -1, -1]),
    "gender": np.array([0, 0, 0, 1, 1, 1]),
    "emotion": np.array([-1, -1, -1, -1, 3, 3]),
}


def test_balanced_by_hand():
    # A third for each task: age 1/2 a row, gender 1/6 a row, emotion 1/2 a row.
    expected = np.array([1 / 2 + 1 / 6, 1 / 2 + 1 / 6, 1 / 6, 1 / 6, 1 / 6 + 1 / 2, 1 / 6 + 1 / 2])
    np.testing.assert_allclose(sampling.balanced_probabilities(LABELS), expected / 3)


def test_mixture_by_hand():
    expected = [0.4, 0.4, *[0.2 / 4] * 4]
    np.testing.assert_allclose(sampling.mixture_probabilities([2, 4], [4, 1]), expected)


@pytest.mark.parametrize("shares", [[1], [1, -1], [0, 0]])
def test_not_a_mixture(shares):
    with pytest.raises(UserError, match="not a mixture"):
        sampling.mixture_probabilities([2, 4], shares)


def test_no_labelled_row():
    with pytest.raises(UserError, match="no row can be drawn"):
        sampling.balanced_probabilities({"age": np.array([-1, -1])})
