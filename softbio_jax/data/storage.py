"""How pictures are stored in records: the source's own bytes, or a square of the model's size."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.faces import FaceFinder
from softbio_jax.data.rows import Row
from softbio_jax.errors import UserError

Encoding = Literal["source", "jpeg", "png", "raw"]
JPEG_QUALITY = 95  # of crops, and of pre-resized pictures unless told otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """Turns a row's picture into the bytes to store, and checks on the way that it decodes.

    Args:
      image_size: side S in pixels to resize to, the aspect ratio not kept; None keeps the size.
      encoding: "source" keeps the bytes (JPEG where a crop or a resize forbids that), "jpeg",
        "png" (lossless), or "raw" (uncompressed, as PPM: the fastest to read, S x S x 3 bytes).
      quality: of JPEG, 1 to 100.
      face_finder: cuts the face out of every picture that its row does not give a box for.
    """

    image_size: int | None = None
    encoding: Encoding = "source"
    quality: int = JPEG_QUALITY
    face_finder: FaceFinder | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UserError("not an image size", where="--image_size", found=str(self.image_size))
        if not 1 <= self.quality <= 100:
            raise UserError("not a JPEG quality", where="--quality", found=str(self.quality))

    def __call__(self, row: Row, data: bytes) -> bytes:
        """Returns the bytes to store.

        Raises:
          UndecodableImage: a broken picture, an empty box, no face.
        """
        cut = row.box is not None or self.face_finder is not None
        at_least = 2 * self.image_size if self.image_size and not cut else 0
        image = decode.decode_full(data, at_least=at_least)
        if row.box is not None:
            image = crop(image, row.box)
        elif self.face_finder is not None:
            box = self.face_finder.largest(image)
            if box is None:
                raise decode.UndecodableImage("no face found")
            image = crop(image, box)
        if not cut and self.image_size is None and self.encoding == "source":
            return data
        if self.image_size is not None:
            image = decode.squash(image, self.image_size)
        return encode(image, self.encoding, quality=self.quality)

    def protocol(self) -> dict[str, str]:
        """Tells the choices, for the report."""
        told: dict[str, str] = {"encoding": self.encoding}
        if self.image_size is not None:
            told["image_size"] = str(self.image_size)
        if self.face_finder is not None:
            told["faces"] = self.face_finder.name
        return told


def crop(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
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
        raise decode.UndecodableImage(f"the box {x0},{y0},{x1},{y1} misses the picture")
    result = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    result[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return result


def encode(image: np.ndarray, encoding: Encoding, *, quality: int = JPEG_QUALITY) -> bytes:
    """Encodes (H, W, 3) uint8 RGB; "source" means JPEG here."""
    image = np.ascontiguousarray(image)
    if encoding == "raw":
        height, width = image.shape[:2]
        return b"P6\n%d %d\n255\n" % (width, height) + image.tobytes()
    if encoding == "png":
        import cv2

        _, data = cv2.imencode(".png", image[..., ::-1])
        return data.tobytes()
    import simplejpeg

    # Colour at full resolution: at these sizes halving it costs more than it saves.
    return simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="444")
