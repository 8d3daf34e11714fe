"""Adjusted p-values by hand, and against the closed testing procedure."""

import itertools

import pytest

from softbio_jax.evaluation.metrics import multiplicity

P_VALUES = [0.01, 0.04, 0.03, 0.005]


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then the largest so far
    assert multiplicity.holm(P_VALUES) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("values", [P_VALUES, [0.2, 0.2, 0.9], [0.001], [0.5, 1.0, 0.02, 0.02, 0.3]])
def test_holm_is_closed_testing_by_bonferroni(values):
    """Every hypothesis gets the greatest Bonferroni p-value of the subsets that contain it."""
    size = len(values)
    subsets = [s for k in range(1, size + 1) for s in itertools.combinations(range(size), k)]
    expected = [
        max(min(1, len(s) * min(values[i] for i in s)) for s in subsets if index in s)
        for index in range(size)
    ]
    assert multiplicity.holm(values) == pytest.approx(expected)


def test_benjamini_hochberg_by_hand():
    # 4 x 0.005 / 1, 4 x 0.01 / 2, 4 x 0.03 / 3, 4 x 0.04 / 4
    assert multiplicity.benjamini_hochberg(P_VALUES) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_an_empty_family_stays_empty():
    assert multiplicity.holm([]) == multiplicity.benjamini_hochberg([]) == []
