"""Encoded images to square uint8 arrays: libjpeg-turbo first, Pillow for everything else.

Images come from other people. Pillow may use only the decoders of `FORMATS`, and all threads of a
process together decode at most `MAX_PIXELS` pixels at a time.
"""

from __future__ import annotations

import functools
import io
import math
import os
import re
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np

from softbio_jax.safety.untrusted import PixelBudget

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000  # a larger image is refused: it would take gigabytes to decode
# Pillow's other decoders include programs (PostScript starts Ghostscript) and rarely tried code.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_MAX_SCAN_PIXELS = 100 * MAX_PIXELS  # of all scans of a progressive JPEG, each of which takes time
_EXIF_ORIENTATION = 274
# Bilinear interpolation reads only four pixels; beyond this factor it would alias.
_AREA_FROM = 1.5

_OVERSHOOT = 1.25  # of float grey beyond its range

_ORIENTED = (b"Exif\x00\x00", b"tiff:Orientation")
_STANDARD_CODES = bytes.fromhex("0102030004110512213141061351610722")  # Annex K's AC codes of luminance
_ZEROS = bytes(40)
_LOST = re.compile(
    "Corrupt JPEG data|Premature end of JPEG|Bogus marker length|Bogus Huffman|Invalid component ID"
    "|Inconsistent progression|Invalid progressive"
)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_OF_HEADERS = re.compile("e.|fe|db")  # markers that no scan has behind it
_PADDING = 16

