"""What the reference image becomes where one step of the preprocessing, or several, went wrong."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from softbio_jax.data import decode

# Names of the steps that went wrong; the empty name is the right way.
TURNED, AS_STORED, MIRRORED = "turned the wrong way", "not rotated (EXIF orientation ignored)", "mirrored"
BGR, GREY = "channels in the order BGR", "grey"
CROPPED, PADDED = "aspect ratio kept and the middle cut out", "aspect ratio kept and padded"
PLAIN, SOFT = "bilinear without antialiasing", "bilinear with antialiasing"
CUBIC, NEAREST = "bicubic", "nearest neighbour"
FIXES = {
    TURNED: "rotate as the EXIF orientation says, not the other way",
    AS_STORED: "apply the EXIF orientation first (PIL: ImageOps.exif_transpose)",
    MIRRORED: "do not flip",
    BGR: "give red, green, blue (x[..., ::-1])",
    GREY: "keep the colours",
    CROPPED: "squash to a square without keeping the aspect ratio",
    PADDED: "squash to a square without keeping the aspect ratio",
} | dict.fromkeys(
    (PLAIN, SOFT, CUBIC, NEAREST), "resize by area averages (OpenCV: INTER_AREA), see resizing in config.json"
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Values of a tensor as (v / 255 - mean) / std of levels v."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def levels(self, values: np.ndarray) -> np.ndarray:
        """Returns v of values (..., 3)."""
        return (values * np.array(self.std) + np.array(self.mean)) * 255

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Returns the values of levels (..., 3)."""
        return (levels / 255 - np.array(self.mean)) / np.array(self.std)


LEVELS = Scale("0 to 255", (0.0,), (1 / 255,))
UNIT = Scale("0 to 1", (0.0,), (1.0,))
SIGNED = Scale("-1 to 1, as (v / 255 - 0.5) / 0.5", (0.5,), (0.5,))
IMAGENET = Scale("normalised by ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Scale(
    "normalised by CLIP's mean and std",
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
TWICE = Scale("normalised twice", (0.5 + 0.5 * 127.5,), (127.5 * 0.5,))
SCALES = (LEVELS, UNIT, SIGNED, IMAGENET, CLIP, TWICE)


def scale_of(mean: tuple[float, ...], std: tuple[float, ...]) -> Scale:
    """Returns the scale of a mean and a deviation of pixels in [0, 1]."""
    known = (scale for scale in SCALES if (scale.mean, scale.std) in ((mean, std), (mean[:1], std[:1])))
    other = Scale("normalised by the encoder's mean and std", mean, std)
    return next((scale for scale in known if len(set(mean)) == 1 or len(scale.mean) == 3), other)


def variants(jpeg: bytes, size: int) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yields (what went wrong, levels (S, S, 3) float64), the right way first.

    All combinations of an orientation, a geometry, a resizing filter and an order of the channels.
    """
    for turning, image in _orientations(jpeg).items():
        for geometry, cut in _GEOMETRIES.items():
            for filter_, resize in _FILTERS.items():
                resized = cut(image, size, resize).astype(np.float64)
                grey = np.repeat((resized @ (0.299, 0.587, 0.114))[..., None], 3, axis=-1)
                for order, levels in (("", resized), (BGR, resized[..., ::-1]), (GREY, grey)):
                    yield tuple(name for name in (turning, geometry, filter_, order) if name), levels


def single(jpeg: bytes, size: int) -> dict[str, np.ndarray]:
    """Returns the levels of the right way, under "", and of each mistake alone."""
    found: dict[str, np.ndarray] = {}
    for wrong, levels in variants(jpeg, size):
        if len(wrong) < 2:
            found.setdefault("".join(wrong), np.rint(levels))
    return found


def _orientations(jpeg: bytes) -> dict[str, np.ndarray]:
    from PIL import Image

    upright = decode.decode_full(jpeg)
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        stored = np.array(image.convert("RGB"))
    return {"": upright, AS_STORED: stored, TURNED: upright[::-1, ::-1], MIRRORED: upright[:, ::-1]}


def _pillow(name: str) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
    def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        from PIL import Image

        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling[name]))

    return resize


def _opencv(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR))


def _exact(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size[0] == size[1]:
        return decode.squash(np.ascontiguousarray(image), size[0])
    import cv2

    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA))


_Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]
_FILTERS: Mapping[str, _Resize] = {
    "": _exact,
    PLAIN: _opencv,
    SOFT: _pillow("BILINEAR"),
    CUBIC: _pillow("BICUBIC"),
    NEAREST: _pillow("NEAREST"),
}


def _squash(image: np.ndarray, size: int, resize: _Resize) -> np.ndarray:
    return resize(image, (size, size))


def _middle(image: np.ndarray, size: int, resize: _Resize) -> np.ndarray:
    height, width = image.shape[:2]
    scale = size / min(height, width)
    larger = resize(image, (max(size, round(width * scale)), max(size, round(height * scale))))
    top, left = (larger.shape[0] - size) // 2, (larger.shape[1] - size) // 2
    return larger[top : top + size, left : left + size]


def _padded(image: np.ndarray, size: int, resize: _Resize) -> np.ndarray:
    height, width = image.shape[:2]
    scale = size / max(height, width)
    smaller = resize(image, (round(width * scale), round(height * scale)))
    top, left = (size - smaller.shape[0]) // 2, (size - smaller.shape[1]) // 2
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[top : top + smaller.shape[0], left : left + smaller.shape[1]] = smaller
    return canvas


_GEOMETRIES = {"": _squash, CROPPED: _middle, PADDED: _padded}
