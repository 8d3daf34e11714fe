"""Splits of one set's rows into a training and a validation part."""

from __future__ import annotations

import numpy as np

from softbio_jax.errors import UserError


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
