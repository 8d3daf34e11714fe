"""Metrics and the age error against values worked out by hand, scikit-learn, and over shards."""

import numpy as np
import pytest
from sklearn import metrics as reference

from softbio_jax.evaluation.metrics import classification
from softbio_jax.tasks import AGE, EMOTION, MISSING

# True 0: 3 right, 1 called 1. True 1: 2 right, 2 called 0. True 2 never occurs, called once.
COUNTS = np.array([[3, 1, 0], [1, 2, 1], [0, 0, 0]])


def test_hand_computed_values():
    assert classification.accuracy(COUNTS) == 5 / 8
    assert classification.balanced_accuracy(COUNTS) == (3 / 4 + 2 / 4) / 2
    # F1: 6/8, 4/7, and 0 for the class that is predicted but never true.
    assert classification.macro_f1(COUNTS) == pytest.approx((6 / 8 + 4 / 7 + 0) / 3)
    assert classification.majority(COUNTS) == 4 / 8
    assert classification.one_off(COUNTS) == 8 / 8
    classes = classification.per_class(COUNTS)
    np.testing.assert_allclose(classes["precision"], [3 / 4, 2 / 3, 0])
    np.testing.assert_allclose(classes["recall"], [3 / 4, 2 / 4, np.nan])


def test_one_off_counts_neighbours_only():
    counts = np.zeros((4, 4), int)
    counts[0] = [1, 1, 1, 1]
    counts[3, 2] = 4
    assert classification.one_off(counts) == (1 + 1 + 4) / 8


def test_counts_skip_missing_labels():
    counts = classification.confusion_counts(np.array([0, 1, MISSING, 1]), np.array([0, 0, 1, 1]), 2)
    assert counts.tolist() == [[1, 0], [1, 1]]


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 6, 500), rng.integers(0, 7, 500)  # class 6 is never true
    counts = classification.confusion_counts(true, predicted, 7)
    metrics = classification.from_counts("emotion", counts)
    np.testing.assert_array_equal(counts, reference.confusion_matrix(true, predicted))
    assert metrics["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    # scikit-learn drops classes that never occur from this mean too, with a warning.
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = reference.balanced_accuracy_score(true, predicted)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced)
    assert metrics["macro_f1"] == pytest.approx(
        reference.f1_score(true, predicted, average="macro", zero_division=0)
    )
    precision, recall, _, n = reference.precision_recall_fscore_support(true, predicted, zero_division=0)
    for i, name in enumerate(EMOTION.classes):
        row = metrics["per_class"][name]
        assert row["n"] == n[i]
        assert (row["precision"] or 0) == pytest.approx(precision[i])
        assert (row["recall"] or 0) == pytest.approx(recall[i])
    assert metrics["per_class"]["neutral"]["recall"] is None


@pytest.mark.parametrize("part", [1, 7, 64])
def test_counts_of_parts_add_up_to_those_of_the_whole(part):
    rng = np.random.default_rng(part)
    labels = rng.integers(-1, 7, 101)  # MISSING among them
    predicted = rng.integers(0, 7, 101)
    parts = [slice(start, start + part) for start in range(0, len(labels), part)]
    counts = sum(classification.confusion_counts(labels[p], predicted[p], 7) for p in parts)
    np.testing.assert_array_equal(counts, classification.confusion_counts(labels, predicted, 7))
    assert counts.sum() == np.sum(labels != MISSING)


def test_representatives_lie_inside_their_groups():
    assert len(classification.REPRESENTATIVE_YEARS) == AGE.num_classes
    for name, years in zip(AGE.classes, classification.REPRESENTATIVE_YEARS, strict=True):
        low, _, high = name.rstrip("+").partition("-")
        assert int(low) <= years
        if high:
            assert years == (int(low) + int(high)) / 2


def test_expected_age_and_error():
    half = np.zeros((1, 9))
    half[0, [3, 4]] = 0.5  # half 20-29 (24.5), half 30-39 (34.5)
    assert classification.expected_age(half) == pytest.approx([29.5])
    assert classification.absolute_error(np.array([4]), half) == pytest.approx([5.0])
    assert classification.absolute_error(np.array([4]), half, years=np.array([31.0])) == pytest.approx([1.5])


def test_unknown_years_fall_back_to_the_group():
    certain = np.eye(9)[[0, 0]]
    errors = classification.absolute_error(np.array([1, 1]), certain, years=np.array([np.nan, 3.0]))
    np.testing.assert_allclose(errors, [5.0, 2.0])
