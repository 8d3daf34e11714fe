"""Averages of a face's probabilities over the frames of its track."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from softbio_jax.evaluation.metrics.calibration import LEAST_PROBABILITY

Probabilities = Mapping[str, np.ndarray]  # task -> (C,)


class Smoother:
    """The weighted geometric mean of a track's probabilities p_i at times t_i, renormalised:

      q_t(c) = exp(m_t(c)) / sum_k exp(m_t(k)),  m_t = sum_i w_i log p_i / sum_i w_i,
      w_i = 2^(-(t - t_i) / h).

    A frame that is older by the half-life h counts half as much; h = inf is the mean over all frames, h = 0
    the last frame alone. The mean, not the sum of log-probabilities: frames of one face are not independent,
    so many of them do not make an answer certain. A probability below 1e-12 counts as that.
    """

    def __init__(self, half_life: float):
        self._half_life = half_life
        self._sums: dict[str, np.ndarray] = {}
        self._weight = 0.0
        self._seconds = 0.0

    def update(self, seconds: float, probabilities: Probabilities) -> dict[str, np.ndarray]:
        """Adds a frame and returns q of it; `seconds` never decrease."""
        decay = self._decay(seconds - self._seconds)
        self._weight = decay * self._weight + 1.0
        self._seconds = seconds
        for task, p in probabilities.items():
            logs = np.log(np.maximum(p, LEAST_PROBABILITY))
            self._sums[task] = decay * self._sums.get(task, np.zeros_like(logs)) + logs
        return self.value()

    def value(self) -> dict[str, np.ndarray]:
        """Returns q at the last frame, {task: (C,)}."""
        found = {}
        for task, total in self._sums.items():
            mean = total / self._weight
            values = np.exp(mean - mean.max())
            found[task] = values / values.sum()
        return found

    def _decay(self, seconds: float) -> float:
        if self._half_life == 0 or not self._sums:
            return 0.0
        return 1.0 if math.isinf(self._half_life) else 2.0 ** (-seconds / self._half_life)
