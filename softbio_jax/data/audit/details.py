"""The details of images: what is left after the local mean and contrast are divided out."""

from __future__ import annotations

import functools

import numpy as np

SIDES = (16, 32, 64)  # in pixels
COARSE, FINE = 4.0, 1.5  # standard deviations in pixels of the local means
_NOISE = 0.02  # of squared details, so that plain areas are not amplified
_STEPS = 25  # of a stored detail, whose standard deviation is about 1
_BATCH = 256


class Details:
    """The details of N images. Those at 16 and 32 pixels are kept, a byte each: 1.25 kB per image."""

    def __init__(self, images: np.ndarray):
        """Reduces images (N, 64, 64) uint8, which are kept too."""
        self._images = images
        self._kept = {side: np.empty((len(images), side, side), np.uint8) for side in SIDES[:-1]}
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            for side, kept in self._kept.items():
                block = SIDES[-1] // side
                small = part.reshape(len(part), side, block, side, block).mean(axis=(2, 4), dtype=np.float32)
                stored = np.rint(of(small, COARSE) * _STEPS) + 128
                kept[start : start + _BATCH] = np.clip(stored, 0, 255)

    def __call__(self, numbers: np.ndarray, side: int, deviation: float = COARSE) -> np.ndarray:
        """Returns the details of images by number, (M, side, side) float32; finer ones only at 64 pixels."""
        if side in self._kept:
            return (self._kept[side][numbers].astype(np.float32) - 128) / _STEPS
        once, place = np.unique(numbers, return_inverse=True)
        return of(self._images[once], deviation)[place]


def of(images: np.ndarray, deviation: float) -> np.ndarray:
    """Subtracts the local mean and divides by the local contrast.

      g = sqrt(image), d = g - blur(g), details = d / sqrt(blur(d^2) + 0.02)

    Args:
      images: (N, S, S) of 0 to 255.
      deviation: of the Gaussian blur, in pixels.

    Returns:
      (N, S, S) float32.
    """
    grey = np.sqrt(images, dtype=np.float32)
    blur = _blur(images.shape[1], deviation)
    rest = grey - blur @ grey @ blur.T
    return rest / np.sqrt(blur @ (rest * rest) @ blur.T + np.float32(_NOISE))


@functools.cache
def _blur(side: int, deviation: float) -> np.ndarray:
    """Returns the matrix (S, S) that blurs each column; it makes the blur of many images a product."""
    import cv2

    kernel = cv2.getGaussianKernel(round(8 * deviation + 1) | 1, deviation)
    return cv2.sepFilter2D(np.eye(side, dtype=np.float32), -1, np.ones(1), kernel)
