"""Every figure of one task on one set of examples."""

from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import calibration, classification, intervals
from softbio_jax.evaluation.predictions import Predictions, rows_text
from softbio_jax.tasks import MISSING, TASKS

YEARS_COLUMN = "years"  # of true ages, as the builders of the sets that have them name it


def proper_figures(
    task: str, labels: np.ndarray, probabilities: np.ndarray, *, years: np.ndarray | None = None
) -> dict[str, float]:
    """Returns the figures of one task that the probabilities themselves matter for.

    Args:
      task: the task's name.
      labels: (n,) true classes, none missing, n >= 1.
      probabilities: (n, C).
      years: (n,) true ages in years, NaN where unknown; for age alone.

    Returns:
      `nll` (nats), `brier` (0 to 2), `ece`; for age also `expected_age_mae` (years).
    """
    figures = {
        "nll": calibration.negative_log_likelihood(labels, probabilities).mean(),
        "brier": calibration.brier(labels, probabilities).mean(),
        "ece": calibration.reliability(labels, probabilities).ece,
    }
    if task == "age":
        errors = classification.absolute_error(labels, probabilities, years=years)
        figures["expected_age_mae"] = errors.mean()
    return {name: float(value) for name, value in figures.items()}


def task_figures(predictions: Predictions, task: str, *, temperature: float | None = None) -> dict[str, Any]:
    """Returns every figure of one task on one test set, as JSON values.

    Args:
      predictions: the test set, with at least one label for `task`.
      task: the task's name.
      temperature: T fitted on validation, or None where there is none.

    Returns:
      What `metrics.from_counts` and `proper_figures` return, `reliability` (bins), `intervals`
      (figure -> 95 % bounds: Wilson for the shares, bootstrap for the rest), the same in every
      class of `per_class`, and, with a temperature, `temperature`: its value, the figures that
      it changes, and their `intervals`.
    """
    labels, probabilities = predictions.labelled(task)
    predicted = probabilities.argmax(axis=1)
    counts = classification.confusion_counts(labels, predicted, TASKS[task].num_classes)
    years = true_years(predictions, task)
    figures: dict[str, Any] = classification.from_counts(task, counts)
    figures |= proper_figures(task, labels, probabilities, years=years)
    shares = _share_intervals(task, counts)
    proper = _proper_intervals(task, labels, probabilities, years)
    figures["intervals"] = {name: list(bounds) for name, bounds in (shares | proper).items()}
    _add_class_intervals(figures["per_class"], counts)
    figures["reliability"] = _bins(calibration.reliability(labels, probabilities))
    if temperature is not None:
        scaled = calibration.with_temperature(probabilities, temperature)
        after = proper_figures(task, labels, scaled, years=years)
        bounds = _proper_intervals(task, labels, scaled, years)
        figures["temperature"] = {
            "value": temperature,
            **{name: after[name] for name in bounds},
            "intervals": {name: list(values) for name, values in bounds.items()},
        }
    return figures


def true_years(predictions: Predictions, task: str) -> np.ndarray | None:
    """Returns the true ages (n,) of the labelled examples, None if the set has only groups.

    Raises:
      UserError: a value of the column `years` that is no number.
    """
    if task != "age" or YEARS_COLUMN not in predictions.audit:
        return None
    values = predictions.audit[YEARS_COLUMN]
    years = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            years[row] = float(value) if value else np.nan
        except ValueError:
            raise UserError(
                "not an age in years",
                where=f"predictions {predictions.name!r} {rows_text([row])} {YEARS_COLUMN}",
                expected="a number or nothing",
                found=repr(str(value)),
                fix="correct the row",
            ) from None
    return years[predictions.labels[task] != MISSING]


def _share_intervals(task: str, counts: np.ndarray) -> dict[str, tuple[float, float]]:
    """Intervals of the figures that only the predicted classes matter for."""
    n = int(counts.sum())
    found = {"accuracy": intervals.wilson(int(np.trace(counts)), n)}
    found |= intervals.of_counts(counts, intervals.COUNT_FIGURES)
    if task == "age":
        near = round(float(classification.one_off(counts)) * n)
        found["one_off_accuracy"] = intervals.wilson(near, n)
    return found


def _proper_intervals(
    task: str, labels: np.ndarray, probabilities: np.ndarray, years: np.ndarray | None
) -> dict[str, tuple[float, float]]:
    """Intervals of the figures that the probabilities themselves matter for."""
    means = {
        "nll": calibration.negative_log_likelihood(labels, probabilities),
        "brier": calibration.brier(labels, probabilities),
    }
    if task == "age":
        means["expected_age_mae"] = classification.absolute_error(labels, probabilities, years=years)
    bounds = intervals.of_means(np.stack(list(means.values()), axis=1))
    found = dict(zip(means, bounds, strict=True))
    return found | {"ece": intervals.of_ece(labels, probabilities)}


def _add_class_intervals(classes: dict[str, dict[str, Any]], counts: np.ndarray) -> None:
    """Adds `intervals` to each class: Wilson for precision and recall, bootstrap for F1."""
    draws = classification.per_class(intervals.resampled_counts(counts))["f1"]  # (R, C)
    for index, row in enumerate(classes.values()):
        hits = int(counts[index, index])
        sizes = {"recall": row["n"], "precision": int(counts[:, index].sum())}
        bounds = {name: intervals.wilson(hits, n) for name, n in sizes.items() if n}
        if row["f1"] is not None:
            bounds["f1"] = intervals.percentiles(draws[:, index])
        row["intervals"] = {name: list(values) for name, values in bounds.items()}


def _bins(reliability: calibration.Reliability) -> list[dict[str, float]]:
    return [
        {
            "low": float(reliability.edges[i]),
            "high": float(reliability.edges[i + 1]),
            "n": int(reliability.n[i]),
            "confidence": float(reliability.confidence[i]),
            "accuracy": float(reliability.accuracy[i]),
        }
        for i in range(len(reliability.n))
        if reliability.n[i]
    ]
