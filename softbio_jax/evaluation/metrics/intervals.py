"""Averages over test sets, and confidence intervals of metrics and averages.

Intervals are Wilson's for shares, score intervals at fixed class sizes for averages over classes, and
bootstrap percentiles for means of losses.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation.metrics import calibration
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS

LEVEL = 0.95
REPLICATES = 1000
SEED = 2025
LEAST_EXAMPLES = 5  # below it Wilson's interval of a recall is wider than 43 points and says nothing
BISECTIONS = 40  # of an interval of 30 in the logarithm of the step, to 3e-11
ROUNDING = 1e-12  # of a metric between 0 and 1
LEAST_SHARE = 1e-300  # in place of a zero denominator whose numerator is zero
# Row shares (..., C, C), class sizes and weights (..., C) -> a weighted mean over classes and its gradient.
ClassMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Excluded = Mapping[str, Collection[str]]  # test set -> tasks in no average


def excluded_tasks(*rules: Excluded) -> dict[str, list[str]]:
    """Returns the union of several rules.

    >>> excluded_tasks({"vggface2": ("age",)}, {"vggface2": ("gender",), "rafdb": ("gender",)})
    {'vggface2': ['age', 'gender'], 'rafdb': ['gender']}
    """
    names = dict.fromkeys(name for rule in rules for name in rule)
    return {
        name: list(dict.fromkeys(task for rule in rules for task in rule.get(name, ()))) for name in names
    }


def excluded_by(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns what an evaluation (the content of metrics.json) excluded from its averages."""
    averaged = summary["averaged_sets"]
    found = {
        name: [task for task in tasks if name not in averaged.get(task, ())]
        for name, tasks in summary["datasets"].items()
    }
    return {name: tasks for name, tasks in found.items() if tasks}


def averaged_sets(accuracies: Mapping[str, Mapping[str, float]], excluded: Excluded) -> dict[str, list[str]]:
    """Returns task -> the test sets in its average; see `task_averages` for the arguments."""
    found: dict[str, list[str]] = {}
    for task in TASKS:
        for name, tasks in accuracies.items():
            if task in tasks and task not in excluded.get(name, ()):
                found.setdefault(task, []).append(name)
    return found


def task_averages(accuracies: Mapping[str, Mapping[str, float]], excluded: Excluded) -> dict[str, float]:
    """Averages accuracies over test sets, then over tasks, each without weights.

    A_t = mean over the test sets with task t; overall = mean of the A_t. Test sets count equally,
    however many examples they have.

    Args:
      accuracies: test set -> task -> accuracy (any unit).
      excluded: test set -> tasks that do not count there.

    Returns:
      Task -> average for every task with a test set, and `overall`; empty if there is none.
    """
    averages = {
        task: sum(accuracies[name][task] for name in names) / len(names)
        for task, names in averaged_sets(accuracies, excluded).items()
    }
    if averages:
        averages["overall"] = sum(averages.values()) / len(averages)
    return averages


