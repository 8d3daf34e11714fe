"""Probability of each row: class-balanced, and fixed mixtures.

Label tables are task -> (N,), MISSING where unknown; probabilities are (N,) float64 and sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

Labels = Mapping[str, np.ndarray]


def balanced(labels: Labels) -> np.ndarray:
    """Draws a task, then one of its classes that have rows, then a row of it, all uniformly.

    p_i = (1 / T) sum over the tasks t that row i is labelled for of 1 / (K_t n_c), with n_c rows of
    its class c, K_t classes that have rows and T tasks that have labels.
    """
    weights = np.zeros(len(next(iter(labels.values()))))
    for task, values in labels.items():
        known = values != MISSING
        in_class = np.bincount(values[known], minlength=TASKS[task].num_classes)
        if known.any():
            weights[known] += 1 / ((in_class > 0).sum() * in_class[values[known]])
    return normalised(weights)


def mixture(sizes: Sequence[int], shares: Sequence[float]) -> np.ndarray:
    """Draws a data set with a fixed share, then one of its rows uniformly.

    Args:
      sizes: rows of each data set, in the order of their concatenation.
      shares: relative share of each data set, at least 0.

    Raises:
      UserError: the numbers of shares and data sets differ, or a share is negative.
    """
    if len(sizes) != len(shares) or min(shares, default=0) < 0 or sum(shares) <= 0:
        expected, found = f"{len(sizes)} shares, none negative", ", ".join(map(str, shares))
        fix = "give each set one share of 0 or more"
        raise UserError("not a mixture", where="shares", expected=expected, found=found, fix=fix)
    return normalised(np.repeat(np.asarray(shares, float) / np.maximum(sizes, 1), sizes))


def drawn_shares(labels: np.ndarray, probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns each class's expected share, (C,) float64, of the labelled draws of a task.

    `labels` (N,) are MISSING where unknown; `probabilities` (N,) are those of the rows.
    """
    known = labels != MISSING
    mass = np.bincount(labels[known], weights=probabilities[known], minlength=num_classes)
    return mass / mass.sum()


def normalised(weights: np.ndarray) -> np.ndarray:
    """Returns weights divided by their sum; raises UserError if they are all zero."""
    if not weights.sum() > 0:
        expected, fix = "labelled rows", "name a set with labels in data.train"
        raise UserError("no row can be drawn", where="the sampler", expected=expected, fix=fix)
    return weights / weights.sum()
