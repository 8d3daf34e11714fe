"""Votes of several annotators as distributions over classes."""

from __future__ import annotations

import math
import re

import numpy as np

from softbio_jax.data.partial.years import Rows
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

_MANY = 20  # rows, before their votes are taken to be in another order


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
        words = re.split(r"[\s,]+", text.strip("[]() "))
        counts = np.array([float(word.removesuffix("%")) for word in words])
    except ValueError:
        counts = np.zeros(0)
    if counts.shape != (len(classes),) or not all(map(math.isfinite, counts)):
        example = " ".join(map(str, range(len(classes))))
        fix = f"write one number per class with spaces between, such as {example}"
        raise UserError("not votes", where=where, expected=expected, found=found, fix=fix)
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
      UserError: a cell that has no votes; names the first such row. Votes that are in another order.
    """
    found, labels = one_hot(rows, task), rows.of(task)
    voted = np.zeros(len(rows), bool)
    for word, where, which in rows.words(column(task)):
        if word:
            found[which], voted[which] = shares(word, task, where=where), True
    chosen = np.flatnonzero(voted & (labels != MISSING))
    agreed = found[chosen, labels[chosen]] == found[chosen].max(axis=1)
    require_order(int(agreed.sum()), len(chosen), task, where=f"{rows.where} {column(task)}")
    return found


def require_order(agreed: int, total: int, task: str, *, where: str) -> None:
    """Raises UserError if the labels of most rows have fewer votes than another class.

    Args:
      agreed: number of rows whose label has the most votes.
      total: number of rows with a label and votes; fewer than 20 tell nothing.
      task: the task.
      where: the column.
    """
    if total >= _MANY and 2 * agreed < total:
        raise UserError(
            "votes in another order",
            where=where,
            expected=f"most votes for the label, in the order {', '.join(TASKS[task].classes)}",
            found=f"that in {agreed:,} of {total:,} rows",
            fix="write the numbers in this order",
        )


def one_hot(rows: Rows, task: str) -> np.ndarray:
    """Returns 1 at the label of every example, (N, C) float64; rows of zeros have no label."""
    return (rows.of(task)[:, None] == np.arange(TASKS[task].num_classes)).astype(np.float64)
