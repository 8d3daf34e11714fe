"""Which examples a process loads at a step: its slice of the global batch."""

from __future__ import annotations

import numpy as np

from softbio_jax.data.loading import PADDING
from softbio_jax.data.sampling import Stream


class Slice:
    """Step s -> positions s B + p b + [0, b) of the global stream, b = B / P.

    Args:
      batch_size: the global batch size B.
      process_index: the process p.
      process_count: the number of processes P.
    """

    def __init__(self, batch_size: int, process_index: int, process_count: int):
        self._batch_size = batch_size
        local = batch_size // process_count
        self._offsets = np.arange(process_index * local, (process_index + 1) * local)

    def positions(self, step: int) -> np.ndarray:
        """Lists the positions (b,) int64 of this process at a step."""
        return step * self._batch_size + self._offsets


class TrainRows(Slice):
    """Step -> the examples (b,) that an endless stream has at this process' positions."""

    def __init__(self, stream: Stream, batch_size: int, process_index: int, process_count: int):
        super().__init__(batch_size, process_index, process_count)
        self._stream = stream

    def __call__(self, step: int) -> np.ndarray:
        return self._stream[self.positions(step)]


class EvalRows(Slice):
    """Step -> the examples (b,) at this process' positions, PADDING past the last of N."""

    def __init__(self, size: int, batch_size: int, process_index: int, process_count: int):
        super().__init__(batch_size, process_index, process_count)
        self._size = size

    def __call__(self, step: int) -> np.ndarray:
        positions = self.positions(step)
        return np.where(positions < self._size, positions, np.int64(PADDING))
