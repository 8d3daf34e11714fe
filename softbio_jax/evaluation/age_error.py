"""Age error in years from probabilities over age groups."""

import numpy as np

# The middle of each group in completed years, as in (10 + 19) / 2; 75 stands for the open group
# "70+", a convention, since nothing in a group label says more.
REPRESENTATIVE_YEARS = (1.0, 6.0, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 75.0)


def expected_age(probabilities: np.ndarray) -> np.ndarray:
    """Returns the expected age sum_c p_c a_c in years, a_c from `REPRESENTATIVE_YEARS`.

    Args:
      probabilities: (n, 9) over the age groups.

    Returns:
      (n,) float64 years.
    """
    return probabilities.astype(np.float64) @ np.array(REPRESENTATIVE_YEARS)


def absolute_error(
    labels: np.ndarray, probabilities: np.ndarray, *, years: np.ndarray | None = None
) -> np.ndarray:
    """Returns |expected age - true age| of each example in years.

    Args:
      labels: (n,) true age groups.
      probabilities: (n, 9).
      years: (n,) true ages where the data set has them; NaN, or no array at all, falls back to
        the representative of the true group. Errors of the two kinds are not comparable.

    Returns:
      (n,) float64 years.
    """
    true = np.array(REPRESENTATIVE_YEARS)[labels]
    if years is not None:
        true = np.where(np.isnan(years), true, years)
    return np.abs(expected_age(probabilities) - true)
