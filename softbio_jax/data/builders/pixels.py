"""Images whose grey values are numbers in a table, as FER2013 has them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.prepare import storage

SIDE = 48  # pixels, in every known table


def problem(text: str) -> str:
    """Returns why a text is not a square image's 48 * 48 numbers with spaces between them, or ""."""
    values = text.split()
    if len(values) == SIDE * SIDE and all(value.isdigit() for value in values):
        return ""
    return f"{len(values)} pixels instead of {SIDE * SIDE}"


def image(text: str) -> Callable[[], bytes]:
    """Returns a function that makes the PNG of such numbers, from 0 to 255, line by line.

    It raises UndecodableImage for others.
    """
    return functools.partial(_png, text)


def _png(text: str) -> bytes:
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise decode.UndecodableImage("a pixel is not a number") from error
    if values.max() > 255:
        raise decode.UndecodableImage("a pixel above 255")
    grey = values.astype(np.uint8).reshape(SIDE, SIDE, 1)
    return storage.encode(np.repeat(grey, 3, axis=2), "png")
