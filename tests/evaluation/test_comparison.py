"""Paired tests by hand, and the refusal to pair what does not belong together."""

import dataclasses

import numpy as np
import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import classification, comparison
from softbio_jax.tasks import MISSING
from tests.evaluation.fixtures import hand_made, random_predictions


def test_mcnemar_by_hand():
    first = np.array([True] * 6 + [False] * 1 + [True] * 5 + [False] * 3)
    second = np.array([False] * 6 + [True] * 1 + [True] * 5 + [False] * 3)
    found = comparison.mcnemar(first, second)
    # 6 against 1 of 7 disagreements: 2 (C(7,0) + C(7,1)) / 2^7 = 16 / 128
    assert found == {
        "first_only": 6,
        "second_only": 1,
        "p_value": pytest.approx(0.125),
        "g": pytest.approx(6 / 7 - 1 / 2),
    }


def test_mcnemar_without_disagreement():
    right = np.array([True, False])
    assert comparison.mcnemar(right, right)["p_value"] == 1.0


def test_compare_by_hand():
    yes, no = [0.9, 0.1], [0.1, 0.9]
    first = hand_made("faces", "gender", [0, 0, 0, 1], [yes, yes, no, no])
    second = hand_made("faces", "gender", [0, 0, 0, 1], [yes, no, no, yes])
    found = comparison.compare(first, second, "gender")
    assert (found["n"], found["first_only"], found["second_only"]) == (4, 2, 0)
    assert found["p_value"] == pytest.approx(0.5)
    changes = {name: row["difference"] for name, row in found["differences"].items()}
    assert changes["accuracy"] == pytest.approx(3 / 4 - 1 / 4)
    assert changes["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2 - (1 / 3 + 0) / 2)
    assert changes["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2 - (2 / 5 + 0) / 2)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    one = np.where(rng.random(1000) < 0.7, labels, 1 - labels)
    two = np.where(rng.random(1000) < 0.02, 1 - one, one)  # nearly the same model
    found = comparison.differences(labels, one, two, 2)["accuracy"]
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    disagreement = np.mean(one != two)
    assert high - low == pytest.approx(2 * 1.96 * (disagreement / 1000) ** 0.5, rel=0.15)
    unpaired = 2 * 1.96 * (2 * 0.7 * 0.3 / 1000) ** 0.5
    assert high - low < unpaired / 3


def test_accuracy_difference_by_hand():
    """6 against 1 of 100: (5 / 100) -+ z sqrt(((7.5 / 101) - (5 / 101)^2) / 100)."""
    labels = np.zeros(100, int)
    one, two = (np.array([0] * 93 + tail) for tail in ([0] * 6 + [1], [1] * 6 + [0]))
    found = comparison.differences(labels, one, two, 2)["accuracy"]
    margin = 1.959964 * ((7.5 / 101 - (5 / 101) ** 2) / 100) ** 0.5
    assert found["difference"] == pytest.approx(0.05)
    assert found["interval"] == pytest.approx([0.05 - margin, 0.05 + margin], abs=1e-6)


def test_class_differences_agree_with_resampling_within_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [400, 300, 200])
    one = np.where(rng.random(900) < 0.7, labels, rng.integers(0, 3, 900))
    two = np.where(rng.random(900) < 0.5, one, rng.integers(0, 3, 900))
    found = comparison.differences(labels, one, two, 3)
    draws = {"balanced_accuracy": [], "macro_f1": []}
    for _ in range(600):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in range(3)]
        )
        tables = [classification.confusion_counts(labels[rows], guess[rows], 3) for guess in (one, two)]
        for name, values in draws.items():
            metric = getattr(classification, name)
            values.append(metric(tables[0]) - metric(tables[1]))
    for name, values in draws.items():
        low, high = found[name]["interval"]
        # The spread of 600 draws is known to 3 %.
        assert high - low == pytest.approx(2 * 1.96 * np.std(values), rel=0.1)


def test_equal_answers_leave_a_small_class_open():
    labels = np.repeat([0, 1], [200, 3])
    found = comparison.differences(labels, labels, labels, 2)
    low, high = found["balanced_accuracy"]["interval"]
    assert low == pytest.approx(-high) and high > 0.1
    assert found["accuracy"]["interval"][1] < 0.01


def test_order_of_the_examples_does_not_matter():
    first, second = (random_predictions("faces", n=50, seed=s) for s in (1, 2))
    shuffled = second.take(np.random.default_rng(0).permutation(50))
    assert comparison.compare(first, second, "age") == comparison.compare(first, shuffled, "age")


def test_other_ids_are_named_with_rows():
    reference = random_predictions("faces", n=10)
    with pytest.raises(UserError, match=r"missing id.*rows 4, 9.*'faces/00003.jpg'"):
        comparison.in_order_of(reference.take(np.array([0, 1, 2, 4, 5, 6, 7, 9])), reference)
    stranger = dataclasses.replace(reference, ids=np.where(np.arange(10) == 2, "x", reference.ids))
    with pytest.raises(UserError, match=r"unknown id.*row 3.*'x'"):
        comparison.in_order_of(stranger, reference)


def test_labels_that_differ_are_named():
    first = hand_made("faces", "gender", [0, 1], [[1, 0], [0, 1]])
    second = hand_made("faces", "gender", [0, 0], [[1, 0], [0, 1]])
    with pytest.raises(UserError, match=r"gender labels differ.*row 2"):
        comparison.compare(first, second, "gender")


def test_third_party_predictions_take_the_test_sets_labels_and_order():
    reference = random_predictions("faces", n=30)
    theirs = random_predictions("faces", n=30, seed=5, tasks=("gender",))
    bare = dataclasses.replace(theirs, labels={"gender": np.full(30, MISSING)}, name="theirs")
    found = comparison.labelled_like(bare.take(np.arange(29, -1, -1)), reference)
    assert found.name == "faces"
    assert list(found.labels) == ["gender"]
    np.testing.assert_array_equal(found.labels["gender"], reference.labels["gender"])
    np.testing.assert_array_equal(found.probabilities["gender"], theirs.probabilities["gender"])
    assert classification.confusion_counts(
        found.labels["gender"], found.probabilities["gender"].argmax(1), 2
    ).sum() == np.sum(reference.labels["gender"] != MISSING)


def test_third_party_labels_must_agree():
    reference = hand_made("faces", "gender", [0, 1], [[1, 0], [0, 1]])
    theirs = hand_made("theirs", "gender", [0, 0], [[1, 0], [0, 1]])
    with pytest.raises(UserError, match=r"contradicts.*'1'.*expected female, found male"):
        comparison.labelled_like(theirs, reference)
