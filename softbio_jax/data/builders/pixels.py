"""Images whose grey values are numbers in a table, as FER2013 has them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.prepare import storage
from softbio_jax.data.prepare.rows import Rejection, Row


SIDE = 48  # pixels, in every known table


def grey_row(
    row_id: str, pixels: str, labels: Mapping[str, int], *, where: str, columns: Mapping[str, str] | None = None
) -> Row | Rejection:
    """Returns the row of a square grey image, or its rejection if the number of pixels is another.

    Args:
      row_id: its id.
      pixels: 48 * 48 numbers of 0 to 255 with spaces between them, line by line.
      labels: task -> label.
      where: the table and its row.
      columns: values kept for audits.
    """
    values = pixels.split()
    if len(values) != SIDE * SIDE or not all(value.isdigit() for value in values):
        return Rejection(row_id, f"{len(values)} pixels instead of {SIDE * SIDE}", where=where)
    image = functools.partial(_png, pixels)
    return Row(id=row_id, image=image, labels=labels, columns=columns or {}, where=where)


def _png(pixels: str) -> bytes:
    try:
        values = np.array(pixels.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise decode.UndecodableImage("a pixel is not a number") from error
    if values.max() > 255:
        raise decode.UndecodableImage("a pixel above 255")
    grey = values.astype(np.uint8).reshape(SIDE, SIDE, 1)
    return storage.encode(np.repeat(grey, 3, axis=2), "png")
