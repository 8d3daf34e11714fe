"""The sample stream as row numbers alone, where nothing has to be decoded."""

from typing import Any, Self

import numpy as np

from softbio_jax.data import samplers
from softbio_jax.data.sampling import Stream, check_stream, digest_of
from softbio_jax.data.slices import TrainRows
from softbio_jax.train.build import Parts
from softbio_jax.train.data import RunData


class RowBatches:
    """An endless iterator over batches of `row` (B,), numbers in the concatenation of the training
    sets, and `index` (B,), positions in the global stream: the order is that of the pictures.

    Args:
      run: the parts of a run of one process.
      data: its data sets.
    """

    def __init__(self, run: Parts, data: RunData):
        self.sampler = samplers.make(**run.config.data.sampler)(data.train, run.config.seed)
        batch = run.config.train.batch_size
        self._rows = TrainRows(Stream(self.sampler), batch, 0, 1)
        prints = [dataset.fingerprint for dataset in data.train]
        self._stream = digest_of("rows", self.sampler.digest(), batch, *prints)
        self._step = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = {"row": self._rows(self._step), "index": self._rows.positions(self._step)}
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Tells where the stream stands, in JSON's types."""
        return {"step": self._step, "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken.

        Raises:
          UserError: the state belongs to another stream (data, seed, sampler or batch size).
        """
        check_stream(str(state["stream"]), self._stream)
        self._step = int(state["step"])

    def close(self) -> None:
        """Does nothing: no one reads ahead."""
