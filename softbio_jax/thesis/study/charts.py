"""The collected figures of a study, asked for by cell."""

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

LEVEL = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over n seeds and half the width of its interval, NaN where one seed says nothing."""

    mean: float
    half: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half  # False where half is NaN


def over_seeds(values: Sequence[float], *, level: float = LEVEL) -> Estimate:
    """Returns the mean and Student's interval of it: mean -+ t s / sqrt(n), n - 1 degrees.

    Args:
      values: one figure a seed, at least one.
      level: the coverage.

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

    A seed fixes the order of the pictures and the draws of what is new, so the two are pairs.
    """
    return over_seeds([a - b for a, b in zip(first, second, strict=True)])


Kind = Literal["accuracy", "balanced_accuracy", "macro_f1"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What scripts/small_reproduction.py collected; figures in percent."""

    values: Mapping[str, Any]

    @functools.cached_property
    def _chosen(self) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for run in self.values["runs"]:
            if run["chosen"] and "failed" not in run:
                found.setdefault(run["cell"], []).append(run)
        return found

    def runs(self, cell: str) -> list[Mapping[str, Any]]:
        """Returns a cell's runs at its chosen rate, one a seed; none while it is not done."""
        return self._chosen.get(cell, [])

    def all_runs(self, cell: str) -> list[Mapping[str, Any]]:
        """Returns every run of a cell, those of the search included."""
        return [run for run in self.values["runs"] if run["cell"] == cell]

    def has(self, *cells: str) -> bool:
        """Returns whether every one of the cells has chosen runs."""
        return all(self.runs(cell) for cell in cells)

    def tasks(self, cell: str) -> tuple[str, ...]:
        """Returns the tasks of a cell."""
        return tuple(self.values["cells"][cell]["tasks"])

    def by_seed(self, cell: str, task: str, kind: Kind = "accuracy") -> list[float]:
        """Returns a task's average, or the overall one, of each seed.

        Other figures than accuracy are averaged over the test sets with the task.
        """
        if kind == "accuracy":
            return [100 * run["averages"][task] for run in self.runs(cell)]
        tasks = self.tasks(cell) if task == "overall" else (task,)
        return [
            100
            * float(
                np.mean(
                    [
                        np.mean([found[one][kind] for found in run["datasets"].values() if one in found])
                        for one in tasks
                    ]
                )
            )
            for run in self.runs(cell)
        ]

    def over_seeds(self, cell: str, task: str, kind: Kind = "accuracy") -> Estimate:
        """Returns the mean over seeds with its interval."""
        return over_seeds(self.by_seed(cell, task, kind))

    def over_examples(self, cell: str, task: str) -> tuple[float, float]:
        """Returns the mean over seeds of the bounds of each run's interval over examples."""
        bounds = [run["average_intervals"][task] for run in self.runs(cell)]
        low, high = np.mean(bounds, axis=0)
        return 100 * float(low), 100 * float(high)

    def difference(self, first: str, second: str, task: str, kind: Kind = "accuracy") -> Estimate:
        """Returns first - second, paired by the seeds that both have."""
        seeds = [[run["seed"] for run in self.runs(cell)] for cell in (first, second)]
        both = [seed for seed in seeds[0] if seed in seeds[1]]
        columns = [
            [self.by_seed(cell, task, kind)[own.index(seed)] for seed in both]
            for cell, own in zip((first, second), seeds, strict=True)
        ]
        return paired(*columns)

    def against_single_tasks(self, method: str) -> Estimate | None:
        """Returns multi-task minus single-task, the mean over the tasks, paired by seed; None
        where a single-task cell is missing."""
        tasks = self.tasks(method) if method in self.values["cells"] else ()
        singles = [f"{method}_{task}" for task in tasks]
        if not tasks or not self.has(method, *singles):
            return None
        several = np.mean([self.by_seed(method, task) for task in tasks], axis=0)
        alone = [self.by_seed(f"{method}_{task}", task) for task in tasks]
        if len({len(column) for column in (several, *alone)}) > 1:
            return None
        return paired(list(several), list(np.mean(alone, axis=0)))


def read(path: pathlib.Path) -> Figures:
    """Reads collected figures.

    Raises:
      UserError: no such file, or another content.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            "no collected figures",
            where=str(path),
            found="no such file",
            fix="give WORKDIR/small_reproduction.json",
        ) from error
    except ValueError as error:
        raise UserError(
            "damaged figures",
            where=str(path),
            found=str(error),
            fix="start the study again; it collects them anew",
        ) from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise UserError(
            "other figures",
            where=str(path),
            expected=f"schema {SCHEMA}",
            fix="give WORKDIR/small_reproduction.json",
        ) from None
    return Figures(values=values)
