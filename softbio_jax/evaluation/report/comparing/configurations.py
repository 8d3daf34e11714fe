"""Runs grouped by configuration: those that differ only in the seed are one model, trained repeatedly."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.evaluation.metrics import comparison, intervals
from softbio_jax.evaluation.report import cost
from softbio_jax.evaluation.report.runs import RunResults

# Settings that do not make another model: the seed, and where files are.
IGNORED = ("seed", "data.root", "train.compile_cache", "train.cache_dir")
_WEIGHTS = "model.pretrained"
_SEED_ENDING = re.compile(r"[-_. /]*(?:seed|s)?[-_. ]*\d*$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """Runs of one configuration, one per seed."""

    name: str
    runs: tuple[RunResults, ...]

    @property
    def first(self) -> RunResults:
        return self.runs[0]

    def pairs(self) -> list[tuple[str, str]]:
        """The (test set, task) pairs that all its runs were evaluated on."""
        return [
            (test_set, task)
            for test_set, task, _ in self.first.metrics()
            if all(run.find(test_set, task) for run in self.runs)
        ]

    def accuracy(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Returns the mean accuracy over pairs of a test set and a task, and over seeds.

        Returns:
          `accuracy`, `interval` over test examples at the trained seeds (see `intervals.of_mean`),
          `spread` (the standard deviation over seeds, None for one) and `n` (labels per seed).
        """
        right, names = [], []
        for run in self.runs:
            for test_set, task in pairs:
                right.append(aligned_hits(run, self.first, test_set, task))
                names.append(test_set)
        by_seed = np.array([np.nanmean(values) for values in right]).reshape(len(self.runs), -1).mean(1)
        return {
            "accuracy": float(by_seed.mean()),
            "interval": intervals.of_mean(right, [1 / len(right)] * len(right), names),
            "spread": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
            "n": int(sum((~np.isnan(values)).sum() for values in right) / len(self.runs)),
        }


def grouped(runs: Sequence[RunResults]) -> list[Configuration]:
    """Returns the configurations of runs, in the order of their first runs."""
    found: dict[str, list[RunResults]] = {}
    for run in runs:
        key = json.dumps(settings(run), sort_keys=True) if run.config else run.name
        found.setdefault(key, []).append(run)
    names = [_name([run.name for run in members]) for members in found.values()]
    return [
        Configuration(name=name if names.count(name) == 1 else members[0].name, runs=tuple(members))
        for name, members in zip(names, found.values(), strict=True)
    ]


def settings(run: RunResults) -> dict[str, str]:
    """Returns a run's settings as dotted keys, without `IGNORED`.

    Of the path of pretrained weights the file and its folder remain, so that seeds of several machines are
    one model, while random weights and those of another file are another. A hub id remains whole.
    """
    found = {key: value for key, value in cost.flat(run.config).items() if key not in IGNORED}
    if _WEIGHTS in found:
        found[_WEIGHTS] = "/".join(found[_WEIGHTS].replace(os.sep, "/").split("/")[-2:])
    return found


def differing(configurations: Sequence[Configuration]) -> dict[str, list[str]]:
    """Returns setting -> its value in each configuration, for the settings that are not the same in all."""
    found = [settings(item.first) for item in configurations]
    keys = dict.fromkeys(key for values in found for key in values)
    return {
        key: [values.get(key, "") for values in found]
        for key in keys
        if len({values.get(key) for values in found}) > 1
    }


def aligned_hits(run: RunResults, reference: RunResults, test_set: str, task: str) -> np.ndarray:
    """Returns the `intervals.hits` of a run in the order of another's examples."""
    predictions = run.predictions[test_set]
    if run is not reference:
        predictions = comparison.in_order_of(predictions, reference.predictions[test_set])
    return intervals.hits(predictions, task)


def difference(one: Configuration, other: Configuration, test_set: str, task: str) -> dict[str, Any]:
    """Returns the paired difference of two configurations' accuracies, averaged over their seeds.

    Returns:
      What `comparison.changed_mean` returns, and `n`.

    Raises:
      UserError: other examples or labels.
    """
    base = one.first
    mean: list[np.ndarray] = []
    for item in (one, other):
        for run in item.runs:
            comparison.check_labels(run.predictions[test_set], base.predictions[test_set], task)
        mean.append(np.mean([aligned_hits(run, base, test_set, task) for run in item.runs], axis=0))
    known = ~np.isnan(mean[0])
    return {"n": int(known.sum()), **comparison.changed_mean(mean[0][known], mean[1][known])}


def costs(configuration: Configuration) -> Mapping[str, str]:
    """Returns the measurements of the first run, which stands for all seeds."""
    return cost.measured(configuration.first)


def _name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    same = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
    common = names[0][: same.index(False) if False in same else len(same)]
    return _SEED_ENDING.sub("", common) or names[0]
