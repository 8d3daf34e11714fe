"""Sets of classes that contain the true one with a chosen probability: split conformal prediction."""

import math
from typing import Any

import numpy as np

from softbio_jax.evaluation.metrics import ages, intervals
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING

ERROR = 0.1  # the share of sets that may miss the true class


def threshold(labels: np.ndarray, probabilities: np.ndarray, *, error: float = ERROR) -> float:
    """Returns the score s up to which a class is in a set: the k-th smallest of 1 - p_y on validation.

    k = ceil((n + 1) (1 - error)) makes the sets of exchangeable examples contain the true class with a
    probability of at least 1 - error; too few examples, k > n, give infinity: every class.

    Args:
      labels: (n,) true classes.
      probabilities: (n, C).
      error: 0 to 1.

    Source: Sadinle, Lei and Wasserman, JASA 2019 (least ambiguous sets); Vovk et al. 2005, for the split.
    """
    scores = np.sort(1 - probabilities[np.arange(len(labels)), labels].astype(np.float64))
    k = math.ceil((len(scores) + 1) * (1 - error))
    return float(scores[k - 1]) if k <= len(scores) else math.inf


def sets(probabilities: np.ndarray, score: float) -> np.ndarray:
    """Returns which classes are in each example's set, (N, C) bool: those with 1 - p_c <= score."""
    return 1 - probabilities.astype(np.float64) <= score


def coverage(
    predictions: Predictions, validation: Predictions, task: str, *, error: float = ERROR
) -> list[dict[str, Any]]:
    """Returns how often the sets of a test set contain the true class, per group.

    The promise holds where test examples are exchangeable with validation's, so on average and not in
    every group, and not for another data set.

    Returns:
      Rows of `group` ("all", or a value of race or gender), `n`, `covered`, `share`, Wilson's 95 %
      `interval` and `mean_size` of the sets; groups without a label are absent.
    """
    score = threshold(*validation.labelled(task), error=error)
    known = predictions.labels[task] != MISSING
    found = sets(predictions.probabilities[task], score)
    hit = np.zeros(len(predictions), bool)
    hit[known] = found[known, predictions.labels[task][known]]
    rows = []
    for group, members in ages.groups(predictions):
        chosen = known & members
        if n := int(chosen.sum()):
            covered = int(hit[chosen].sum())
            row = {"group": group, "n": n, "covered": covered, "share": covered / n}
            bounds, size = list(intervals.wilson(covered, n)), float(found[chosen].sum(axis=1).mean())
            rows.append(row | {"interval": bounds, "mean_size": size})
    return rows
