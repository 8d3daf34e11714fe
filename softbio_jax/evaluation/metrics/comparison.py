"""Paired tests: whether one model is better than another on the same examples."""

import dataclasses
from typing import Any

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import classification, intervals
from softbio_jax.evaluation.predictions import Predictions, rows_text
from softbio_jax.tasks import MISSING, TASKS

SIGN_FLIPS = 9999


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> dict[str, Any]:
    """Tests whether two models are right equally often, from the examples (n,) on which they disagree.

    Returns:
      `first_only`, `second_only` (counts), the exact two-sided `p_value` under
      Binomial(first_only + second_only, 1/2), and the effect size `g`, Cohen's
      first_only / (first_only + second_only) - 1/2, from -0.5 to 0.5 and 0 without disagreement.

    Source: McNemar, Psychometrika 1947; the exact form by scipy's binomial test. Cohen, Statistical
    Power Analysis for the Behavioral Sciences, 1988, chapter 5.
    """
    from scipy import stats

    first_only = int(np.sum(first_right & ~second_right))
    second_only = int(np.sum(~first_right & second_right))
    n = first_only + second_only
    p_value = float(stats.binomtest(first_only, n).pvalue) if n else 1.0
    g = first_only / n - 0.5 if n else 0.0
    return {"first_only": first_only, "second_only": second_only, "p_value": p_value, "g": g}


def compare(first: Predictions, second: Predictions, task: str) -> dict[str, Any]:
    """Compares two models on the same examples of one test set, in any order.

    Returns:
      `n`, McNemar's counts and p-value, and for accuracy, balanced accuracy and macro-F1 the
      difference first - second with its paired interval.

    Raises:
      UserError: the examples or their labels differ.
    """
    second = in_order_of(second, first)
    check_labels(second, first, task)
    labels, one = first.labelled(task)
    _, two = second.labelled(task)
    one, two = one.argmax(axis=1), two.argmax(axis=1)
    return {
        "n": len(labels),
        **mcnemar(one == labels, two == labels),
        "differences": differences(labels, one, two, TASKS[task].num_classes),
    }


def check_labels(second: Predictions, first: Predictions, task: str) -> None:
    """Checks that two predictions of one test set have the same labels of a task, in any order.

    Raises:
      UserError: other ids, or a label that differs.
    """
    second = in_order_of(second, first)
    if not np.array_equal(first.labels[task], second.labels[task]):
        bad = np.flatnonzero(first.labels[task] != second.labels[task])
        raise UserError(
            f"{task} labels differ between two predictions of one test set",
            where=f"{first.name!r} {rows_text(bad)} (id {str(first.ids[bad[0]])!r})",
            expected=str(first.labels[task][bad[0]]),
            found=str(second.labels[task][bad[0]]),
            fix="evaluate both on the same data",
        )


def changed_mean(one: np.ndarray, two: np.ndarray) -> dict[str, Any]:
    """Compares how often two models are right on the same examples, each averaged over its seeds.

    Args:
      one, two: (n,) shares of a model's seeds that are right, between 0 and 1.

    Returns:
      `difference` of the means one - two and its paired `interval`, the `effect` size d (mean over
      standard deviation of the differences) and the two-sided `p_value` of a sign-flip test: McNemar's
      exact one where every difference is -1, 0 or 1, else by 9,999 random signs.

    Source: Fisher, The Design of Experiments, 1935, on randomisation; Cohen, Statistical Power Analysis
    for the Behavioral Sciences, 1988, for d.
    """
    change = one - two
    spread = change.std()
    sizes, counts = np.unique(np.abs(change[change != 0]).round(12), return_counts=True)
    if set(sizes.tolist()) <= {1.0}:
        p_value = mcnemar(change > 0, change < 0)["p_value"]
    else:
        rng = np.random.default_rng(intervals.SEED)
        flipped = (2 * rng.binomial(counts, 0.5, size=(SIGN_FLIPS, len(counts))) - counts) @ sizes
        extreme = np.sum(np.abs(flipped) >= abs(change.sum()) - 1e-9)
        p_value = float((1 + extreme) / (1 + SIGN_FLIPS))
    return {
        **_changed(change),
        "effect": float(change.mean() / spread) if spread else 0.0,
        "p_value": p_value,
    }


