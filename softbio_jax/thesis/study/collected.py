"""The collected results of a study, by cell, with intervals over seeds."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from softbio_jax.errors import UserError
from softbio_jax.thesis.study.results import SCHEMA

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
TASKS = ("emotion", "age", "gender")  # in the order of the thesis' tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over n seeds and half the width of its interval, NaN for a single seed."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}{self.interval}"

    @property
    def interval(self) -> str:
        """Half the interval as text, empty for a single seed."""
        return "" if self.n < 2 else f" ± {self.half:.1f}"

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half  # False where half is NaN


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """Returns the mean of one value per seed and Student's interval: mean -+ t s / sqrt(n).

    The quantile t has n - 1 degrees of freedom; `level` is the coverage.

    Source: Student, Biometrika 1908; the quantile is scipy's.
    """
    from scipy import stats

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(mean=mean, half=math.nan, n=n)
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))
    return Estimate(mean=mean, half=quantile * float(np.std(values, ddof=1)) / math.sqrt(n), n=n)


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Returns the mean of first - second, seed by seed, and its interval.

    Values of the same seed are pairs: it fixes the order of the images and the new weights.
    """
    return over_seeds([a - b for a, b in zip(first, second, strict=True)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collected:
    """The content of small_reproduction.json; its methods return percentages."""

    values: Mapping[str, Any]

    @functools.cached_property
    def _chosen(self) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for run in self.values["runs"]:
            if run["chosen"] and "failed" not in run:
                found.setdefault(run["cell"], []).append(run)
        return found

    def chosen(self, cell: str) -> list[Mapping[str, Any]]:
        """Returns a cell's runs at its chosen rate, one per seed; none while it is unfinished."""
        return self._chosen.get(cell, [])

    def all_runs(self, cell: str) -> list[Mapping[str, Any]]:
        """Returns every run of a cell, those of the search included."""
        return [run for run in self.values["runs"] if run["cell"] == cell]

    def has(self, *cells: str) -> bool:
        """Returns whether all the cells have chosen runs."""
        return all(self.chosen(cell) for cell in cells)

    def by_seed(self, cell: str, task: str, metric: Metric = "accuracy") -> list[float]:
        """Returns a task's average, or the overall one, of each seed.

        Metrics other than accuracy are averaged over the test sets with the task.
        """
        runs = self.chosen(cell)
        if metric == "accuracy":
            return [100 * run["averages"][task] for run in runs]
        tasks = self.values["cells"][cell]["tasks"] if task == "overall" else (task,)

        def average(sets: Mapping[str, Any], task: str) -> float:
            return float(np.mean([found[task][metric] for found in sets.values() if task in found]))

        return [100 * float(np.mean([average(run["datasets"], one) for one in tasks])) for run in runs]

    def over_seeds(self, cell: str, task: str, metric: Metric = "accuracy") -> Estimate:
        """Returns the mean over seeds with its interval."""
        return over_seeds(self.by_seed(cell, task, metric))

    def over_examples(self, cell: str, task: str) -> tuple[float, float]:
        """Returns the bounds of the interval over examples, each averaged over seeds."""
        bounds = [run["average_intervals"][task] for run in self.chosen(cell)]
        low, high = np.mean(bounds, axis=0)
        return 100 * float(low), 100 * float(high)

    def differences(self, first: str, second: str, task: str, metric: Metric = "accuracy") -> list[float]:
        """Returns first - second of each seed that both have."""
        one, two = (
            {run["seed"]: v for run, v in zip(self.chosen(c), self.by_seed(c, task, metric), strict=True)}
            for c in (first, second)
        )
        return [one[seed] - two[seed] for seed in one if seed in two]

    def difference(self, first: str, second: str, task: str, metric: Metric = "accuracy") -> Estimate:
        """Returns the mean of first - second, paired by the seeds that both have."""
        return over_seeds(self.differences(first, second, task, metric))

    def against_single_tasks(self, method: str) -> Estimate | None:
        """Returns the mean multi-task minus single-task difference, paired by seed, if all cells exist."""
        tasks = tuple(self.values["cells"].get(method, {"tasks": ()})["tasks"])
        singles = [f"{method}_{task}" for task in tasks]
        if not tasks or not self.has(method, *singles):
            return None
        several = np.mean([self.by_seed(method, task) for task in tasks], axis=0)
        single = [self.by_seed(f"{method}_{task}", task) for task in tasks]
        if len({len(column) for column in (several, *single)}) > 1:
            return None
        return paired(list(several), list(np.mean(single, axis=0)))


def read(path: pathlib.Path) -> Collected:
    """Reads collected results.

    Raises:
      UserError: no such file, or another content.
    """
    fix = "name WORKDIR/small_reproduction.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError("no collected results", where=str(path), found="no such file", fix=fix) from error
    except ValueError as error:
        fix = "start the study again, which collects them"
        raise UserError("damaged results", where=str(path), found=str(error), fix=fix) from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise UserError("other results", where=str(path), expected=f"schema {SCHEMA}", fix=fix)
    return Collected(values=values)
