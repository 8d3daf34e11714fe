"""Metrics by race x gender x age group, with the size of every group.

Race is an audit column that no head predicts. Gender and age group are the labels.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation.metrics import classification, intervals
from softbio_jax.evaluation.metrics.per_task import probability_metrics
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS

FACTORS = ("race", "gender", "age")
# Below this many examples a Wilson interval of an accuracy near 0.9 is wider than 12 points.
SMALL_CELL = 100


def known_factors(predictions: Predictions) -> dict[str, np.ndarray]:
    """Returns factor -> (N,) strings, empty where unknown, for the factors that the set has."""
    found = {}
    for factor in FACTORS:
        if factor in predictions.audit:
            values = predictions.audit[factor]
        elif factor in predictions.labels and factor not in predictions.synthetic_labels:
            names = np.array([*TASKS[factor].classes, ""])  # MISSING = -1 picks the last
            values = names[predictions.labels[factor]]
        else:
            continue
        if np.any(values != ""):
            found[factor] = values
    return found


def audit(predictions: Predictions) -> dict[str, Any]:
    """Returns the complete audit of one test set, empty without any factor.

    Task -> factors joined by " x " (every subset that the set has) -> `rows` and `gap`.
    """
    known = list(known_factors(predictions))
    found: dict[str, Any] = {}
    for task in predictions.tasks():
        for subset in (s for size in (1, 2, 3) for s in itertools.combinations(known, size)):
            rows = by_group(predictions, task, subset)
            if rows:
                cut = {"rows": rows, "gap": gap(rows, subset)}
                found.setdefault(task, {})[" x ".join(subset)] = cut
    return found


def by_group(predictions: Predictions, task: str, factors: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the metrics of `task` in every group that has a label for it.

    Args:
      predictions, task: the test set and the evaluated task.
      factors: a subset of `FACTORS` that the set has.

    Returns:
      One row per group: the factors' values, `n`, `accuracy` and its Wilson `interval`, the other
      metrics (without balanced accuracy and macro-F1 where the task is itself a factor), and
      `small` (fewer than `SMALL_CELL` examples).
    """
    rows = []
    for values, members in _groups(predictions, factors):
        known = members & (predictions.labels[task] != MISSING)
        if known.any():
            found = _metrics(predictions, task, known)
            if task in factors:
                # One true class per group: averages over classes mean nothing.
                del found["balanced_accuracy"], found["macro_f1"]
            rows.append({**values, **found})
    return rows


def gap(rows: Sequence[Mapping[str, Any]], factors: Sequence[str]) -> dict[str, Any] | None:
    """Returns the accuracy gap between the best and the worst group of the rows of `by_group`.

    The interval is Newcombe's for these two groups. They were picked for being extreme, so it
    measures how precisely their gap is known, not whether groups differ at all; `p_value` does
    (chi-square test of equal accuracy over all groups). Both exclude small groups.

    Returns:
      `best`, `worst` (names), `gap`, `interval`, `p_value`, `groups` (number of groups compared),
      `smallest` (name and n, among all groups); None with fewer than two groups of at least
      `SMALL_CELL` examples.
    """
    from scipy import stats

    large = [row for row in rows if not row["small"]]
    if len(large) < 2:
        return None
    best = max(large, key=lambda row: row["accuracy"])
    # The last of equals, so that two groups are named even if all are equally good.
    worst = min(reversed(large), key=lambda row: row["accuracy"])
    smallest = min(rows, key=lambda row: row["n"])
    right_wrong = np.array([[row["hits"], row["n"] - row["hits"]] for row in large])
    varied = bool((right_wrong.sum(axis=0) > 0).all())
    return {
        "best": group_name(best, factors),
        "worst": group_name(worst, factors),
        "gap": best["accuracy"] - worst["accuracy"],
        "interval": list(intervals.wilson_difference((best["hits"], worst["hits"]), (best["n"], worst["n"]))),
        "p_value": float(stats.chi2_contingency(right_wrong).pvalue) if varied else 1.0,
        "groups": len(large),
        "smallest": {"group": group_name(smallest, factors), "n": smallest["n"]},
    }


def group_name(row: Mapping[str, Any], factors: Sequence[str]) -> str:
    """Returns a name such as "Black female 20-29"."""
    return " ".join(str(row[factor]) for factor in factors)


def _groups(predictions: Predictions, factors: Sequence[str]) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Yields the factors' values and members (N,) bool of every non-empty group, in vocabulary order."""
    known = known_factors(predictions)
    for values in itertools.product(*(_levels(factor, known[factor]) for factor in factors)):
        group = dict(zip(factors, values, strict=True))
        members = np.all([known[factor] == value for factor, value in group.items()], axis=0)
        if members.any():
            yield group, members


def _levels(factor: str, values: np.ndarray) -> list[str]:
    present = set(values.tolist()) - {""}
    order = list(TASKS[factor].classes) if factor in TASKS else []
    return [v for v in order if v in present] + sorted(present - set(order))


def _metrics(predictions: Predictions, task: str, rows: np.ndarray) -> dict[str, Any]:
    labels, probabilities = predictions.labels[task][rows], predictions.probabilities[task][rows]
    counts = classification.confusion_counts(labels, probabilities.argmax(axis=1), TASKS[task].num_classes)
    n, hits = len(labels), int(np.trace(counts))
    return {
        "n": n,
        "hits": hits,
        "interval": list(intervals.wilson(hits, n)),
        "small": n < SMALL_CELL,
        **classification.shares(task, counts),
        **probability_metrics(task, labels, probabilities),
    }
