"""Whatever people hold a picture in, to the pixels that the model is shown in evaluation."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.faces import Face, crop, enclosing_square
from softbio_jax.errors import UserError

# A path, encoded bytes, (H, W, 3) uint8 RGB, or a PIL image; PIL stays unimported until needed.
Picture = Any


def as_list(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """Returns one picture, a list of them or a batch (B, H, W, 3) as a list."""
    if isinstance(pictures, str | bytes | os.PathLike) or _is_pil(pictures):
        return [pictures]
    if hasattr(pictures, "ndim"):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    return list(pictures)


def square(picture: Picture, *, size: int, where: str = "") -> np.ndarray:
    """Returns a picture as evaluation decodes it: (S, S, 3) uint8, squashed to a square.

    A file gives to the bit what the same bytes give there. Pixels are resized from the
    resolution they come in, where a large JPEG file is decoded at a fraction of it.

    Args:
      picture: see `pixels`.
      size: the side S in pixels.
      where: what errors call a picture without a path.

    Raises:
      UserError: no picture, with the reason.
    """
    data = _encoded(picture, where)
    if data is None:
        return decode.squash(pixels(picture, where=where), size)
    try:
        return decode.decode(data, size=size)
    except decode.UndecodableImage as error:
        raise _broken(picture, where, str(error)) from error


def pixels(picture: Picture, *, where: str = "") -> np.ndarray:
    """Returns a picture in full resolution: (H, W, 3) uint8 RGB, turned as its EXIF block says.

    Args:
      picture: a path, encoded bytes, an array (H, W, 3) uint8 RGB, or a PIL image.
      where: what errors call a picture without a path.

    Raises:
      UserError: no picture, with the reason.
    """
    data = _encoded(picture, where)
    if data is not None:
        try:
            return decode.decode_full(data)
        except decode.UndecodableImage as error:
            raise _broken(picture, where, str(error)) from error
    if _is_pil(picture):
        from PIL import ImageOps

        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    return _checked(np.asarray(picture), where)


def face_square(image: np.ndarray, face: Face, *, size: int, margin: float = 0.0) -> np.ndarray:
    """Returns the square around a face as (S, S, 3) uint8, black outside of the frame.

    Args:
      image: (H, W, 3) uint8 RGB.
      face: its box is what a detector found.
      size: the side S in pixels.
      margin: what is added on each side, as a share of the square's side. 0 is what the thesis'
        demonstrator shows its model; crops of training sets are often wider.

    Raises:
      UndecodableImage: the box misses the picture.
    """
    x0, y0, x1, y1 = enclosing_square(face.box)
    extra = round(margin * (x1 - x0))
    return decode.squash(crop(image, (x0 - extra, y0 - extra, x1 + extra, y1 + extra)), size)


def _encoded(picture: Picture, where: str) -> bytes | None:
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, str | os.PathLike):
        return None
    try:
        return pathlib.Path(picture).read_bytes()
    except OSError as error:
        raise _broken(picture, where, error.strerror or "unreadable") from error


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    """Refuses arrays that would be predicted from without meaning anything."""
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        fixes = {2: "repeat grey three times: np.repeat(x[..., None], 3, 2)"}
        if array.ndim == 3:
            channels_first = array.shape[0] == 3
            fixes[3] = "x.transpose(1, 2, 0)" if channels_first else "keep red, green and blue"
        raise UserError(
            "not a picture",
            where=where,
            expected="an array (H, W, 3), RGB",
            found=str(array.shape),
            fix=fixes.get(array.ndim, ""),
        )
    if array.dtype != np.uint8:
        raise UserError(
            "not a picture",
            where=where,
            expected="uint8, 0 to 255",
            found=str(array.dtype),
            fix="give the pixels before any scaling and normalisation",
        )
    return array


def _broken(picture: Picture, where: str, reason: str) -> UserError:
    name = where if isinstance(picture, bytes) else str(picture)
    return UserError(
        "cannot read the picture",
        where=name,
        found=reason,
        fix="correct the path, or copy or download the picture again",
    )


def _is_pil(picture: Picture) -> bool:
    if not type(picture).__module__.startswith("PIL."):
        return False
    from PIL import Image

    return isinstance(picture, Image.Image)
