"""The reference image: a drawn face in a JPEG that shows every common mistake of preprocessing."""

from __future__ import annotations

import io

import numpy as np

from softbio_jax.data.drawing import draw

ORIENTATION = 6  # stored turned to the left; a viewer turns it to the right
_EXIF_ORIENTATION = 274


def reference_image(size: int) -> np.ndarray:
    """Returns the upright image (9 S / 4, 7 S / 4, 3) uint8 RGB of a model's side S.

    It is not square and not symmetric, of saturated colours, and has stripes of single pixels, which
    only a filter as wide as the reduction averages.
    """
    height, width = 9 * size // 4, 7 * size // 4
    side = max(height, 16)
    image = draw("synthetic_fairface", "test", 3, size=side, seed=5).image.copy()
    left = (side - width) // 2
    image = image[:, left : left + width]
    rows, columns = np.mgrid[:height, :width]
    stripes = np.where((rows + 2 * columns) % 4 < 2, 235, 20).astype(np.uint8)
    band = height // 6
    image[-band:] = stripes[-band:, :, None]
    image[:band, : width // 3] = (225, 30, 20)
    image[:band, -width // 4 :] = np.where(
        columns[:band, -width // 4 :, None] % 2, (250, 210, 30), (30, 60, 20)
    )
    image[height // 3 : height // 2, : width // 8] = (20, 60, 220)
    return image


def reference_jpeg(size: int) -> bytes:
    """Returns the image as a JPEG whose EXIF block says that it is to be rotated."""
    from PIL import Image

    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = ORIENTATION
    stored = io.BytesIO()
    turned = Image.fromarray(np.rot90(reference_image(size)))
    turned.save(stored, "JPEG", quality=95, subsampling=0, exif=exif)
    return stored.getvalue()
