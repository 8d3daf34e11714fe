"""How images are stored in records: the source's own bytes, or a square of the model's size."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.faces import FaceFinder, crop, square_crop
from softbio_jax.data.prepare.rows import Row
from softbio_jax.errors import UserError

Encoding = Literal["source", "jpeg", "png", "raw"]
JPEG_QUALITY = 95  # the default of cut or resized images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """Turns a row's image into the bytes to store, which also checks that it decodes.

    Args:
      image_size: side S in pixels to resize to, ignoring the aspect ratio; None keeps the size.
      encoding: "source" keeps the bytes (JPEG where a crop or a resize forbids that), "jpeg",
        "png" (lossless), or "raw" (uncompressed, as PPM: the fastest to read, S x S x 3 bytes).
      quality: of JPEG, 1 to 100.
      face_finder: cuts the square around the largest face out of every image whose row has no
        box.
      crops: each image shows one face, even where it looks like a photograph.
      margin: around the faces of the source's crops, as a fraction of the face's side, for the record;
        None: what the data set is known to have.
    """

    image_size: int | None = None
    encoding: Encoding = "source"
    quality: int = JPEG_QUALITY
    face_finder: FaceFinder | None = None
    crops: bool = False
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            found, fix = str(self.image_size), "give the side in pixels"
            raise UserError(
                "not an image size", where="--image_size", expected="1 or more", found=found, fix=fix
            )
        if self.margin is not None and not 0 <= self.margin <= 10:
            found, fix = f"{self.margin:g}", "give a fraction of the face's side, such as --margin=0.25"
            raise UserError("not a margin", where="--margin", expected="0 to 10", found=found, fix=fix)
        if self.margin is not None and self.face_finder is not None:
            found, fix = "--faces", "omit one of the two"
            expected = "crops: found faces have no margin"
            raise UserError(
                "a flag does not apply", where="--margin", expected=expected, found=found, fix=fix
            )
        if not 1 <= self.quality <= 100:
            found, fix = str(self.quality), f"for example --quality={JPEG_QUALITY}"
            raise UserError(
                "not a JPEG quality", where="--quality", expected="1 to 100", found=found, fix=fix
            )

    def __call__(self, row: Row, data: bytes) -> bytes:
        """Returns the bytes to store.

        Raises:
          UndecodableImage: a broken image, an empty box, no face.
        """
        cut = row.box is not None or self.face_finder is not None
        at_least = 2 * self.image_size if self.image_size and not cut else 0
        image = decode.decode_full(data, at_least=at_least)
        if row.box is not None:
            image = crop(image, row.box)
        elif self.face_finder is not None:
            faces = self.face_finder.find(image)
            if not faces:
                raise decode.UndecodableImage("no face found")
            image = square_crop(image, faces[0])
        if not cut and self.image_size is None and self.encoding == "source":
            return data
        if self.image_size is not None:
            image = decode.squash(image, self.image_size)
        return encode(image, self.encoding, quality=self.quality)

    def protocol(self) -> dict[str, str]:
        """Returns the choices, for the report."""
        choices: dict[str, str] = {"encoding": self.encoding}
        if self.image_size is not None:
            choices["image_size"] = str(self.image_size)
        if self.face_finder is not None:
            choices["faces"] = self.face_finder.name
        return choices


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
