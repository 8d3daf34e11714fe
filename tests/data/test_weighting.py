import numpy as np
import pytest

from softbio_jax.data import weighting
from softbio_jax.errors import UserError

# Six rows: two with age and gender, two with gender alone, two with gender and emotion.
LABELS = {
    "age": np.array([0, 1, -1, -1, -1, -1]),
    "gender": np.array([0, 0, 0, 1, 1, 1]),
    "emotion": np.array([-1, -1, -1, -1, 3, 3]),
}
ONCE = np.ones(6, np.int64)


def test_mean_rule_by_hand():
    # age: 2 / (9 * 1) each; gender: 6 / (2 * 3) = 1 each; emotion: 2 / (7 * 2) each.
    weights = np.array([(2 / 9 + 1) / 2, (2 / 9 + 1) / 2, 1, 1, (1 + 1 / 7) / 2, (1 + 1 / 7) / 2])
    np.testing.assert_allclose(weighting.mean_rule(LABELS, ONCE), weights / weights.sum())


def test_mean_rule_on_repeated_rows_is_that_of_the_longer_table():
    counts = np.array([1, 1, 1, 1, 3, 2])
    longer = {task: np.repeat(values, counts) for task, values in LABELS.items()}
    expected = weighting.mean_rule(longer, np.ones(9, np.int64))
    np.testing.assert_allclose(
        weighting.mean_rule(LABELS, counts), np.add.reduceat(expected, [0, 1, 2, 3, 4, 7])
    )


def test_repetitions_reach_the_share_of_the_thesis():
    emotion = np.full(168_362, -1)
    emotion[-9215:] = 2
    counts = weighting.repetitions({"emotion": emotion}, seed=0)
    assert counts.sum() == 168_362 + 70_597
    assert (counts[:-9215] == 1).all()
    assert counts.min() == 1
    assert counts[-9215:].sum() / counts.sum() == pytest.approx(0.334, abs=1e-5)
    np.testing.assert_array_equal(counts, weighting.repetitions({"emotion": emotion}, seed=0))
    assert (counts != weighting.repetitions({"emotion": emotion}, seed=1)).any()


@pytest.mark.parametrize("share", [0, 0.2])
def test_nothing_is_repeated_when_the_share_is_reached(share):
    np.testing.assert_array_equal(weighting.repetitions(LABELS, seed=0, emotion_share=share), ONCE)


def test_nothing_is_repeated_without_emotions():
    labels = {"gender": LABELS["gender"]}
    np.testing.assert_array_equal(weighting.repetitions(labels, seed=0), ONCE)


def test_balanced_by_hand():
    # A third for each task: age 1/2 a row, gender 1/6 a row, emotion 1/2 a row.
    expected = np.array([1 / 2 + 1 / 6, 1 / 2 + 1 / 6, 1 / 6, 1 / 6, 1 / 6 + 1 / 2, 1 / 6 + 1 / 2])
    np.testing.assert_allclose(weighting.balanced(LABELS), expected / 3)


def test_mixture_by_hand():
    expected = [0.4, 0.4, *[0.2 / 4] * 4]
    np.testing.assert_allclose(weighting.mixture([2, 4], [4, 1]), expected)


@pytest.mark.parametrize("shares", [[1], [1, -1], [0, 0]])
def test_not_a_mixture(shares):
    with pytest.raises(UserError, match="not a mixture"):
        weighting.mixture([2, 4], shares)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_not_a_share(share):
    with pytest.raises(UserError, match="not a share"):
        weighting.repetitions(LABELS, seed=0, emotion_share=share)


def test_no_labelled_row():
    with pytest.raises(UserError, match="no row can be drawn"):
        weighting.balanced({"age": np.array([-1, -1])})
