"""Decodes paths, bytes, arrays and PIL images to the pixels that a model sees in evaluation."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.faces import Face, crop, enclosing_square
from softbio_jax.errors import UserError

# A path, encoded bytes, (H, W, 3) uint8 RGB, or a PIL image; PIL is not imported before it is needed.
ImageLike = Any


def as_list(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Returns one image, a list of them or a batch (B, H, W, 3) as a list."""
    if isinstance(images, str | bytes | os.PathLike) or _is_pil(images):
        return [images]
    if hasattr(images, "ndim"):
        return list(images) if images.ndim == 4 else [images]
    return list(images)


def square(image: ImageLike, *, size: int, where: str = "") -> np.ndarray:
    """Returns an image as evaluation decodes it: (S, S, 3) uint8, squashed to a square.

    An encoded image gives the same bits as in evaluation, which decodes large JPEG files at a
    fraction of their resolution. Pixels are resized from the resolution that they have.

    Args:
      image: see `pixels`.
      size: the side S in pixels.
      where: the name, in errors, of an image without a path.

    Raises:
      UserError: not an image, with the reason.
    """
    with _reported(image, where):
        if (data := _encoded(image)) is not None:
            return decode.decode(data, size=size)
    return decode.squash(pixels(image, where=where), size)


def pixels(image: ImageLike, *, where: str = "") -> np.ndarray:
    """Returns an image in full resolution: (H, W, 3) uint8 RGB, rotated as its EXIF block says.

    The image is a path, encoded bytes, an array (H, W, 3) uint8 RGB, or a PIL image.

    Raises:
      UserError: not an image, with the reason.
    """
    with _reported(image, where):
        if (data := _encoded(image)) is not None:
            return decode.decode_full(data)
    if _is_pil(image):
        from PIL import ImageOps

        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return _checked(np.asarray(image), where)


def face_square(image: np.ndarray, face: Face, *, size: int, margin: float = 0.0) -> np.ndarray:
    """Returns the square around a detected face as (S, S, 3) uint8, black outside of the image.

    Args:
      image: (H, W, 3) uint8 RGB.
      size: the side S in pixels.
      margin: added on each side, as a fraction of the square's side. Crops of training sets often
        have one.

    Raises:
      UndecodableImage: the box lies outside of the image.
    """
    x0, y0, x1, y1 = enclosing_square(face.box)
    extra = round(margin * (x1 - x0))
    return decode.squash(crop(image, (x0 - extra, y0 - extra, x1 + extra, y1 + extra)), size)


def _encoded(image: ImageLike) -> bytes | None:
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image).read_bytes()
    return image if isinstance(image, bytes) else None


@contextlib.contextmanager
def _reported(image: ImageLike, where: str) -> Iterator[None]:
    """Turns errors of reading and decoding into a UserError."""
    try:
        yield
    except (OSError, decode.UndecodableImage) as error:
        reason = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
        raise UserError(
            "cannot read the image",
            where=where if isinstance(image, bytes) else str(image),
            found=reason,
            fix="correct the path, or copy or download the image again",
        ) from error


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    """Rejects arrays from which a prediction would have no meaning."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        fixes = {2: "repeat grey three times: np.repeat(x[..., None], 3, 2)", 3: "keep red, green and blue"}
        if array.ndim == 3 and array.shape[0] == 3:
            fixes[3] = "x.transpose(1, 2, 0)"
        expected, found, fix = "an array (H, W, 3), RGB", str(array.shape), fixes.get(array.ndim, "")
    elif array.dtype != np.uint8:
        expected, found = "uint8, 0 to 255", str(array.dtype)
        fix = "give the pixels before any scaling and normalisation"
    else:
        return array
    raise UserError("not an image", where=where, expected=expected, found=found, fix=fix)


def _is_pil(image: ImageLike) -> bool:
    pil = sys.modules.get("PIL.Image")  # imported by whoever made a PIL image
    return pil is not None and isinstance(image, pil.Image)
