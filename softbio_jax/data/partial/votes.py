"""Votes of several annotators as distributions over classes."""

from __future__ import annotations

import math

import numpy as np

from softbio_jax.data.partial.years import Rows
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS


def column(task: str) -> str:
    """Returns the audit column that holds a task's votes, one number per class with spaces between."""
    return f"votes_{task}"


def shares(text: str, task: str, *, where: str) -> np.ndarray:
    """Returns the share of each class in the votes of one example, (C,) float64.

    Raises:
      UserError: not one number per class, a negative one, or none above zero, in the row `where`.
    """
    classes = TASKS[task].classes
    expected, found = f"{len(classes)} numbers of votes for {', '.join(classes)}", repr(text)
    try:
        counts = np.array([float(word) for word in text.split()])
    except ValueError:
        counts = np.zeros(0)
    if counts.shape != (len(classes),) or not all(map(math.isfinite, counts)):
        raise UserError("not votes", where=where, expected=expected, found=found, fix="correct the cell")
    if counts.min() < 0:
        fix = "correct the cell; a class without votes has 0"
        raise UserError("negative votes", where=where, expected=expected, found=found, fix=fix)
    if not counts.sum() > 0:
        fix = "empty the cell, which masks the label"
        raise UserError("votes that are all zero", where=where, expected=expected, found=found, fix=fix)
    return counts / counts.sum()


def distributions(rows: Rows, task: str) -> np.ndarray:
    """Returns the distribution of every example, (N, C) float64; rows of zeros have no label.

    A label without votes is a distribution on one class.

    Raises:
      UserError: a cell that has no votes; names the first such row.
    """
    found = one_hot(rows, task)
    for word, where, which in rows.words(column(task)):
        if word:
            found[which] = shares(word, task, where=where)
    return found


def one_hot(rows: Rows, task: str) -> np.ndarray:
    """Returns 1 at the label of every example, (N, C) float64; rows of zeros have no label."""
    return (rows.of(task)[:, None] == np.arange(TASKS[task].num_classes)).astype(np.float64)
