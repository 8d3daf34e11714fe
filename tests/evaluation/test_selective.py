"""Risk and coverage against counting, thresholds against their guarantee."""

import numpy as np
import pytest
from scipy import stats

from softbio_jax.evaluation.metrics import selective


def two_classes(confidence, correct):
    """Labels and probabilities whose confidences and errors are these."""
    confidence = np.asarray(confidence, np.float64)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    return np.where(correct, 0, 1), probabilities


def test_a_curve_by_hand():
    labels, p = two_classes([0.9, 0.8, 0.8, 0.6], [True, True, False, False])
    found = selective.curve(labels, p)
    np.testing.assert_allclose(found.threshold, [0.9, 0.8, 0.6])  # equal confidences are one point
    np.testing.assert_allclose(found.coverage, [0.25, 0.75, 1.0])
    np.testing.assert_allclose(found.risk, [0, 1 / 3, 1 / 2])
    assert found.area == pytest.approx(0.5 / 3 + 0.25 / 2)


def test_a_curve_is_what_counting_gives():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 200).round(2)
    p /= p.sum(axis=1, keepdims=True)
    labels = rng.integers(0, 5, 200)
    found = selective.curve(labels, p)
    for t, coverage, risk in zip(found.threshold, found.coverage, found.risk, strict=True):
        chosen = p.max(axis=1) >= t
        assert coverage == pytest.approx(chosen.mean())
        assert risk == pytest.approx((p.argmax(axis=1) != labels)[chosen].mean())
    assert found.coverage[-1] == 1


def test_a_bound_is_that_of_the_binomial_distribution():
    for errors, n, delta in ((0, 10, 0.05), (3, 50, 0.01), (49, 50, 0.1)):
        b = selective._bound(errors, n, delta)
        assert stats.binom.cdf(errors, n, b) == pytest.approx(delta)
    assert selective._bound(5, 5, 0.05) == 1


def test_a_threshold_accepts_the_sure_and_refuses_the_rest():
    # Above 0.8 all are right, below a coin decides.
    confidence = np.concatenate([np.linspace(0.8, 0.99, 400), np.linspace(0.5, 0.79, 400)])
    correct = np.concatenate([np.ones(400, bool), np.arange(400) % 2 == 0])
    found = selective.threshold(*two_classes(confidence, correct), risk=0.05)
    assert 0.7 < found < 0.82
    chosen = confidence >= found
    assert (~correct[chosen]).mean() < 0.05 and chosen.sum() >= 380
    assert selective.threshold(*two_classes(confidence, correct), risk=0.001) is None  # 400 are too few
    assert selective.threshold(*two_classes(confidence, correct), risk=0.9) == pytest.approx(0.5)


def test_the_risk_of_new_examples_is_as_promised():
    rng, broken, risk = np.random.default_rng(1), 0, 0.1
    for _ in range(200):
        confidence = rng.uniform(0.5, 1, 500)
        found = selective.threshold(*two_classes(confidence, rng.uniform(size=500) < confidence), risk=risk)
        # A calibrated model: above t, confidences are uniform in [t, 1], and so is the share of errors.
        broken += found is not None and (1 - found) / 2 > risk
    assert broken <= 200 * 0.05


def test_the_thresholds_of_all_risks_descend():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, 100_000)
    found = selective.thresholds(*two_classes(confidence, rng.uniform(size=100_000) < confidence))
    assert list(found) == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.3"]
    known = [value for value in found.values() if value is not None]
    assert len(known) >= 4 and known == sorted(known, reverse=True)
