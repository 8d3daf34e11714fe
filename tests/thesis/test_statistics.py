"""Intervals over seeds against scipy's."""

import math

import numpy as np
import pytest
from scipy import stats

from softbio_jax.thesis.study.collected import over_seeds, paired

FIRST, SECOND = [61.2, 63.9, 60.1], [58.0, 61.5, 59.4]


def test_the_interval_is_scipys():
    found = over_seeds(FIRST)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(FIRST), scale=stats.sem(FIRST))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.n == 3 and found.excludes_zero


def test_a_paired_difference_agrees_with_the_t_test():
    found = paired(FIRST, SECOND)
    test = stats.ttest_rel(FIRST, SECOND)
    interval = test.confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((interval.low, interval.high))
    assert found.excludes_zero == (test.pvalue < 0.05)


def test_one_seed_says_nothing_of_the_spread():
    found = over_seeds([50.0])
    assert found.mean == 50.0 and math.isnan(found.half) and not found.excludes_zero
