"""Figures by race x gender x age group, with the size of every cell beside it.

Race is an audit column that no head predicts. Gender and age group are taken from the labels.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation.metrics import classification, intervals
from softbio_jax.evaluation.metrics.per_task import proper_figures
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS

FACTORS = ("race", "gender", "age")
# Below this many examples a Wilson interval of an accuracy near 0.9 is wider than 12 points.
SMALL_CELL = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One group of examples: the value of each factor it is cut by, and its rows.

    Args:
      factors: factor -> value, such as {"race": "Black", "gender": "female"}.
      rows: (N,) bool, the group's examples.
    """

    factors: Mapping[str, str]
    rows: np.ndarray


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


def cells(predictions: Predictions, factors: Sequence[str]) -> Iterator[Cell]:
    """Yields the non-empty groups of the product of `factors`, in the vocabulary's order."""
    known = known_factors(predictions)
    levels = [_levels(factor, known[factor]) for factor in factors]
    for values in itertools.product(*levels):
        rows = np.ones(len(predictions), bool)
        for factor, value in zip(factors, values, strict=True):
            rows &= known[factor] == value
        if rows.any():
            yield Cell(factors=dict(zip(factors, values, strict=True)), rows=rows)


def table(predictions: Predictions, task: str, factors: Sequence[str]) -> list[dict[str, Any]]:
    """Returns every figure of `task` in every group that has a label for it.

    Args:
      predictions: one test set.
      task: the task that is judged.
      factors: a subset of `FACTORS` that the set has.

    Returns:
      A row a group: the factors' values, `n`, `accuracy` and its Wilson `interval`, the other
      metrics (without balanced accuracy and macro-F1 where the task is itself a factor), and
      `small` (fewer than `SMALL_CELL` examples).
    """
    rows = []
    for cell in cells(predictions, factors):
        known = cell.rows & (predictions.labels[task] != MISSING)
        if known.any():
            found = _figures(predictions, task, known)
            if task in factors:
                # One true class a group: these averages over classes have lost their meaning.
                del found["balanced_accuracy"], found["macro_f1"]
            rows.append({**cell.factors, **found})
    return rows


def gap(rows: Sequence[Mapping[str, Any]], factors: Sequence[str]) -> dict[str, Any] | None:
    """Returns the accuracy gap between the best and the worst group of one table.

    The interval is Newcombe's for these two groups. Since they were picked for being extreme,
    it says how well their gap is measured, not whether groups differ at all; `p_value` does
    (chi-square test of equal accuracy over all groups). Small groups are left out of both.

    Args:
      rows: what `table` returned.
      factors: the factors it was cut by.

    Returns:
      `best`, `worst` (names), `gap`, `interval`, `p_value`, `smallest` (name and n, among all
      groups); None with fewer than two groups of at least `SMALL_CELL` examples.
    """
    from scipy import stats

    large = [row for row in rows if not row["small"]]
    if len(large) < 2:
        return None
    best = max(large, key=lambda row: row["accuracy"])
    # The last of equals: a pair of groups even where all are equally good.
    worst = min(reversed(large), key=lambda row: row["accuracy"])
    smallest = min(rows, key=lambda row: row["n"])
    table_2k = np.array([[row["hits"], row["n"] - row["hits"]] for row in large])
    varied = bool((table_2k.sum(axis=0) > 0).all())
    return {
        "best": group_name(best, factors),
        "worst": group_name(worst, factors),
        "gap": best["accuracy"] - worst["accuracy"],
        "interval": list(intervals.wilson_difference((best["hits"], worst["hits"]), (best["n"], worst["n"]))),
        "p_value": float(stats.chi2_contingency(table_2k).pvalue) if varied else 1.0,
        "groups": len(large),
        "smallest": {"group": group_name(smallest, factors), "n": smallest["n"]},
    }


def audit(predictions: Predictions) -> dict[str, Any]:
    """Returns the whole audit of one test set.

    Returns:
      task -> factors joined by " x " (every subset the set has) -> `rows` and `gap`. Empty for
      a set without any factor.
    """
    known = [factor for factor in FACTORS if factor in known_factors(predictions)]
    subsets = [subset for size in (1, 2, 3) for subset in itertools.combinations(known, size)]
    found: dict[str, Any] = {}
    for task in predictions.tasks():
        for subset in subsets:
            rows = table(predictions, task, subset)
            if rows:
                cut = {"rows": rows, "gap": gap(rows, subset)}
                found.setdefault(task, {})[" x ".join(subset)] = cut
    return found


def group_name(row: Mapping[str, Any], factors: Sequence[str]) -> str:
    """Returns "Black female 20-29" for a row of a table."""
    return " ".join(str(row[factor]) for factor in factors)


def _levels(factor: str, values: np.ndarray) -> list[str]:
    present = set(values.tolist()) - {""}
    order = list(TASKS[factor].classes) if factor in TASKS else []
    return [v for v in order if v in present] + sorted(present - set(order))


def _figures(predictions: Predictions, task: str, rows: np.ndarray) -> dict[str, Any]:
    labels, probabilities = predictions.labels[task][rows], predictions.probabilities[task][rows]
    counts = classification.confusion_counts(labels, probabilities.argmax(axis=1), TASKS[task].num_classes)
    n, hits = len(labels), int(np.trace(counts))
    return {
        "n": n,
        "hits": hits,
        "interval": list(intervals.wilson(hits, n)),
        "small": n < SMALL_CELL,
        **classification.shares(task, counts),
        **proper_figures(task, labels, probabilities),
    }
