"""Follows boxes over frames: motion at constant velocity, and the assignment of largest overlap.

A plain form of SORT (Bewley et al. 2016, "Simple online and realtime tracking", arXiv 1602.00763), with an
average of velocities in place of its Kalman filter, since frames need not be evenly spaced.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from softbio_jax.data.faces import Box
from softbio_jax.ranges import Range, check_fields

_IMPOSSIBLE = 1e6  # cost of a pair that does not overlap enough


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Settings of a tracker.

    Args:
      overlap: least intersection over union of a box with the predicted one of its track.
      gap: seconds without a box after which a track has ended.
      memory: weight of the former velocity at each new box, from 0 (none) to 1 (never changed).
    """

    overlap: Annotated[float, Range(0, 1, above=True)] = 0.3
    gap: Annotated[float, Range(0, 3600)] = 1.0
    memory: Annotated[float, Range(0, 1)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "track")


@dataclasses.dataclass
class _Track:
    number: int
    box: np.ndarray  # (4,) of the last frame that had it
    seconds: float
    velocity: np.ndarray  # (4,) pixels per second of each side
    is_new: bool = True

    def predicted(self, seconds: float) -> np.ndarray:
        return self.box + self.velocity * (seconds - self.seconds)


class Tracker:
    """Numbers the boxes of a video: the same face has the same number, from 0, while it is followed."""

    def __init__(self, config: TrackerConfig = TrackerConfig()):
        self._config = config
        self._tracks: list[_Track] = []
        self._numbers = itertools.count()

    def update(self, seconds: float, boxes: Sequence[Box]) -> list[int]:
        """Returns the number of each box's track; boxes of no known face begin new ones.

        Args:
          seconds: time of the frame; never decreases.
          boxes: (x0, y0, x1, y1) in pixels.
        """
        config = self._config
        self._tracks = [track for track in self._tracks if seconds - track.seconds <= config.gap]
        given = np.array(boxes, np.float64).reshape(-1, 4)
        found: dict[int, _Track] = {}
        if self._tracks and len(given):
            from scipy.optimize import linear_sum_assignment

            overlaps = iou(np.stack([track.predicted(seconds) for track in self._tracks]), given)
            costs = np.where(overlaps >= config.overlap, 1 - overlaps, _IMPOSSIBLE)
            for place, column in zip(*linear_sum_assignment(costs), strict=True):
                if overlaps[place, column] >= config.overlap:
                    found[int(column)] = self._tracks[place]
        numbers = []
        for column, box in enumerate(given):
            if (track := found.get(column)) is None:
                track = _Track(next(self._numbers), box, seconds, np.zeros(4))
                self._tracks.append(track)
            else:
                if (passed := seconds - track.seconds) > 0:
                    kept = 0.0 if track.is_new else config.memory  # the first velocity has none before it
                    track.velocity = kept * track.velocity + (1 - kept) * (box - track.box) / passed
                track.box, track.seconds, track.is_new = box, seconds, False
            numbers.append(track.number)
        return numbers


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the intersection over union (N, M) of boxes (N, 4) and (M, 4), x0 y0 x1 y1; 0 of empty ones."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    both = (high - low).clip(0).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=-1) for boxes in (left, right)]
    either = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)
