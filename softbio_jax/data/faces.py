"""Faces in photographs: where they are, and the square that the model is shown."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Box = tuple[float, float, float, float]


class FaceFinder(Protocol):
    """Finds faces; the detectors behind it are interchangeable."""

    name: str

    def largest(self, image: np.ndarray) -> Box | None:
        """Finds the square around the largest face of (H, W, 3) uint8 RGB, in pixels."""
