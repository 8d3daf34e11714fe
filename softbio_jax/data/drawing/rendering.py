"""Draws a face from its parameters: flat shapes at twice the size, then blur, light and noise."""

from __future__ import annotations

import math

import numpy as np

from softbio_jax.data.drawing import parts
from softbio_jax.data.drawing.face import Face
from softbio_jax.data.drawing.pen import Pen


def render(face: Face, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws one face.

    Args:
      face: its parameters.
      rng: draws the backdrop's shapes, the age spots and the sensor noise.
      size: the side S in pixels.

    Returns:
      uint8 (S, S, 3), RGB; the same arguments and generator state give the same pixels.
    """
    import cv2

    canvas = np.empty((2 * size, 2 * size, 3), np.uint8)
    _backdrop(canvas, face, rng)
    pen = Pen(canvas, face)
    parts.behind(pen, face)
    parts.body(pen, face)
    parts.head(pen, face)
    parts.beard(pen, face)
    parts.age_marks(pen, face, rng)
    parts.nose(pen, face)
    parts.mouth(pen, face)
    parts.moustache(pen, face)
    parts.eyes(pen, face)
    parts.brows(pen, face)
    parts.in_front(pen, face)
    parts.accessories(pen, face)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if face.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), face.blur)
    return _develop(image, face, rng)


def _backdrop(canvas: np.ndarray, face: Face, rng: np.random.Generator) -> None:
    import cv2

    side = len(canvas)
    shade = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    first, second = np.array(face.background), np.array(face.backdrop)
    canvas[:] = first + shade * (second - first)
    for x, y, radius, tint in rng.random((3, 4)).tolist():
        colour = [value + 50 * (tint - 0.5) for value in face.background]
        centre = (int(x * side), int(y * side))
        cv2.circle(canvas, centre, int((0.1 + 0.25 * radius) * side), colour, -1, cv2.LINE_AA)


def _develop(image: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Applies light that falls off across the image, a colour cast, and grey sensor noise."""
    size = len(image)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    fall = axis[None, :] * math.sin(face.light) - axis[:, None] * math.cos(face.light)
    gain = face.brightness * (1 + face.contrast * fall)
    cast = np.array([1 + face.warmth, 1, 1 - face.warmth], np.float32)
    lit = image * gain[..., None]
    lit *= cast
    if face.noise:
        lit += face.noise * rng.standard_normal((size, size, 1), dtype=np.float32)
    return np.clip(lit, 0, 255, out=lit).astype(np.uint8)
