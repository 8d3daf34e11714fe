"""Anti-aliased shapes in face coordinates.

The origin is the middle of the head, x to the right, y down, and the head reaches from the crown
at y = -1 to the chin at y = 1.
"""

from __future__ import annotations

import math

import numpy as np

from softbio_jax.data.drawing.face import Colour, Face


class Pen:
    """Fills shapes given in face coordinates, anti-aliased, at a fraction of a pixel."""

    def __init__(self, canvas: np.ndarray, face: Face):
        import cv2

        self.canvas, self.cv2 = canvas, cv2
        side = len(canvas)
        self.unit = face.scale * side / 2
        cos, sin = math.cos(face.tilt), math.sin(face.tilt)
        self.turn = np.array([[cos, sin], [-sin, cos]]) * (256 * self.unit)
        # 8 fractional bits; a pixel's centre has integer coordinates; + 0.5 rounds.
        self.origin = np.array([face.x + 1, face.y + 1]) * (128 * side) - 128 + 0.5
        self.yaw, self.width = face.yaw, face.head_width

    def _place(self, points: np.ndarray, on_face: bool) -> list[np.ndarray]:
        if on_face:  # what lies on the face's curved front moves with the yaw
            across = points[..., 0] / self.width
            points = points.copy()
            points[..., 0] += self.yaw * self.width * np.maximum(1 - across * across, 0)
        placed = (points @ self.turn + self.origin).astype(np.int32)
        return list(placed) if placed.ndim == 3 else [placed]

    def fill(self, points: np.ndarray, colour: Colour, on_face: bool = True) -> None:
        """Fills a polygon (K, 2), or several at once (M, K, 2)."""
        self.cv2.fillPoly(self.canvas, self._place(points, on_face), colour, self.cv2.LINE_AA, 8)

    def line(self, points: np.ndarray, colour: Colour, width: float, on_face: bool = True) -> None:
        """Draws an open line (K, 2), or several at once (M, K, 2)."""
        shapes, thickness = self._place(points, on_face), max(1, round(width * self.unit))
        self.cv2.polylines(self.canvas, shapes, False, colour, thickness, self.cv2.LINE_AA, 8)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blends two colours; share 0 is the first, 1 the second."""
    rest = 1 - share
    return (
        first[0] * rest + second[0] * share,
        first[1] * rest + second[1] * share,
        first[2] * rest + second[2] * share,
    )


BLACK, WHITE = (20.0, 14.0, 14.0), (250.0, 248.0, 244.0)
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)
SPAN = np.linspace(-1, 1, 9)
ARCH = 1 - SPAN**2
BOTH = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])  # a shape and its mirror image
_SIDE = np.linspace(0, 1, 11)


def oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Returns an ellipse about (x, y) with the given half axes."""
    return _CIRCLE * (width, height) + (x, y)


def points(x: np.ndarray, y: np.ndarray | float) -> np.ndarray:
    """Returns the points (x, y) of a curve."""
    pairs = np.empty((len(x), 2))  # faster than np.stack, and this is called often
    pairs[:, 0], pairs[:, 1] = x, y
    return pairs


def band(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Returns the closed region between two curves over the same x."""
    return np.concatenate([points(x, upper), points(x, lower)[::-1]])


def outline(face: Face, grow: float = 0.0) -> np.ndarray:
    """Returns the head: half an ellipse above, a superellipse with the jaw's exponent below."""
    width = face.head_width + grow
    theta = _SIDE * (np.pi / 2)
    upper = np.stack([width * np.sin(theta), -(1 + grow) * np.cos(theta)], -1)
    power = 2 / face.jaw
    bulge = 1 + face.cheeks * np.sin(2 * theta) ** 2
    lower = np.stack([width * bulge * np.cos(theta) ** power, (1 + grow / 2) * np.sin(theta) ** power], -1)
    right = np.concatenate([upper, lower[1:]])
    return np.concatenate([right, (right * (-1, 1))[::-1]])
