"""Encoded images to square uint8 arrays: libjpeg-turbo first, Pillow for everything else."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000  # a larger image is refused: it would take gigabytes to decode
_EXIF_ORIENTATION = 274
# Bilinear interpolation reads only four pixels; beyond this factor it would alias.
_AREA_FROM = 1.5

_PPM_HEADER = re.compile(rb"P6\n([1-9]\d*) ([1-9]\d*)\n255\n")

Resize = Literal["fast", "reference"]


class UndecodableImage(ValueError):
    """An image that cannot be decoded, with the reason."""


def decode(data: bytes, *, size: int, resize: Resize = "fast") -> np.ndarray:
    """Decodes an image and squashes it to a square.

    Args:
      data: the encoded image (JPEG, PNG, ... in any colour mode).
      size: the side S in pixels; the aspect ratio is not kept.
      resize: "fast" uses libjpeg-turbo and OpenCV and follows the EXIF orientation; "reference"
        equals PIL's bilinear resize followed by a conversion to RGB bit for bit, which is the
        preprocessing of the published checkpoints.

    Returns:
      (S, S, 3) uint8, RGB.

    Raises:
      UndecodableImage: not an image, truncated, or too large.
    """
    if resize == "reference":
        return _reference(data, size)
    return squash(decode_full(data, at_least=2 * size), size)


def squash(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to (S, S, 3): area averages when shrinking, else bilinear."""
    import cv2

    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    method = cv2.INTER_AREA if max(height, width) > _AREA_FROM * size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)


def decode_full(data: bytes, *, at_least: int = 0) -> np.ndarray:
    """Decodes an image to (H, W, 3) uint8 RGB.

    Args:
      data: the encoded image.
      at_least: a JPEG may be decoded at a fraction of its size if both sides keep at least this
        many pixels; 0: the full size.

    Raises:
      UndecodableImage: not an image, truncated, or too large.
    """
    if data[:3] == b"P6\n":
        return _ppm(data)
    if data[:2] == b"\xff\xd8" and not _is_rotated(data):
        import simplejpeg

        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS and colours != "CMYK":
                return simplejpeg.decode_jpeg(data, min_height=at_least, min_width=at_least)
        except ValueError:
            pass  # strict about small defects: Pillow decides
    return _pillow_rgb(data)


def _ppm(data: bytes) -> np.ndarray:
    # Pre-resized records hold plain pixels, so a view of the bytes is enough.
    header = _PPM_HEADER.match(data)
    if header is None:
        return _pillow_rgb(data)
    width, height = int(header[1]), int(header[2])
    if len(data) - header.end() != height * width * 3:
        raise UndecodableImage("truncated")
    return np.frombuffer(data, np.uint8, offset=header.end()).reshape(height, width, 3)


def _is_rotated(data: bytes) -> bool:
    # Most JPEGs of face data sets have no EXIF block and need no parser.
    if b"Exif\x00\x00" not in data[:4096]:
        return False
    try:
        return _open(data).getexif().get(_EXIF_ORIENTATION, 1) != 1
    except Exception:  # a broken EXIF block is no reason to reject the image
        return False


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    if not data:
        raise UndecodableImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise UndecodableImage(f"too large: {error}") from error
    except Exception as error:
        known = data.startswith((b"\xff\xd8\xff", b"\x89PNG"))
        raise UndecodableImage("truncated in its header" if known else "not an image") from error
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableImage(f"too large: {image.width}x{image.height}")
    return image


def _load(data: bytes) -> Image.Image:
    image = _open(data)
    try:
        image.load()
    except Exception as error:  # Pillow raises many types for broken images
        raise UndecodableImage(" ".join(str(error).split())[:120] or "broken") from error
    return image


def _pillow_rgb(data: bytes) -> np.ndarray:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(_load(data))
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(np.asarray(image))
    return np.array(image.convert("RGB"))


def _deep_grey(values: np.ndarray) -> np.ndarray:
    # Pillow clips 16-bit grey at 255 instead of scaling it.
    grey = np.rint(np.clip(values.astype(np.float64) * (255.0 / 65535.0), 0, 255)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _reference(data: bytes, size: int) -> np.ndarray:
    from PIL import Image

    image = _load(data).resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image.convert("RGB"))
