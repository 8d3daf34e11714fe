"""Answering only where confident: risk against coverage, and thresholds with a guaranteed risk."""

import dataclasses
import math

import numpy as np
from scipy import special

from softbio_jax.evaluation.metrics.calibration import top

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)  # those that thresholds are chosen for
DELTA = 0.05  # probability that a guarantee does not hold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Selective risk at every coverage, from the most confident example to all of them.

    Args:
      threshold: (K,) distinct confidences, descending.
      coverage: (K,) share of examples whose confidence is at least the threshold.
      risk: (K,) share of errors among them.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray

    @property
    def area(self) -> float:
        """Area under the curve, sum_k risk_k (coverage_k - coverage_(k-1)): 0 without errors."""
        return float((self.risk * np.diff(self.coverage, prepend=0.0)).sum())


def curve(labels: np.ndarray, probabilities: np.ndarray) -> Curve:
    """Returns the risk-coverage curve of labels (n,) and probabilities (n, C), by the largest probability.

    Source: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.
    """
    values, accepted, errors = _accepted(labels, probabilities)
    return Curve(threshold=values, coverage=accepted / accepted[-1], risk=errors / accepted)


def threshold(
    labels: np.ndarray, probabilities: np.ndarray, *, risk: float, delta: float = DELTA
) -> float | None:
    """Returns a confidence above which at most `risk` of new examples are wrong, or None if none is found.

    It is the lowest that a binary search over confidences finds, each tried by its bound: with e errors
    among m accepted examples, the b with P(Binomial(m, b) <= e) = delta / k, k the number of tries. With
    probability 1 - delta over the choice of the examples, the risk of new ones from the same source is at
    most `risk`.

    Source: Geifman and El-Yaniv 2017, algorithm 1 (SGR).

    Args:
      labels: (n,) of validation examples.
      probabilities: (n, C).
      risk: largest share of errors among the answers.
      delta: probability that the guarantee does not hold.
    """
    values, accepted, errors = _accepted(labels, probabilities)
    tries = math.floor(math.log2(len(values))) + 1  # of the search, at most
    low, high, best = 0, len(values) - 1, None
    while low <= high:
        middle = (low + high) // 2
        if _bound(int(errors[middle]), int(accepted[middle]), delta / tries) <= risk:
            best, low = middle, middle + 1  # accept more
        else:
            high = middle - 1
    return None if best is None else float(values[best])


def thresholds(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """Returns the threshold of each of `RISKS`, by its text, such as "0.05"."""
    return {f"{risk:g}": threshold(labels, probabilities, risk=risk) for risk in RISKS}


def _accepted(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns distinct confidences, descending, and how many examples and errors have at least these."""
    confidence, correct = top(labels, probabilities)
    values, place = np.unique(-confidence, return_inverse=True)
    accepted = np.cumsum(np.bincount(place, minlength=len(values)))
    errors = np.cumsum(np.bincount(place, weights=1 - correct, minlength=len(values)))
    return -values, accepted, errors


def _bound(errors: int, n: int, delta: float) -> float:
    """Returns the upper end of the one-sided Clopper-Pearson interval of a share of errors."""
    return 1.0 if errors >= n else float(special.betaincinv(errors + 1, n - errors, 1 - delta))
