"""Boxes in pictures: the square around a box, and cutting a box out."""

from __future__ import annotations

import numpy as np

from softbio_jax.data.decode import UndecodableImage

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside


def enclosing_square(box: Box) -> Box:
    """Finds the square around a box: its longer side, the same middle, in whole pixels.

    Args:
      box: (x0, y0, x1, y1) in pixels, cut to whole ones first.

    Returns:
      The square, which may reach over the border of the picture.

    Source: what the thesis' demonstrator shows its model.
    """
    x0, y0, x1, y1 = (int(side) for side in box)
    side = max(x1 - x0, y1 - y0)
    left = x0 + (x1 - x0) // 2 - side // 2
    top = y0 + (y1 - y0) // 2 - side // 2
    return left, top, left + side, top + side


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """Cuts a box out of a picture; what lies outside of the frame becomes black.

    Args:
      image: (H, W, 3) uint8.
      box: (x0, y0, x1, y1) in pixels, rounded to whole ones.

    Returns:
      (y1 - y0, x1 - x0, 3) uint8.

    Raises:
      UndecodableImage: the box is empty or misses the picture.
    """
    x0, y0, x1, y1 = (round(side) for side in box)
    height, width = image.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left >= right or top >= bottom:
        raise UndecodableImage(f"the box {x0},{y0},{x1},{y1} misses the picture")
    result = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    result[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return result
