"""Copies of images as they turn up in data sets, one function per kind."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from softbio_jax.data.prepare import storage


def recompressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At a JPEG quality of 20 to 95."""
    encoded = storage.encode(image, "jpeg", quality=int(rng.integers(20, 96)))
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def resized(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By a factor of 0.5 to 2."""
    factor = rng.uniform(0.5, 2)
    return _resize(image, image.shape[0] * factor, image.shape[1] * factor)


def mirrored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def brightened(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By a factor of 0.7 to 1.5."""
    return np.clip(image * rng.uniform(0.7, 1.5), 0, 255).astype(np.uint8)


def cropped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 2 to 10 % of each side, anywhere; every second one is scaled back."""
    return _cropped(image, rng, 0.02, 0.10)


def cropped_far(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 10 to 15 % of each side, anywhere; every second one is scaled back."""
    return _cropped(image, rng, 0.10, 0.15)


def bordered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a black, grey or white border of 2 to 10 %; every second one is scaled back."""
    height, width = image.shape[:2]
    sides = [max(1, round(rng.uniform(0.02, 0.10) * side)) for side in (height, height, width, width)]
    if rng.random() < 0.5:
        sides = sides[:1] * 4
    value = (int(rng.choice([0, 128, 255])),) * 3
    top, bottom, left, right = sides
    framed = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value)
    return _resize(framed, height, width) if rng.random() < 0.5 else framed


def rotated(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 1 to 5 degrees; the corners are black, mirrored or repeated."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(1, 5) * rng.choice([-1, 1]), 1)
    corners = int(rng.choice([cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT, cv2.BORDER_REPLICATE]))
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=corners)


Kind = Callable[[np.ndarray, np.random.Generator], np.ndarray]
SINGLE: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (recompressed, resized, mirrored, brightened, cropped, cropped_far, bordered, rotated)
}


def two_kinds(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One kind after another."""
    first, second = rng.choice(len(SINGLE), 2, replace=False)
    kinds = list(SINGLE.values())
    return kinds[second](kinds[first](image, rng), rng)


KINDS: dict[str, Kind] = SINGLE | {"two_kinds": two_kinds}


def copy(image: np.ndarray, kind: str, rng: np.random.Generator) -> bytes:
    """Makes a JPEG (quality 92) of a copy of an image (H, W, 3) uint8."""
    return storage.encode(KINDS[kind](image, rng), "jpeg", quality=92)


def _cropped(image: np.ndarray, rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    height, width = image.shape[:2]
    cut = rng.uniform(least, most, 2)
    if rng.random() < 0.5:
        cut[1] = cut[0]
    rows, columns = round(height * (1 - cut[0])), round(width * (1 - cut[1]))
    top, left = (height - rows) // 2, (width - columns) // 2
    if rng.random() < 0.7:  # off the centre
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    inner = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    return _resize(inner, height, width) if rng.random() < 0.5 else inner


def _resize(image: np.ndarray, height: float, width: float) -> np.ndarray:
    rows, columns = max(1, round(height)), max(1, round(width))
    method = cv2.INTER_AREA if columns < image.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(image, (columns, rows), interpolation=method)
