"""Averages over test sets, and confidence intervals of metrics and averages.

Intervals are Wilson's for shares and bootstrap percentiles for the rest.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from softbio_jax.evaluation.metrics import calibration, classification
from softbio_jax.evaluation.predictions import Predictions
from softbio_jax.tasks import MISSING, TASKS

LEVEL = 0.95
REPLICATES = 1000
SEED = 2025
COUNT_METRICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "balanced_accuracy": classification.balanced_accuracy,
    "macro_f1": classification.macro_f1,
}
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


def wilson_difference(
    hits: tuple[int, int], n: tuple[int, int], *, level: float = LEVEL
) -> tuple[float, float]:
    """Returns an interval of p_1 - p_2 for two independent groups.

    d -+ sqrt((p_1 - l_1)^2 + (u_2 - p_2)^2), with each group's Wilson bounds l and u.

    Source: Newcombe, Statistics in Medicine 1998, method 10.
    """
    (low_1, high_1), (low_2, high_2) = (wilson(h, m, level=level) for h, m in zip(hits, n, strict=True))
    p_1, p_2 = hits[0] / n[0], hits[1] / n[1]
    below, above = np.hypot(p_1 - low_1, high_2 - p_2), np.hypot(high_1 - p_1, p_2 - low_2)
    return p_1 - p_2 - float(below), p_1 - p_2 + float(above)


def resampled_counts(counts: np.ndarray, *, replicates: int = REPLICATES, seed: int = SEED) -> np.ndarray:
    """Draws R bootstrap replicates (R, *shape) int64 of a table of counts of any shape.

    Drawing n examples with replacement is a multinomial draw over the cells, so the cost does not
    depend on the number of examples.
    """
    counts = np.asarray(counts)
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=replicates)
    return draws.reshape(replicates, *counts.shape)


def percentiles(values: np.ndarray, *, level: float = LEVEL) -> tuple[float, float]:
    """Returns the percentile interval of bootstrap replicates (R,)."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def of_counts(
    counts: np.ndarray, metrics: Mapping[str, Callable[[np.ndarray], np.ndarray]]
) -> dict[str, tuple[float, float]]:
    """Returns the bootstrap interval of each metric, (R, C, C) -> (R,), of a confusion matrix (C, C)."""
    draws = resampled_counts(counts)
    return {name: percentiles(metric(draws)) for name, metric in metrics.items()}


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
    """Returns the bootstrap interval of each task's average accuracy and of the overall one.

    Each test set is resampled with all its tasks at once, by a multinomial draw over the patterns
    of right, wrong and unlabelled, so tasks evaluated on the same faces stay paired. A replicate
    without a label of a task is omitted from its interval. Keys and `excluded` are those of
    `averages.task_averages`.
    """
    drawn: dict[str, dict[str, np.ndarray]] = {}  # test set -> task -> (R,) accuracies
    for seed, item in enumerate(sets, start=SEED):
        tasks, labels = item.tasks(), item.labels
        right = {task: item.probabilities[task].argmax(axis=1) == labels[task] for task in tasks}
        states = np.stack([np.where(labels[task] == MISSING, 2, right[task]) for task in tasks])
        patterns, counts = np.unique(states, axis=1, return_counts=True)  # (T, P), (P,)
        draws = resampled_counts(counts, seed=seed)
        with np.errstate(invalid="ignore"):
            drawn[item.name] = {
                task: draws @ (row == 1) / (draws @ (row != 2))
                for task, row in zip(tasks, patterns, strict=True)
            }
    # The rule only adds and divides, so it averages all replicates at once.
    replicates: dict[str, Any] = task_averages(cast(Any, drawn), excluded)
    return {key: percentiles(values) for key, values in replicates.items()}
