"""Tracks of a video: predictions of its frames in, smoothed ones out, and one prediction per face."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.predictor import Prediction, Track, described
from softbio_jax.inference.tracking.smoothing import Smoother
from softbio_jax.inference.tracking.tracker import Tracker, TrackerConfig


@dataclasses.dataclass
class _Face:
    track: Track
    recent: Smoother  # of the rows of frames
    entire: Smoother  # of the row of the track


class Tracks:
    """Follows the faces of one video.

    Args:
      bundle: the model of the predictions.
      half_life: of the smoothing, in seconds, see `Smoother`.
      config: of the tracker.
    """

    def __init__(self, bundle: Bundle, *, half_life: float, config: TrackerConfig = TrackerConfig()):
        self._bundle, self._half_life = bundle, half_life
        self._tracker = Tracker(config)
        self._faces: dict[int, _Face] = {}

    def update(self, seconds: float, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Returns the predictions of a frame's detected faces with their tracks, smoothed over them."""
        boxes = [prediction.face.box for prediction in predictions if prediction.face is not None]
        if len(boxes) != len(predictions):
            raise ValueError("a prediction without the box of a face")
        found = []
        for number, prediction in zip(self._tracker.update(seconds, boxes), predictions, strict=True):
            if number not in self._faces:
                begun = Track(number=number, first=seconds, last=seconds, frames=0)
                self._faces[number] = _Face(begun, Smoother(self._half_life), Smoother(math.inf))
            face = self._faces[number]
            face.track = dataclasses.replace(face.track, last=seconds, frames=face.track.frames + 1)
            p = {task: np.array(list(of.values())) for task, of in prediction.probabilities.items()}
            face.entire.update(seconds, p)
            smoothed = self._prediction(face.recent.update(seconds, p))
            found.append(dataclasses.replace(smoothed, face=prediction.face, track=face.track))
        return found

    def summary(self) -> list[Prediction]:
        """Returns one prediction per track, over all its frames alike, in the order of their numbers."""
        return [
            dataclasses.replace(self._prediction(face.entire.value()), track=face.track)
            for _, face in sorted(self._faces.items())
        ]

    def _prediction(self, probabilities: Mapping[str, np.ndarray]) -> Prediction:
        (found,) = described(self._bundle, {task: p[None] for task, p in probabilities.items()})
        return found
