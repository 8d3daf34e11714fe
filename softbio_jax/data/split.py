"""Splits of data sets' rows into training and validation parts, each set by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError


def split_each(
    datasets: Sequence[PreparedDataset], *, seed: int, val_fraction: float
) -> tuple[list[PreparedDataset], list[PreparedDataset]]:
    """Splits every data set by `train_val`.

    Args:
      datasets: the sets.
      seed: which split.
      val_fraction: the validation share of each; 0 leaves the sets whole and validates on nothing.

    Returns:
      (training parts, validation parts), in the order of the sets.

    Raises:
      UserError: see `train_val`.

    Source: the thesis splits each set by itself; which rows it drew is not known.
    """
    if not val_fraction:
        return list(datasets), []
    rows = [train_val(len(d), seed=seed, val_fraction=val_fraction) for d in datasets]
    train = [dataset.take(kept) for dataset, (kept, _) in zip(datasets, rows, strict=True)]
    val = [dataset.take(held) for dataset, (_, held) in zip(datasets, rows, strict=True)]
    return train, val


def train_val(size: int, *, seed: int, val_fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Draws which of N rows are for validation: round(val_fraction N) of them.

    Args:
      size: the number of rows N.
      seed: which split.
      val_fraction: the validation share, between 0 and 1.

    Returns:
      (rows of the training part, rows of the validation part), int64, each ascending.

    Raises:
      UserError: a share that leaves one of the parts empty.
    """
    num_val = round(val_fraction * size)
    if not 0 < num_val < size:
        raise UserError(
            "a split without rows",
            where="data.val_fraction",
            expected="at least one row in each part",
            found=f"{val_fraction} of {size} rows",
            fix="set a share between 0 and 1 that is a row at least, or 0 for no validation",
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    return np.sort(order[num_val:]), np.sort(order[:num_val])
