"""How likely each row is drawn: the thesis' rule, class-balanced, and fixed mixtures.

All functions take label tables, task -> (N,) with MISSING where unknown, and return (N,) float64
probabilities that sum to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION, MISSING, TASKS

EMOTION_SHARE = 0.334

Labels = Mapping[str, np.ndarray]


def repetitions(labels: Labels, *, seed: int, emotion_share: float = EMOTION_SHARE) -> np.ndarray:
    """Repeats rows with an emotion, chosen at random with replacement, up to a share of the rows.

    n_add = int((f N - n_e) / (1 - f)) further rows for n_e of N rows with an emotion and share f.

    Args:
      labels: the label tables; without emotion rows nothing is repeated.
      seed: which rows are repeated.
      emotion_share: the share f, below 1.

    Returns:
      (N,) int64, how often each row stands in the index, at least once.

    Raises:
      UserError: a share outside of [0, 1).

    Source: the thesis' training code, for more than one task.
    """
    if not 0 <= emotion_share < 1:
        raise UserError(
            "not a share",
            where="emotion_share",
            expected="0 <= f < 1",
            found=str(emotion_share),
            fix="set it between 0 and 1",
        )
    size = _size(labels)
    counts = np.ones(size, np.int64)
    rows = np.flatnonzero(labels.get(EMOTION.name, np.full(size, MISSING)) != MISSING)
    if not len(rows):
        return counts
    added = int((emotion_share * size - len(rows)) / (1 - emotion_share))
    rng = np.random.Generator(np.random.Philox(seed))
    chosen = rng.integers(len(rows), size=max(added, 0))
    counts[rows] += np.bincount(chosen, minlength=len(rows))
    return counts


def mean_rule(labels: Labels, counts: np.ndarray) -> np.ndarray:
    """Weighs a row by the mean, over the tasks it is labelled for, of N_t / (K_t n_c).

    N_t rows of the index are labelled for task t, n_c of them with the row's class c, of K_t.
    Gender being nearly balanced, this balances age and emotion about half-way.

    Args:
      labels: the label tables.
      counts: (N,) how often each row stands in the index, see `repetitions`.

    Source: the thesis' training code.
    """
    total = np.zeros(_size(labels))
    known_tasks = np.zeros(_size(labels))
    for task, values in labels.items():
        known = values != MISSING
        in_class = np.bincount(values[known], weights=counts[known], minlength=TASKS[task].num_classes)
        per_class = in_class.sum() / (TASKS[task].num_classes * np.maximum(in_class, 1))
        total[known] += per_class[values[known]]
        known_tasks += known
    return _normalised(counts * total / np.maximum(known_tasks, 1))


def balanced(labels: Labels) -> np.ndarray:
    """Draws a task, then one of its classes that have rows, then a row of it, all uniformly.

    p_i = (1 / T) sum over the tasks t that row i is labelled for of 1 / (K_t n_c): n_c rows of
    its class c, K_t classes that have rows, T tasks that have labels.

    Args:
      labels: the label tables, (N,) each.
    """
    weights = np.zeros(_size(labels))
    for task, values in labels.items():
        known = values != MISSING
        in_class = np.bincount(values[known], minlength=TASKS[task].num_classes)
        if known.any():
            weights[known] += 1 / ((in_class > 0).sum() * in_class[values[known]])
    return _normalised(weights)


def mixture(sizes: Sequence[int], shares: Sequence[float]) -> np.ndarray:
    """Draws a data set with a fixed share, then one of its rows uniformly.

    Args:
      sizes: rows of each data set, in the order of their concatenation.
      shares: relative share of each data set, not negative.

    Returns:
      (sum of sizes,) float64.

    Raises:
      UserError: another number of shares than data sets, or negative ones.
    """
    if len(sizes) != len(shares) or min(shares, default=0) < 0 or sum(shares) <= 0:
        raise UserError(
            "not a mixture",
            where="shares",
            expected=f"{len(sizes)} shares, none negative",
            found=", ".join(str(share) for share in shares),
            fix="give each set one share of 0 or more",
        )
    return _normalised(np.repeat(np.asarray(shares, float) / np.maximum(sizes, 1), sizes))


def drawn_shares(labels: np.ndarray, probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes the expected share of each class among the draws that a task is labelled in.

    Args:
      labels: (N,), MISSING where unknown.
      probabilities: (N,) of each row to be drawn.
      num_classes: C.

    Returns:
      (C,) float64, which sum to one.
    """
    known = labels != MISSING
    mass = np.bincount(labels[known], weights=probabilities[known], minlength=num_classes)
    return mass / mass.sum()


def _size(labels: Labels) -> int:
    return len(next(iter(labels.values())))


def _normalised(weights: np.ndarray) -> np.ndarray:
    if not weights.sum() > 0:
        raise UserError(
            "no row can be drawn",
            where="the sampler",
            expected="labelled rows",
            fix="name a set with labels in data.train",
        )
    return weights / weights.sum()
