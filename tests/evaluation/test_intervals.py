"""Intervals against published values, and against drawing examples one by one."""

import dataclasses

import numpy as np
import pytest

from softbio_jax.evaluation.metrics import classification, intervals
from tests.evaluation.fixtures import hand_made, random_predictions


def test_wilson_published_values():
    # Newcombe, Statistics in Medicine 1998 (two-sided intervals for one proportion), Table I.
    for hits, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]:
        assert intervals.wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    low, high = intervals.wilson(0, 20)
    assert low == 0 and high == pytest.approx(0.1611, abs=5e-5)


def test_wilson_by_its_formula():
    z, p, n = 1.959963984540054, 0.9, 50
    centre, spread = (p + z * z / (2 * n)), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = [(centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1)]
    assert intervals.wilson(45, 50) == pytest.approx(expected)


def test_difference_published_value():
    # Newcombe, Statistics in Medicine 1998 (difference of proportions), 56/70 - 48/80, method 10.
    low, high = intervals.wilson_difference((56, 48), (70, 80))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_multinomial_draws_match_drawing_examples_one_by_one():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    predicted = np.where(rng.random(200) < 0.7, labels, rng.integers(0, 3, 200))
    counts = classification.confusion_counts(labels, predicted, 3)
    fast = classification.balanced_accuracy(intervals.resampled_counts(counts, replicates=4000))
    slow = []
    for _ in range(1000):
        rows = rng.integers(0, 200, 200)
        slow.append(
            classification.balanced_accuracy(
                classification.confusion_counts(labels[rows], predicted[rows], 3)
            )
        )
    # Standard errors of a mean and a spread over 1,000 draws: 0.001 and 2.2 %.
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.005)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.12)


def test_every_replicate_has_all_examples():
    draws = intervals.resampled_counts(np.array([[5, 1], [2, 9]]), replicates=10)
    assert draws.shape == (10, 2, 2)
    assert (draws.sum((1, 2)) == 17).all()


def test_mean_interval_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(900, 2))
    for (low, high), column in zip(intervals.of_means(values), values.T, strict=True):
        assert low < column.mean() < high
        expected = 2 * 1.96 * column.std() / 900**0.5
        assert high - low == pytest.approx(expected, rel=0.1)


def test_ece_interval_of_a_constant_gap():
    labels, probabilities = np.zeros(400, int), np.tile([0.75, 0.25], (400, 1))
    labels[:200] = 1  # half right at confidence 0.75
    low, high = intervals.of_ece(labels, probabilities)
    assert low < 0.25 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_average_intervals_by_theory():
    # 900 of 1,600 and 400 of 1,600 right: the mean's variance is that of two shares over four.
    sets = [
        hand_made(name, "gender", [0] * 1600, [[1, 0]] * hits + [[0, 1]] * (1600 - hits))
        for name, hits in (("a", 900), ("b", 400))
    ]
    found = intervals.of_averages(sets, {})
    assert found["gender"] == found["overall"]
    low, high = found["gender"]
    assert low < (900 + 400) / 3200 < high
    variance = (9 / 16 * 7 / 16 + 1 / 4 * 3 / 4) / 1600 / 4
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def test_average_intervals_keep_tasks_of_one_face_together():
    # Both tasks are right on the same faces, so their mean varies like one of them.
    faces = random_predictions("faces", tasks=("gender", "age"), n=400, missing=0.0)
    right = faces.probabilities["gender"].argmax(1) == faces.labels["gender"]
    age = np.eye(9)[np.where(right, faces.labels["age"], (faces.labels["age"] + 1) % 9)]
    faces = dataclasses.replace(faces, probabilities={**faces.probabilities, "age": age})
    found = intervals.of_averages([faces], {})
    assert found["overall"] == found["gender"] == found["age"]


def test_synthetic_labels_have_no_part_in_average_intervals():
    faces = random_predictions("vggface2", n=50)
    found = intervals.of_averages([faces], {"vggface2": ("age",)})
    assert set(found) == {"gender", "overall"}


def test_intervals_are_repeatable():
    counts = np.array([[8, 2], [3, 7]])
    metrics = intervals.COUNT_METRICS
    assert intervals.of_counts(counts, metrics) == intervals.of_counts(counts, metrics)