def wilson(hits: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the Wilson score interval of a share hits / n, n >= 1, within 0 and 1.

    Source: Wilson, JASA 1927; computed by scipy.
    """
    from scipy import stats

    found = stats.binomtest(int(hits), int(n)).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def of_class_averages(counts: np.ndarray) -> dict[str, tuple[float, float]]:
    """Returns the intervals of balanced accuracy and macro-F1, for counts (C, C) of at least one example.

    See `score`; the classes that are averaged are those of the counts.
    """
    return {
        name: score(counts, metric, (classes / classes.sum())[None])[0]
        for name, (metric, classes) in _averaged_classes(counts).items()
    }


def class_gradients(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the derivatives (C, C) of balanced accuracy and macro-F1 by the row shares of counts (C, C)."""
    n = counts.sum(axis=1)
    shares = counts / np.maximum(n, 1)[:, None]
    return {
        name: metric(shares, n, (classes / classes.sum())[None])[1][0]
        for name, (metric, classes) in _averaged_classes(counts).items()
    }


def _averaged_classes(counts: np.ndarray) -> dict[str, tuple[ClassMetric, np.ndarray]]:
    """Returns the metric of one class, and which classes (C,) count, of each average over classes."""
    n, predicted = counts.sum(axis=1), counts.sum(axis=0)
    return {"balanced_accuracy": (mean_recall, n > 0), "macro_f1": (mean_f1, (n > 0) | (predicted > 0))}


def of_class_f1(counts: np.ndarray) -> list[tuple[float, float]]:
    """Returns the interval of each class' F1, for counts (C, C); see `score`."""
    return score(counts, mean_f1, np.eye(len(counts)))


def score(
    counts: np.ndarray, metric: ClassMetric, weights: np.ndarray, *, level: float = LEVEL
) -> list[tuple[float, float]]:
    """Returns score intervals of M weighted averages over classes, at fixed class sizes.

    With the sizes n_k of the true classes fixed, the rows of the counts are independent multinomials
    with probabilities P, and the estimand is the metric f(P) at these sizes: a rare class stays in
    the average. The bounds are the f(P(t)) with (f(counts / n) - f(P(t)))^2 = z^2 V(P(t)), where V is the
    delta-method variance sum_k (sum_j P_kj g_kj^2 - (sum_j P_kj g_kj)^2) / n_k with the gradient
    g = df / dP, and P(t) has the recalls that are most likely given their average,
    h_k / p_k - (n_k - h_k) / (1 - p_k) = t w_k, with misses distributed as observed. The variance is that
    at the bound, so it does not vanish where all examples of a class are right. For one class
    the interval of the recall is Wilson's.

    Args:
      counts: (C, C), or (M, C, C) for as many tables; rows are the true class.
      metric: `mean_recall` or `mean_f1`.
      weights: (M, C) of the classes in each average.

    Source: Martin Andres, Alvarez Hernandez and Herranz Tejedor, Statistical Methods in Medical
    Research 2011, for linear combinations of proportions; macro-F1 follows the same path with its own
    gradient.
    """
    from scipy import stats

    z = stats.norm.ppf((1 + level) / 2)
    size = counts.shape[-1]
    own, n = np.eye(size, dtype=bool), counts.sum(axis=-1)
    right, known = np.diagonal(counts, axis1=-2, axis2=-1), np.maximum(n, 1)
    # Half a miss spread over the other classes: a row without misses has a distribution as well.
    misses = np.where(own, 0, counts + 0.5 / max(size - 1, 1))
    misses = misses / np.maximum(misses.sum(axis=-1, keepdims=True), LEAST_SHARE)

    def shares(recall: np.ndarray) -> np.ndarray:
        return np.where(own, recall[..., None], (1 - recall)[..., None] * misses)

    estimate, _ = metric(counts / known[..., None], n, weights)
    _, gradient = metric(shares(np.broadcast_to(right / known, weights.shape)), n, weights)
    slope = np.diagonal(gradient, axis1=-2, axis2=-1) - (gradient * misses).sum(axis=-1)
    slope = slope / np.maximum(slope.max(axis=1, keepdims=True), LEAST_SHARE)

    def bound(log_step: np.ndarray, sign: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the metric at a step along the path, and whether that is outside the interval."""
        recall = _constrained(right, known, sign * np.exp(log_step)[:, None] * slope)
        table = shares(np.where(n > 0, recall, 0))
        value, gradient = metric(table, n, weights)
        spread = (table * gradient**2).sum(-1) - (table * gradient).sum(-1) ** 2
        variance = np.maximum((spread * (n > 0) / known).sum(-1), 0)
        return value, np.abs(estimate - value) > z * np.sqrt(variance) + ROUNDING

    ends = []
    for sign in (1, -1):
        inside, outside = np.full(len(weights), -12.0), np.full(len(weights), 18.0)
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            beyond = bound(middle, sign)[1]
            inside, outside = np.where(beyond, inside, middle), np.where(beyond, middle, outside)
        ends.append(bound(outside, sign)[0])
    # The bisection ends close to, not exactly at, an estimate of 0 or 1.
    low, high = np.minimum(ends[0], estimate), np.maximum(ends[1], estimate)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def mean_recall(shares: np.ndarray, n: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sum_k w_k P_kk and its gradient, see `ClassMetric`."""
    recall = np.diagonal(shares, axis1=-2, axis2=-1)
    return (weights * recall).sum(-1), weights[..., None] * np.eye(n.shape[-1])


def mean_f1(shares: np.ndarray, n: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sum_c w_c F1_c, F1_c = 2 n_c P_cc / (n_c + sum_k n_k P_kc), and its gradient."""
    total = n + (n[..., None] * shares).sum(-2)  # true and predicted
    f1 = np.where(
        total > 0, 2 * n * np.diagonal(shares, axis1=-2, axis2=-1) / np.maximum(total, LEAST_SHARE), 0
    )
    scaled = weights / np.maximum(total, LEAST_SHARE)
    hit = np.eye(n.shape[-1]) * (2 * n * scaled)[..., None, :]
    return (weights * f1).sum(-1), hit - n[..., None] * (scaled * f1)[..., None, :]


def _constrained(hits: np.ndarray, n: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Returns the p with hits / p - (n - hits) / (1 - p) = step, the one that is hits / n at step 0."""
    root = np.sqrt(np.maximum((n + step) ** 2 - 4 * step * hits, 0))
    with np.errstate(invalid="ignore"):
        below, above = 2 * hits / (n + step + root), 1 - 2 * (n - hits) / (n - step + root)
    return np.where(step >= 0, below, above)


def percentiles(values: np.ndarray, *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the percentile interval of bootstrap replicates (R,)."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_weights(n: int, *, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yields the multiplicities (n,) of n examples in each of `REPLICATES` bootstrap draws.

    A weighted sum over examples is several times faster than indexing the drawn ones.
    """
    rng = np.random.default_rng(seed)
    for _ in range(REPLICATES):
        yield np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)


def of_means(values: np.ndarray) -> list[tuple[float, float]]:
    """Returns the bootstrap interval of the mean of each of the K columns of `values` (n, K)."""
    n = len(values)
    means = np.stack([weights @ values / n for weights in resampled_weights(n)])  # (R, K)
    return [percentiles(column) for column in means.T]


def of_ece(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Returns the bootstrap interval of the expected calibration error.

    Replicates exceed the estimate when calibration is good, since ECE cannot be negative.
    """
    confidence, correct = calibration.top(labels, probabilities)
    bins = calibration.bin_of(confidence, calibration.NUM_BINS)
    gap, n = correct - confidence, len(labels)
    sums = np.stack([np.bincount(bins, weights=w * gap) for w in resampled_weights(n)])
    return percentiles(np.abs(sums).sum(axis=1) / n)


def of_averages(
    sets: Sequence[Predictions], excluded: Mapping[str, Collection[str]]
) -> dict[str, tuple[float, float]]:
    """Returns the interval of each task's average accuracy and of the overall one.

    Keys and `excluded` are those of `task_averages`; see `of_mean` for the interval.
    """
    right = {(item.name, task): hits(item, task) for item in sets for task in item.tasks()}
    accuracies: dict[str, dict[str, float]] = {}
    for (name, task), values in right.items():
        accuracies.setdefault(name, {})[task] = float(np.nanmean(values))
    averaged = averaged_sets(accuracies, excluded)
    weights = {task: {(name, task): 1 / len(names) for name in names} for task, names in averaged.items()}
    if weights:
        rows = list(weights.values())
        weights["overall"] = {pair: weight / len(rows) for row in rows for pair, weight in row.items()}
    return {
        key: of_mean([right[pair] for pair in row], list(row.values()), [name for name, _ in row])
        for key, row in weights.items()
    }


def hits(predictions: Predictions, task: str) -> np.ndarray:
    """Returns (N,) float64: 1 where the predicted class is the label, 0 where it is not, NaN without one."""
    labels = predictions.labels[task]
    return np.where(labels == MISSING, np.nan, predictions.probabilities[task].argmax(axis=1) == labels)


def of_mean(
    right: Sequence[np.ndarray], weights: Sequence[float], test_sets: Sequence[str]
) -> tuple[float, float]:
    """Returns the interval of a weighted mean of K accuracies, some of them of the same examples.

    theta -+ sqrt(sum_ij w_i w_j r_ij d_i d_j), where d is the distance from an accuracy to its Wilson
    bound and r_ij the correlation of two accuracies: 0 between test sets; in one test set that of
    being right, times the share of examples with both labels. For one accuracy it is Wilson's interval.

    Args:
      right: the `hits` of each accuracy.
      weights: of each accuracy, with sum 1.
      test_sets: the name of each accuracy's test set, whose examples are in the same order.

    Source: Zou and Donner, Statistics in Medicine 2008 (method of variance estimates recovery), with the
    covariance of dependent estimates.
    """
    pairs = range(len(right))
    related = np.array(
        [
            [_correlation(right[i], right[j]) if test_sets[i] == test_sets[j] else 0.0 for j in pairs]
            for i in pairs
        ]
    )
    estimate, distances = 0.0, []
    for values, weight in zip(right, weights, strict=True):
        known = values[~np.isnan(values)]
        low, high = wilson(int(known.sum()), len(known))
        estimate += weight * known.mean()
        distances.append([weight * (known.mean() - low), weight * (high - known.mean())])
    below, above = (np.sqrt(max(d @ related @ d, 0)) for d in np.array(distances).T)
    return float(estimate - below), float(estimate + above)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the correlation of two accuracies whose examples are right (1), wrong (0) or unlabelled."""
    if first is second:
        return 1.0
    both = ~(np.isnan(first) | np.isnan(second))
    spread = np.nanstd(first) * np.nanstd(second)
    if not spread or not both.any():
        return 0.0
    shared = np.mean((first[both] - np.nanmean(first)) * (second[both] - np.nanmean(second))) / spread
    share = both.sum() / np.sqrt((~np.isnan(first)).sum() * (~np.isnan(second)).sum())
    return float(np.clip(shared * share, -1, 1))
