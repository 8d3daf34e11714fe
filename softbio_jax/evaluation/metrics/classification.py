"""Metrics of class predictions: those of a confusion matrix, and the age error in years."""

from typing import Any

import numpy as np

from softbio_jax.tasks import MISSING, TASKS

# The middle of each age group in completed years, as in (10 + 19) / 2. Nothing in the label of the
# open group "70+" gives its middle: 75 is a convention.
REPRESENTATIVE_YEARS = (1.0, 6.0, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 75.0)


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (true, predicted) pairs of N examples, (C, C) int64; labels that are `MISSING` do not count."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    known = labels != MISSING
    cell = labels[known].astype(np.int64) * num_classes + predicted[known]
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics of each class, for counts (..., C, C) whose rows are the true class.

    precision_c = TP_c / predicted_c, recall_c = TP_c / true_c, F1_c = 2 TP_c / (true_c +
    predicted_c); a ratio with a zero denominator is NaN.

    Returns:
      `precision`, `recall`, `f1` (..., C) float64 and `n`, `predicted` (..., C) int64.
    """
    counts = np.asarray(counts)
    hit, true, predicted = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)
    return {
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, true),
        "f1": _ratio(2 * hit, true + predicted),
        "n": true,
        "predicted": predicted,
    }


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Returns the share of correct predictions, sum_c TP_c / n, for counts (..., C, C)."""
    counts = np.asarray(counts)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Returns the mean recall over the classes that occur, for counts (..., C, C)."""
    return _mean_of_defined(per_class(counts)["recall"])


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Returns the mean F1 over the classes that occur or are predicted, for counts (..., C, C)."""
    return _mean_of_defined(per_class(counts)["f1"])


def majority(counts: np.ndarray) -> np.ndarray:
    """Returns the majority baseline, the accuracy of always predicting the most frequent class.

    max_c n_c / n, for counts (..., C, C).
    """
    counts = np.asarray(counts)
    return _ratio(counts.sum(-1).max(-1), counts.sum((-2, -1)))


def one_off(counts: np.ndarray) -> np.ndarray:
    """Returns the share of predictions at most one ordered class off, for counts (..., C, C)."""
    counts = np.asarray(counts)
    position = np.arange(counts.shape[-1])
    near = np.abs(position[:, None] - position[None, :]) <= 1
    return _ratio((counts * near).sum((-2, -1)), counts.sum((-2, -1)))


def shares(task: str, counts: np.ndarray) -> dict[str, float]:
    """Returns the main metrics of one task, between 0 and 1, for counts (C, C) of at least one example.

    `accuracy`, `balanced_accuracy`, `macro_f1`, and for age `one_off_accuracy`.
    """
    metrics = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
    if task == "age":
        metrics["one_off_accuracy"] = one_off
    return {name: float(metric(counts)) for name, metric in metrics.items()}


def from_counts(task: str, counts: np.ndarray) -> dict[str, Any]:
    """Returns every count-based metric of one task on one test set, as JSON values.

    Returns:
      `n`, the result of `shares`, `majority`, `per_class` (name -> n, precision, recall, f1; None
      where undefined) and `confusion` (C lists of C counts).
    """
    classes = per_class(counts)
    rows: dict[str, dict[str, Any]] = {name: {} for name in TASKS[task].classes}
    for row, n in zip(rows.values(), classes["n"], strict=True):
        row["n"] = int(n)
    for key in ("precision", "recall", "f1"):
        for row, value in zip(rows.values(), classes[key], strict=True):
            row[key] = None if np.isnan(value) else float(value)
    return {
        "n": int(np.sum(counts)),
        **shares(task, counts),
        "majority": float(majority(counts)),
        "per_class": rows,
        "confusion": np.asarray(counts).tolist(),
    }


def expected_age(probabilities: np.ndarray) -> np.ndarray:
    """Returns the expected age sum_c p_c a_c in years (n,), a_c from `REPRESENTATIVE_YEARS`."""
    return probabilities.astype(np.float64) @ np.array(REPRESENTATIVE_YEARS)


def absolute_error(
    labels: np.ndarray, probabilities: np.ndarray, *, years: np.ndarray | None = None
) -> np.ndarray:
    """Returns |expected age - true age| of each example in years (n,).

    Args:
      labels: (n,) true age groups.
      probabilities: (n, 9).
      years: (n,) true ages where the data set has them; NaN, or None, falls back to the
        representative of the true group. Errors of the two kinds are not comparable.
    """
    true = np.array(REPRESENTATIVE_YEARS)[labels]
    if years is not None:
        true = np.where(np.isnan(years), true, years)
    return np.abs(expected_age(probabilities) - true)


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Returns part / total, NaN where both are zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return part / total


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1))