def differences(
    labels: np.ndarray, one: np.ndarray, two: np.ndarray, num_classes: int
) -> dict[str, dict[str, Any]]:
    """Returns first - second with its paired interval for each count-based metric.

    d -+ z sqrt(V): the delta method for the table of (true, first, second), with the class sizes
    fixed for balanced accuracy and macro-F1, and one example's prior weight per class in V, a quarter in
    each of right and wrong by both (Perks' prior), so that it does not vanish where both
    models agree on a small class. Accuracy is one such class of all examples.

    Args:
      labels: (n,) true classes.
      one, two: (n,) classes predicted by the first and by the second model.

    Returns:
      Metric -> `difference` and `interval`.

    Source: Perks, Journal of the Institute of Actuaries 1947; Agresti and Min, Statistics in Medicine
    2005, on priors of this kind for matched proportions.
    """
    shape = (num_classes,) * 3
    cells = np.ravel_multi_index((labels, one, two), shape)
    triples = np.bincount(cells, minlength=num_classes**3).reshape(shape)
    first, second = triples.sum(-1), triples.sum(-2)
    found = {"accuracy": _changed((one == labels).astype(np.float64) - (two == labels))}
    gradients = [intervals.class_gradients(counts) for counts in (first, second)]
    prior = _perks(num_classes)
    n = triples.sum((1, 2))
    smoothed = (triples + prior) / (n + 1)[:, None, None]
    for name, metric in (
        ("balanced_accuracy", classification.balanced_accuracy),
        ("macro_f1", classification.macro_f1),
    ):
        left, right = (gradient[name] for gradient in gradients)
        change = left[:, :, None] - right[:, None, :]  # of the metric per share of a triple
        mean = (smoothed * change).sum((1, 2))
        spread = (smoothed * change**2).sum((1, 2)) - mean**2
        variance = (spread[n > 0] / n[n > 0]).sum()
        found[name] = _around(float(metric(first) - metric(second)), variance)
    return found


def _changed(change: np.ndarray) -> dict[str, Any]:
    """Returns the mean of differences (n,) between -1 and 1 and its interval, see `differences`."""
    n = len(change)
    mean, square = change.sum() / (n + 1), ((change**2).sum() + 0.5) / (n + 1)
    return _around(float(change.mean()), (square - mean**2) / n)


def _around(difference: float, variance: float) -> dict[str, Any]:
    from scipy import stats

    margin = stats.norm.ppf((1 + intervals.LEVEL) / 2) * np.sqrt(max(variance, 0))
    low, high = max(difference - margin, -1.0), min(difference + margin, 1.0)
    return {"difference": difference, "interval": [float(low), float(high)]}


def _perks(size: int) -> np.ndarray:
    """Returns the prior (true, first, second), 1 per true class: a quarter for each of right and wrong."""
    own = np.eye(size)
    single = 0.5 * own + 0.5 * (1 - own) / max(size - 1, 1)
    return single[:, :, None] * single[:, None, :]


def in_order_of(predictions: Predictions, reference: Predictions) -> Predictions:
    """Returns `predictions` in the order of `reference`, which must hold the same ids.

    Raises:
      UserError: ids that are missing from, or unknown to, the reference test set, with rows.
    """
    unknown = np.flatnonzero(~np.isin(predictions.ids, reference.ids))
    missing = np.flatnonzero(~np.isin(reference.ids, predictions.ids))
    where = f"predictions {predictions.name!r}"
    if len(unknown):
        where, found = f"{where} {rows_text(unknown)}", repr(str(predictions.ids[unknown[0]]))
        expected = f"an id of test set {reference.name!r}"
        raise UserError("unknown id", where=where, expected=expected, found=found, fix="correct the ids")
    if len(missing):
        where = f"{where} lacks {rows_text(missing)} of test set {reference.name!r}"
        expected, fix = repr(str(reference.ids[missing[0]])), "predict every example of the test set"
        raise UserError("missing id", where=where, expected=expected, fix=fix)
    order = np.argsort(predictions.ids)
    return predictions.take(order[np.searchsorted(predictions.ids, reference.ids, sorter=order)])


def labelled_like(predictions: Predictions, reference: Predictions) -> Predictions:
    """Returns third-party `predictions` as predictions on the test set `reference`.

    The result has the reference's order, labels, audit columns and name; labels of `predictions`
    must agree with its labels.

    Raises:
      UserError: other ids (see `in_order_of`), or a label that contradicts the reference's.
    """
    ordered = in_order_of(predictions, reference)
    for task, labels in ordered.labels.items():
        own = reference.labels.get(task, np.full(len(reference), MISSING, np.int32))
        bad = np.flatnonzero((labels != MISSING) & (own != labels))
        if len(bad):
            raise UserError(
                f"{task} label contradicts the test set's",
                where=f"predictions {predictions.name!r} id {str(reference.ids[bad[0]])!r}",
                expected=_name(task, own[bad[0]]),
                found=_name(task, labels[bad[0]]),
                fix="correct the label, or omit the column",
            )
    shared = [task for task in ordered.probabilities if task in reference.labels]
    return dataclasses.replace(
        ordered,
        name=reference.name,
        labels={task: reference.labels[task] for task in shared},
        probabilities={task: ordered.probabilities[task] for task in shared},
        audit=reference.audit,
        synthetic_labels=reference.synthetic_labels,
    )


def _name(task: str, label: int) -> str:
    return "no label" if label == MISSING else TASKS[task].classes[label]
