"""Expected age and its error, by hand."""

import numpy as np
import pytest

from softbio_jax.evaluation.metrics import classification
from softbio_jax.tasks import AGE


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
