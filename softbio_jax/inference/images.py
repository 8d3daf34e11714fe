"""Decodes paths, bytes, arrays and PIL images to the pixels that a model sees in evaluation."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from softbio_jax import files
from softbio_jax.data import decode, listing
from softbio_jax.data.faces import Face, crop, enclosing_square
from softbio_jax.errors import UserError

# A path, encoded bytes, a file open for reading, (H, W, 3) uint8 RGB, or a PIL image; PIL is not
# imported before it is needed.
ImageLike = Any
_BYTES = bytes | bytearray | memoryview


def as_list(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Returns one image, a list of them or a batch (B, H, W, 3) as a list."""
    if isinstance(images, str | _BYTES | os.PathLike) or hasattr(images, "read") or _is_pil(images):
        return [images]
    if hasattr(images, "ndim"):
        return list(images) if images.ndim == 4 else [images]
    if not isinstance(images, Iterable):
        raise _not_an_image("images", type(images).__name__)
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

    The image is a path, encoded bytes, a file open for reading (read from its start, if it can seek),
    an array (H, W, 3) uint8 RGB, or a PIL image (its current frame).

    Raises:
      UserError: not an image, with the reason.
    """
    with _reported(image, where):
        if (data := _encoded(image)) is not None:
            return decode.decode_full(data)
        if _is_pil(image):
            return decode.from_pil(image)
    if not hasattr(image, "__array__") and not isinstance(image, list | tuple):
        raise _not_an_image(where, type(image).__name__)
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
        return files.read_bytes(image)
    if isinstance(image, _BYTES):
        return bytes(image)
    if not hasattr(image, "read"):
        return None
    if not hasattr(image, "seekable") or not image.seekable():
        data = image.read()
    else:
        place = image.tell()
        image.seek(0)
        data = image.read()
        image.seek(place)
    if isinstance(data, str):
        raise OSError(errno.EINVAL, "a file open for text, not in mode 'rb'")
    return data


@contextlib.contextmanager
def _reported(image: ImageLike, where: str) -> Iterator[None]:
    """Turns errors of reading and decoding into a UserError."""
    try:
        yield
    except (OSError, ValueError) as error:  # UndecodableImage, and a file that is closed
        if isinstance(error, UserError):
            raise
        reason = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
        raise UserError(
            "cannot read the image",
            where=listing.shown(str(image)) if isinstance(image, str | os.PathLike) else where,
            found=reason,
            fix="correct the path, or copy or download the image again",
        ) from error


def _not_an_image(where: str, found: str) -> UserError:
    expected = "a path, encoded bytes, an open file, an array (H, W, 3) uint8 or a PIL image"
    fix = "check what made it: cv2.imread returns None for a file that it cannot read"
    return UserError("not an image", where=where, expected=expected, found=found, fix=fix)


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