_PPM_HEADER = re.compile(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n")

Resize = Literal["fast", "squash", "center"]


class UndecodableImage(ValueError):
    """An image that cannot be decoded, with the reason."""


_DECODING = PixelBudget(MAX_PIXELS)


def decode(data: bytes, *, size: int, resize: Resize = "fast") -> np.ndarray:
    """Decodes an image and resizes it to a square.

    Args:
      data: the encoded image (JPEG, PNG, ... in any colour mode).
      size: the side S in pixels.
      resize: "fast" uses libjpeg-turbo and OpenCV, follows the EXIF orientation and does not keep the
        aspect ratio. The others are the preprocessing of published checkpoints bit for bit, by
        Pillow: "squash", bilinear, does not keep the aspect ratio; "center", bicubic, makes the
        shorter side S and cuts the middle out.

    Returns:
      (S, S, 3) uint8, RGB.

    Raises:
      UndecodableImage: not an image, truncated, or too large.
    """
    if resize != "fast":
        return _reference(data, size, resize)
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
    if data[:2] == b"\xff\xd8":
        return _jpeg(data, at_least)
    return _pillow_rgb(data)


def size_of(file: str | os.PathLike[str] | bytes) -> tuple[int, int] | None:
    """Returns (H, W) as an image file or encoded image declares it; None if it is none."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(
                io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats()
            ) as image:
                return image.height, image.width
    except Exception:  # broken and missing images are reported when they are read
        return None


def from_pil(image: Image.Image) -> np.ndarray:
    """Converts a PIL image, at its current frame, to (H, W, 3) uint8 RGB as its file would be.

    It is turned as its EXIF block says. Grey of more than 8 bits is scaled: 16 bits by 1/257, integers
    of 32 bits from the range of 16 bits if that holds them, and floats from the range of 0 to 1, 0 to
    255 or 0 to 65,535, whichever is the smallest that holds them.

    Raises:
      UndecodableImage: broken, no pixels, or pixels that are not finite.
    """
    if 0 in image.size:
        raise UndecodableImage(f"no pixels: {image.width}x{image.height}")
    try:
        image.load()
        upright = _upright(image)
        if not upright.mode.startswith("I") and upright.mode != "F":
            return np.array(upright.convert("RGB"))
        values = np.asarray(upright)
    except Exception as error:  # Pillow raises many types for broken images
        raise UndecodableImage(" ".join(str(error).split())[:120] or "broken") from error
    return _deep_grey(values, from_file=image.format is not None)


def _jpeg(data: bytes, at_least: int) -> np.ndarray:
    import simplejpeg

    scan, oriented = _scan_start(data)
    damage = _zeroed(data, scan)
    fast = not damage and not (oriented and _is_rotated(data))
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        scans = data.count(b"\xff\xda", scan)
        if height * width * scans > _MAX_SCAN_PIXELS:
            raise UndecodableImage(f"too large: {width}x{height} in {scans} scans")
        if height * width <= MAX_PIXELS:
            fast = fast and colours not in ("CMYK", "YCCK")
            # Pillow ignores the decoder's warnings, so what it will decode is checked here, at 1/8.
            side = at_least if fast else 1
            with _DECODING.hold(_decoded_pixels(height, width, side)):
                image = simplejpeg.decode_jpeg(data, min_height=side, min_width=side)
            if fast:
                return image
    except UndecodableImage:
        raise
    except ValueError as error:  # strict about small defects: Pillow decides
        damage = damage or _damage(data, str(error))
    image = _pillow_rgb(data)
    if damage:
        raise UndecodableImage(f"damaged: {damage}")
    return image


def _decoded_pixels(height: int, width: int, at_least: int) -> int:
    """Returns about how many pixels libjpeg-turbo decodes, which scales in eighths; 0 is the full size."""
    share = min(1.0, at_least / min(height, width) + 1 / 8) if at_least else 1.0
    return int(height * width * max(share**2, 1 / 4))  # at least the coefficients of several scans


def _scan_start(data: bytes) -> tuple[int, bool]:
    """Returns where the first scan of a JPEG starts, and whether its header may have an orientation."""
    place, oriented = 2, False
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF:  # something between the segments: Pillow searches
            return max(data.find(b"\xff\xda", place), place), b"Exif\x00\x00" in data
        if marker == 0xDA:
            break
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and not oriented:
            oriented = any(data.find(word, place, end) >= 0 for word in _ORIENTED)
        place = end
    return place, oriented


def _zeroed(data: bytes, scan: int) -> str:
    """Returns a description of a run of zeros inside the scans of a JPEG, or "".

    With the standard Huffman tables a run of this length would need blocks of noise. With other
    tables it can be a plain area.
    """
    start = data.find(_ZEROS, scan)
    if start < 0 or data.find(b"\xff\xd9", scan, start) >= 0 or _STANDARD_CODES not in data[:scan]:
        return ""
    return f"zeros at byte {start}"


def _damage(data: bytes, warning: str) -> str:
    """Returns a warning of libjpeg that means lost pixels, or "" for a harmless one."""
    extraneous = _EXTRANEOUS.search(warning)
    if extraneous is not None:
        if _OF_HEADERS.fullmatch(extraneous[2]):
            return ""
        # A short padding before the end is harmless.
        count, end = int(extraneous[1]), data.rfind(b"\xff\xd9")
        if extraneous[2] == "d9" and count <= _PADDING and len(set(data[end - count : end])) == 1:
            return ""
    return warning if _LOST.match(warning) else ""


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
    try:
        return _orientation(_open(data)) != 1
    except UndecodableImage:  # reported when it is decoded
        return False


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns those of `FORMATS` that this build of Pillow has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to reject the image
        return 1


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    method = Image.Transpose
    turns = {
        2: method.FLIP_LEFT_RIGHT,
        3: method.ROTATE_180,
        4: method.FLIP_TOP_BOTTOM,
        5: method.TRANSPOSE,
        6: method.ROTATE_270,
        7: method.TRANSVERSE,
        8: method.ROTATE_90,
    }
    turn = turns.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    if not data:
        raise UndecodableImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise UndecodableImage(f"too large: {error}") from error
    except Exception as error:
        known = data.startswith((b"\xff\xd8\xff", b"\x89PNG"))
        raise UndecodableImage("truncated in its header" if known else "not an image") from error
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableImage(f"too large: {image.width}x{image.height}")
    return image


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # Pillow raises many types for broken images
        raise UndecodableImage(" ".join(str(error).split())[:120] or "broken") from error
    return image


def _pillow_rgb(data: bytes) -> np.ndarray:
    image = _open(data)
    with _DECODING.hold(image.width * image.height):
        return from_pil(image)


def _deep_grey(values: np.ndarray, *, from_file: bool) -> np.ndarray:
    # Pillow clips grey of more than 8 bits at 255 instead of scaling it.
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise UndecodableImage("pixels that are not finite")
    black, white = 0.0, 65535.0
    if values.dtype.kind == "f":
        # Resampling exceeds a range a little; that is clipped.
        white = next((top for top in (1.0, 255.0) if high <= top * _OVERSHOOT), white)
    elif values.dtype.itemsize > 2 and not from_file and high <= 255:
        white = 255.0  # made from 8 bits in memory
    if values.dtype.itemsize > 2 and not -(_OVERSHOOT - 1) * white <= low <= high <= white * _OVERSHOOT:
        black, white = low, (high - low) or 1.0  # no range that is in use
    grey = np.empty((*values.shape, 3), np.uint8)
    for row, line in zip(grey, values, strict=True):  # by rows: float64 takes 8 bytes per pixel
        scaled = (line.astype(np.float64) - black) * (255.0 / white)
        row[:] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)[:, None]
    return grey


def _reference(data: bytes, size: int, resize: Resize) -> np.ndarray:
    from PIL import Image

    opened = _open(data)
    with _DECODING.hold(opened.width * opened.height):
        image = _load(opened)
        if resize == "squash":
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        else:
            short = min(image.size)
            # torchvision's: the longer side is truncated, the corner rounded to even.
            width, height = (int(size * side / short) for side in image.size)
            left, top = round((width - size) / 2), round((height - size) / 2)
            if max(width, height) > MAX_PIXELS // size:
                raise UndecodableImage(f"too elongated: {image.width}x{image.height}")
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + size, top + size))
        return np.array(image.convert("RGB"))
