"""Means over seeds and their intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over n seeds and half the width of its interval, NaN where one seed says nothing."""

    mean: float
    half: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half  # False where half is NaN


def over_seeds(values: Sequence[float], *, level: float = LEVEL) -> Estimate:
    """Returns the mean and Student's interval of it: mean -+ t s / sqrt(n), n - 1 degrees.

    Args:
      values: one figure a seed, at least one.
      level: the coverage.

    Source: Student, Biometrika 1908; the quantile is scipy's.
    """
    from scipy import stats

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(mean=mean, half=math.nan, n=n)
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))
    return Estimate(mean=mean, half=quantile * float(np.std(values, ddof=1)) / math.sqrt(n), n=n)


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Returns the mean of first - second, seed by seed, and its interval.

    A seed fixes the order of the pictures and the draws of what is new, so the two are pairs.
    """
    return over_seeds([a - b for a, b in zip(first, second, strict=True)])
