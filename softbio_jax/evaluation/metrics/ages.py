"""Ages beyond the nine classes: errors in years, and how often minors are called adults.

This measures a model; it is not a rule for anybody's access to anything. No prediction here decides about
a person.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from softbio_jax.data.partial import years as partial_years
from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics import classification, fairness, intervals
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import AGE, MISSING

EXPECTED_YEARS = "expected_years"  # the audit column that a head of years predicts
TOLERANCES = (3, 5, 10)  # years
THRESHOLDS = (13, 18)  # years
_FACTORS = ("race", "gender")


def errors(predictions: Predictions) -> dict[str, Any] | None:
    """Returns the errors of the expected age against true ages in years, None where a set has none.

      MAE = mean |e|,   CS(t) = share of |e| <= t,   e = expected age - true age

    Returns:
      `n`, `mae` (years) with Student's 95 % `interval`, and `cumulative_score`: tolerance in years ->
      `share` and Wilson's 95 % `interval`.

    Source: Geng, Zhou and Smith-Miles, IEEE TPAMI 2007, section 5, for both.
    """
    truth = _of_columns(partial_years.exact, predictions)
    known = ~np.isnan(truth)
    if AGE.name not in predictions.probabilities or not known.any():
        return None
    error = np.abs(predicted_years(predictions) - truth)[known]
    n = len(error)
    scores = {}
    for tolerance in TOLERANCES:
        hits = int((error <= tolerance).sum())
        scores[tolerance] = {"share": hits / n, "interval": list(intervals.wilson(hits, n))}
    return {"n": n, "mae": float(error.mean()), "interval": _student(error), "cumulative_score": scores}


def against_ranges(predictions: Predictions) -> dict[str, Any] | None:
    """Returns how expected ages lie to labels that are ranges, None where a set has no such label.

    A range [a, b) of completed years contains an expected age that rounds into it, half up; the others
    are outside by their distance to a, or to b - 1. Labels of one class or of one year are not counted.

    Returns:
      `n`; `inside`, the share of the contained, with Wilson's 95 % `interval`; and `outside`, the mean
      distance in years over all n, 0 inside.
    """
    if AGE.name not in predictions.probabilities:
        return None
    labels = predictions.labels.get(AGE.name, np.full(len(predictions), MISSING))
    first, end = label_years(predictions).T
    known = end - first < partial_years.UNKNOWN[1]
    ranges = known & (labels == MISSING) & (end - first > 1)
    if not ranges.any():
        return None
    age = np.floor(predicted_years(predictions) + 0.5)[ranges]
    outside = np.maximum(0, np.maximum(first[ranges] - age, age - (end[ranges] - 1)))
    n, hits = len(age), int((outside == 0).sum())
    bounds = list(intervals.wilson(hits, n))
    return {"n": n, "inside": hits / n, "interval": bounds, "outside": float(outside.mean())}


def minors_called_adults(predictions: Predictions) -> list[dict[str, Any]]:
    """Returns how many of the people below an age are predicted to have reached it, per group.

    A person is below the threshold where all ages that the label allows are: nine classes show that only
    up to the class that the threshold divides. A prediction has reached it where the expected age has.

    Returns:
      Rows of `threshold` (years), `group` ("all", or a value of race or gender), `n`, `wrong`, `rate`
      and Wilson's 95 % `interval`; groups without such a person are absent.
    """
    if AGE.name not in predictions.probabilities:
        return []
    end = label_years(predictions)[:, 1]
    predicted = predicted_years(predictions)
    rows = []
    for threshold in THRESHOLDS:
        below, called = end <= threshold, predicted >= threshold
        for group, members in groups(predictions):
            n = int((below & members).sum())
            if n:
                wrong = int((below & members & called).sum())
                bounds = list(intervals.wilson(wrong, n))
                row = {"threshold": threshold, "group": group, "n": n, "wrong": wrong}
                rows.append(row | {"rate": wrong / n, "interval": bounds})
    return rows


def predicted_years(predictions: Predictions) -> np.ndarray:
    """Returns the expected age of every example in years (N,): of the head of years, else of the classes."""
    classes = classification.expected_age(predictions.probabilities[AGE.name])
    if EXPECTED_YEARS not in predictions.audit:
        return classes
    given = predictions.audit[EXPECTED_YEARS]
    return np.array([float(word) if word else own for word, own in zip(given, classes, strict=True)])


def label_years(predictions: Predictions) -> np.ndarray:
    """Returns the years [first, end) that labels and audit columns allow, (N, 2)."""
    return _of_columns(partial_years.intervals, predictions)


def groups(predictions: Predictions) -> Iterator[tuple[str, np.ndarray]]:
    """Yields "all" and every race and gender, with the members (N,) bool."""
    yield "all", np.ones(len(predictions), bool)
    known: Mapping[str, np.ndarray] = fairness.known_factors(predictions)
    for factor in _FACTORS:
        for value in sorted(set(known.get(factor, np.zeros(0, str)).tolist()) - {""}):
            yield value, known[factor] == value


def _of_columns(read: Callable[[partial_years.Rows], np.ndarray], predictions: Predictions) -> np.ndarray:
    where = f"predictions {predictions.name!r}"
    rows = partial_years.Rows(predictions.labels, predictions.audit, predictions.ids, where)
    try:
        return read(rows)
    except UserError:  # a table's own column of such a name may hold anything
        return read(dataclasses.replace(rows, columns={}))


def _student(values: np.ndarray) -> list[float]:
    from scipy import stats

    n, mean = len(values), float(values.mean())
    if n < 2:
        return [mean, mean]
    half = float(stats.t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return [mean - half, mean + half]
