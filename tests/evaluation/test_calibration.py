"""Proper scores, reliability and temperature against values worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from softbio_jax.evaluation.metrics import calibration

LABELS = np.array([0, 1, 1, 0])
PROBABILITIES = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [1.0, 0.0]])


def test_negative_log_likelihood_by_hand_and_by_scikit_learn():
    values = calibration.negative_log_likelihood(LABELS, PROBABILITIES)
    np.testing.assert_allclose(values, [-math.log(p) for p in (0.8, 0.6, 0.1, 1.0)], atol=1e-12)
    assert values.mean() == pytest.approx(log_loss(LABELS, PROBABILITIES))


def test_a_certain_mistake_is_finite():
    value = calibration.negative_log_likelihood(np.array([1]), np.array([[1.0, 0.0]]))
    assert value[0] == pytest.approx(12 * math.log(10))


def test_brier_by_hand():
    # (0.2^2 + 0.2^2), (0.4^2 + 0.4^2), (0.9^2 + 0.9^2), 0
    np.testing.assert_allclose(calibration.brier(LABELS, PROBABILITIES), [0.08, 0.32, 1.62, 0], atol=1e-12)
    three = calibration.brier(np.array([2]), np.array([[0.5, 0.25, 0.25]]))
    assert three[0] == pytest.approx(0.25 + 0.0625 + 0.5625)


def test_expected_calibration_error_by_hand():
    # Two bins: (0, .5] is empty; (.5, 1] has confidences .8 .6 .9 1 (mean .825), 3 of 4 right.
    two = calibration.reliability(LABELS, PROBABILITIES, num_bins=2)
    assert two.n.tolist() == [0, 4]
    assert two.ece == pytest.approx(0.825 - 0.75)
    # Ten bins: .6 right in (.5,.6], .8 right in (.7,.8], .9 wrong in (.8,.9], 1 right.
    ten = calibration.reliability(LABELS, PROBABILITIES, num_bins=10)
    assert ten.ece == pytest.approx((0.4 + 0.2 + 0.9 + 0.0) / 4)


def test_a_border_belongs_to_the_bin_below():
    bins = calibration.bin_of(np.array([0.0, 0.5, 0.5000001, 1.0, 1.0005]), 2)
    assert bins.tolist() == [0, 0, 1, 1, 1]


def test_temperature_by_hand():
    # Odds 4:1 at T = 2 become sqrt(4):1 = 2:1.
    scaled = calibration.with_temperature(np.array([[0.8, 0.2]]), 2.0)
    np.testing.assert_allclose(scaled, [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(calibration.with_temperature(PROBABILITIES[:3], 1.0), PROBABILITIES[:3])


def test_fit_finds_the_temperature_that_was_applied():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 5))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > rng.random((len(true), 1))).argmax(axis=1)
    over_confident = calibration.with_temperature(true, 1 / 2.5)
    assert calibration.fit_temperature(labels, over_confident) == pytest.approx(2.5, rel=0.05)
    fitted = calibration.with_temperature(over_confident, 2.5)
    assert (
        calibration.reliability(labels, fitted).ece
        < 0.2 * calibration.reliability(labels, over_confident).ece
    )


def test_fit_of_two_examples_by_hand():
    # Three of four right at odds 9:1. The least loss calibrates to 3:1: 9^(1/T) = 3, T = 2.
    labels, probabilities = np.array([0, 0, 0, 1]), np.tile([0.9, 0.1], (4, 1))
    assert calibration.fit_temperature(labels, probabilities) == pytest.approx(2.0, abs=1e-2)
