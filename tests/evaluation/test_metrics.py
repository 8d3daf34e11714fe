"""Metrics against values worked out by hand, against scikit-learn, and over shards."""

import numpy as np
import pytest
from sklearn import metrics as reference

from softbio_jax.evaluation.metrics import classification
from softbio_jax.tasks import EMOTION, MISSING

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
    figures = classification.from_counts("emotion", counts)
    np.testing.assert_array_equal(counts, reference.confusion_matrix(true, predicted))
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    # scikit-learn drops classes that never occur from this mean too, with a warning.
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = reference.balanced_accuracy_score(true, predicted)
    assert figures["balanced_accuracy"] == pytest.approx(balanced)
    assert figures["macro_f1"] == pytest.approx(
        reference.f1_score(true, predicted, average="macro", zero_division=0)
    )
    precision, recall, _, n = reference.precision_recall_fscore_support(true, predicted, zero_division=0)
    for i, name in enumerate(EMOTION.classes):
        row = figures["per_class"][name]
        assert row["n"] == n[i]
        assert (row["precision"] or 0) == pytest.approx(precision[i])
        assert (row["recall"] or 0) == pytest.approx(recall[i])
    assert figures["per_class"]["neutral"]["recall"] is None


@pytest.mark.parametrize("part", [1, 7, 64])
def test_counts_of_parts_add_up_to_those_of_the_whole(part):
    rng = np.random.default_rng(part)
    labels = rng.integers(-1, 7, 101)  # MISSING among them
    predicted = rng.integers(0, 7, 101)
    parts = [slice(start, start + part) for start in range(0, len(labels), part)]
    counts = sum(classification.confusion_counts(labels[p], predicted[p], 7) for p in parts)
    np.testing.assert_array_equal(counts, classification.confusion_counts(labels, predicted, 7))
    assert counts.sum() == np.sum(labels != MISSING)
