"""Every metric of one task on one set of examples."""

from typing import Any

import numpy as np

from softbio_jax.data.partial.years import COLUMNS, Rows, exact_of_test
from softbio_jax.evaluation.metrics import calibration, classification, intervals
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import AGE, MISSING, TASKS


def task_metrics(predictions: Predictions, task: str, *, temperature: float | None = None) -> dict[str, Any]:
    """Returns every metric of one task on one test set, as JSON values.

    Args:
      predictions: the test set, with at least one label for `task`.
      task: the task's name.
      temperature: T fitted on validation, if there is one.

    Returns:
      The results of `classification.from_counts` and `probability_metrics`, `reliability` (bins),
      `intervals` (metric -> 95 % bounds, see `metrics.intervals`), the same in every class of
      `per_class` that is large enough, and, with a temperature, `temperature`: its value, the metrics that
      it changes, and their `intervals`.
    """
    labels, probabilities = predictions.labelled(task)
    counts = classification.confusion_counts(labels, probabilities.argmax(axis=1), TASKS[task].num_classes)
    years = true_years(predictions, task)
    metrics = classification.from_counts(task, counts)
    metrics |= probability_metrics(task, labels, probabilities, years=years)
    bounds = _share_intervals(task, counts) | _probability_intervals(task, labels, probabilities, years)
    metrics["intervals"] = _lists(bounds)
    _add_class_intervals(metrics["per_class"], counts)
    metrics["reliability"] = calibration.reliability(labels, probabilities).filled_bins()
    if temperature is not None:
        scaled = calibration.with_temperature(probabilities, temperature)
        after = probability_metrics(task, labels, scaled, years=years)
        bounds = _probability_intervals(task, labels, scaled, years)
        changed = {name: after[name] for name in bounds}
        metrics["temperature"] = {"value": temperature, **changed, "intervals": _lists(bounds)}
    return metrics


def probability_metrics(
    task: str, labels: np.ndarray, probabilities: np.ndarray, *, years: np.ndarray | None = None
) -> dict[str, float]:
    """Returns the metrics of one task that depend on the probabilities, not only on the argmax.

    Args:
      task: the task's name.
      labels: (n,) true classes, none missing, n >= 1.
      probabilities: (n, C).
      years: (n,) true ages in years, NaN where unknown; only for age.

    Returns:
      `nll` (nats), `brier` (0 to 2), `ece`; for age also `expected_age_mae` (years).
    """
    losses = _losses(task, labels, probabilities, years)
    means = {name: float(values.mean()) for name, values in losses.items()}
    ece = calibration.reliability(labels, probabilities).ece
    return {"nll": means.pop("nll"), "brier": means.pop("brier"), "ece": ece, **means}


def true_years(predictions: Predictions, task: str) -> np.ndarray | None:
    """Returns the true ages (n,) of the labelled examples, None if the set has only groups.

    Raises:
      UserError: a value of the column `years` that is no age, or contradicts the label.
    """
    if task != AGE.name or not predictions.audit.keys() & set(COLUMNS):
        return None
    where = f"predictions {predictions.name!r}"
    years = exact_of_test(Rows(predictions.labels, predictions.audit, predictions.ids, where))
    known = years[predictions.labels[task] != MISSING]
    return None if np.isnan(known).all() else known


def _losses(
    task: str, labels: np.ndarray, probabilities: np.ndarray, years: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns the metrics that are means over examples, as (n,) values."""
    found = {
        "nll": calibration.negative_log_likelihood(labels, probabilities),
        "brier": calibration.brier(labels, probabilities),
    }
    if task == "age":
        found["expected_age_mae"] = classification.absolute_error(labels, probabilities, years=years)
    return found


def _share_intervals(task: str, counts: np.ndarray) -> dict[str, tuple[float, float]]:
    n = int(counts.sum())
    found = {"accuracy": intervals.wilson(int(np.trace(counts)), n)}
    found |= intervals.of_class_averages(counts)
    if task == "age":
        found["one_off_accuracy"] = intervals.wilson(round(float(classification.one_off(counts)) * n), n)
    return found


def _probability_intervals(
    task: str, labels: np.ndarray, probabilities: np.ndarray, years: np.ndarray | None
) -> dict[str, tuple[float, float]]:
    losses = _losses(task, labels, probabilities, years)
    bounds = intervals.of_means(np.stack(list(losses.values()), axis=1))
    return dict(zip(losses, bounds, strict=True)) | {"ece": intervals.of_ece(labels, probabilities)}


def _add_class_intervals(classes: dict[str, dict[str, Any]], counts: np.ndarray) -> None:
    """Adds `intervals` to each class, of the metrics that rest on at least `LEAST_EXAMPLES` examples.

    Wilson's for precision and recall, score intervals for F1.
    """
    f1 = intervals.of_class_f1(counts)
    for index, row in enumerate(classes.values()):
        hits = int(counts[index, index])
        sizes = {"recall": row["n"], "precision": int(counts[:, index].sum())}
        least = intervals.LEAST_EXAMPLES
        bounds = {name: intervals.wilson(hits, n) for name, n in sizes.items() if n >= least}
        if row["n"] >= least:
            bounds["f1"] = f1[index]
        row["intervals"] = _lists(bounds)


def _lists(bounds: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: list(values) for name, values in bounds.items()}
