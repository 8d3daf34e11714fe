"""P-values adjusted for the number of tests in a family."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that bound the probability of any false rejection in the family.

    max_{j <= i} min(1, (m - j + 1) p_(j)) for the m ascending p_(i); for tests that confirm.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.minimum(1, values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that bound the expected share of false ones among the rejections; for exploring.

    min_{j >= i} min(1, m p_(j) / j) for the m ascending p_(i); by scipy.

    Source: Benjamini and Hochberg, JRSS B 1995.
    """
    from scipy import stats

    return stats.false_discovery_control(p_values).tolist() if len(p_values) else []
