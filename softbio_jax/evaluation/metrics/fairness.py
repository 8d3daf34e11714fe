"""Metrics by race x gender x age group, with the size of every group.

Race is an audit column that no head predicts. Gender and age group are the labels.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation.metrics import classification, intervals
from softbio_jax.evaluation.metrics.multiplicity import benjamini_hochberg
from softbio_jax.evaluation.metrics.per_task import probability_metrics
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS

FACTORS = ("race", "gender", "age")
# Below this many examples a Wilson interval of an accuracy near 0.9 is wider than 12 points.
SMALL_CELL = 100
LEAST_EXPECTED = 5  # Cochran's rule for the chi-square distribution
TABLES = 9999


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
    """Returns whether the K groups of the rows of `by_group` differ in accuracy, by how much, and where.

    All groups count, however small. The pair that is named is the one whose difference is the surest:
    of all K (K - 1) / 2 Newcombe intervals at level 1 - 0.05 / (K (K - 1) / 2), which hold together
    with probability 0.95, the one with the greatest lower bound. Where that bound is not above 0, no
    pair is named.

    Returns:
      `p_value` (chi-square test of equal accuracy; by 9,999 random tables with the same margins where an
      expected count is below 5), `effect` (Cramer's V without its bias, 0 to 1), `groups` (K),
      `smallest`, `largest`, `lowest` and `highest` (each group, n and accuracy), and `pair`: best, worst,
      gap and interval, or None; None with fewer than two groups.

    Source: Bonferroni's inequality; Newcombe, Statistics in Medicine 1998, method 10; Bergsma, Journal
    of the Korean Statistical Society 2013, for V.
    """
    if len(rows) < 2:
        return None

    def shown(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"group": group_name(row, factors), "n": row["n"], "accuracy": row["accuracy"]}

    hits, n = (np.array([row[key] for row in rows]) for key in ("hits", "n"))
    statistic = _chi_square(hits, n)
    by_accuracy = sorted(rows, key=lambda row: row["accuracy"])
    by_size = sorted(rows, key=lambda row: row["n"])
    pair = _surest_pair(hits, n)
    return {
        "p_value": _p_value(hits, n, statistic),
        "effect": _cramers_v(statistic, len(rows), int(n.sum())),
        "groups": len(rows),
        "smallest": shown(by_size[0]),
        "largest": shown(by_size[-1]),
        "lowest": shown(by_accuracy[0]),
        "highest": shown(by_accuracy[-1]),
        "pair": pair
        and {
            "best": shown(rows[pair[0]]),
            "worst": shown(rows[pair[1]]),
            "gap": rows[pair[0]]["accuracy"] - rows[pair[1]]["accuracy"],
            "interval": list(pair[2:]),
        },
    }


def adjusted(audits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the audits of several test sets with `p_adjusted` (Benjamini-Hochberg) in every gap.

    All cuts of all tasks and test sets are one family; see `multiplicity`.
    """
    found = copy.deepcopy(dict(audits))
    gaps = [
        cut["gap"]
        for audit in found.values()
        for cuts in audit.values()
        for cut in cuts.values()
        if cut["gap"] is not None
    ]
    for one, value in zip(gaps, benjamini_hochberg([one["p_value"] for one in gaps]), strict=True):
        one["p_adjusted"] = value
    return found


def _chi_square(hits: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Returns Pearson's statistic of K groups' hits (..., K) among n (K,), 0 where all or none are hits."""
    share = hits.sum(-1, keepdims=True) / n.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        found = ((hits - n * share) ** 2 / (n * share * (1 - share))).sum(-1)
    return np.nan_to_num(found)


def _p_value(hits: np.ndarray, n: np.ndarray, statistic: np.ndarray) -> float:
    from scipy import stats

    total, right = int(n.sum()), int(hits.sum())
    if right in (0, total):
        return 1.0
    if n.min() * min(right, total - right) / total >= LEAST_EXPECTED:
        return float(stats.chi2.sf(statistic, len(n) - 1))
    rng = np.random.default_rng(intervals.SEED)
    draws = rng.multivariate_hypergeometric(n, right, size=TABLES, method="marginals")
    as_extreme = np.sum(_chi_square(draws, n) >= statistic * (1 - 1e-9))
    return float((1 + as_extreme) / (1 + TABLES))


def _cramers_v(statistic: np.ndarray, groups: int, n: int) -> float:
    if n < 3:
        return 0.0
    excess = max(0.0, float(statistic) / n - (groups - 1) / (n - 1))
    columns, rows = 2 - 1 / (n - 1), groups - (groups - 1) ** 2 / (n - 1)
    least = min(columns, rows) - 1
    return float(min(1.0, np.sqrt(excess / least))) if least > 0 else 0.0


def _surest_pair(hits: np.ndarray, n: np.ndarray) -> tuple[int, int, float, float] | None:
    """Returns the best and the worst group of the surest difference and its interval, if it is above 0."""
    level = 1 - (1 - intervals.LEVEL) / (len(n) * (len(n) - 1) / 2)
    low, high = np.array([intervals.wilson(h, m, level=level) for h, m in zip(hits, n, strict=True)]).T
    share = hits / n
    difference = share[:, None] - share[None, :]
    below = difference - np.hypot((share - low)[:, None], (high - share)[None, :])
    above = difference + np.hypot((high - share)[:, None], (share - low)[None, :])
    best, worst = np.unravel_index(below.argmax(), below.shape)
    if below[best, worst] <= 0:
        return None
    return int(best), int(worst), float(below[best, worst]), float(above[best, worst])


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
