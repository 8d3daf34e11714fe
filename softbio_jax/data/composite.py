"""The composite training set's counts, and the thesis' own beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from softbio_jax.data import thesis_tables, weighting
from softbio_jax.tasks import MISSING, TASKS

SEED = 2025  # the thesis'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of the composite beside the thesis'.

    Args:
      task, name: the class.
      rows: labelled rows here.
      thesis_rows: labelled rows in the thesis.
      drawn: expected share of the labelled draws under the thesis' sampler, 0 to 1.
      thesis_drawn: the share that the thesis prints for one epoch.
      z: (thesis_drawn - drawn) in standard errors of one epoch's draws.
    """

    task: str
    name: str
    rows: int
    thesis_rows: int
    drawn: float
    thesis_drawn: float
    z: float


def side_by_side(labels: Mapping[str, np.ndarray], *, seed: int = SEED) -> list[ClassRow]:
    """Compares label tables, and what the thesis' sampler makes of them, with the thesis' tables.

    Args:
      labels: task -> (N,), the training rows.
      seed: which emotion rows the sampler repeats.

    Returns:
      A row a class, of the thesis' tasks that have labels.
    """
    counts = weighting.repetitions(labels, seed=seed)
    probabilities = weighting.mean_rule(labels, counts)
    thesis_counts = thesis_tables.class_counts()
    rows = []
    for task, values in labels.items():
        known = values != MISSING
        if not known.any() or task not in thesis_counts:
            continue
        spec = TASKS[task]
        drawn = weighting.drawn_shares(values, probabilities, spec.num_classes)
        draws = counts.sum() * probabilities[known].sum()
        error = np.sqrt(np.maximum(drawn * (1 - drawn), 1e-12) / draws)
        printed = np.array(thesis_tables.DRAWN[task]) / 100
        for c, name in enumerate(spec.classes):
            rows.append(
                ClassRow(
                    task=task,
                    name=name,
                    rows=int((values == c).sum()),
                    thesis_rows=int(thesis_counts[task][c]),
                    drawn=float(drawn[c]),
                    thesis_drawn=float(printed[c]),
                    z=float((printed[c] - drawn[c]) / error[c]),
                )
            )
    return rows
