"""Smoothed probabilities against the formula, frame by frame."""

import math

import numpy as np
import pytest

from softbio_jax.inference.tracking.smoothing import Smoother

TIMES = (0.0, 0.4, 0.5, 2.0, 2.1)


@pytest.fixture
def rows():
    return np.random.default_rng(0).dirichlet(np.ones(4), len(TIMES))


def smoothed(rows, half_life):
    smoother = Smoother(half_life)
    return [smoother.update(t, {"age": p})["age"] for t, p in zip(TIMES, rows, strict=True)]


@pytest.mark.parametrize("half_life", [0.1, 1.0, 30.0, math.inf])
def test_it_is_the_weighted_geometric_mean(rows, half_life):
    for n, found in enumerate(smoothed(rows, half_life), 1):
        weights = np.array([0.5 ** ((TIMES[n - 1] - t) / half_life) for t in TIMES[:n]])
        wanted = np.prod(rows[:n] ** (weights / weights.sum())[:, None], axis=0)
        np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=1e-12)


def test_no_half_life_is_the_last_frame(rows):
    np.testing.assert_allclose(smoothed(rows, 0.0), rows, rtol=1e-12)


def test_equal_frames_do_not_become_more_certain():
    smoother, p = Smoother(math.inf), np.array([0.6, 0.4])
    for t in range(100):
        np.testing.assert_allclose(smoother.update(t, {"gender": p})["gender"], p)


def test_two_frames_by_hand():
    smoother = Smoother(1.0)
    smoother.update(0.0, {"gender": np.array([0.9, 0.1])})
    found = smoother.update(1.0, {"gender": np.array([0.2, 0.8])})["gender"]
    # Weights 1/2 and 1: odds (9^(1/2) 0.25)^(2/3) = 0.75^(2/3).
    assert found[0] / found[1] == pytest.approx(0.75 ** (2 / 3))


def test_a_probability_of_zero_decides_nothing_for_ever():
    smoother = Smoother(0.5)
    smoother.update(0.0, {"gender": np.array([0.0, 1.0])})
    for t in range(1, 10):
        found = smoother.update(float(t), {"gender": np.array([0.9, 0.1])})["gender"]
    assert np.isfinite(found).all() and found[0] > 0.89
