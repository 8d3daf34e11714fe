"""The sample stream as row numbers alone, where nothing has to be decoded."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from softbio_jax import parallel
from softbio_jax.data import sampling
from softbio_jax.data.pipeline import Slice
from softbio_jax.data.sampling import Stream, check_stream, digest_of
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.runs.build import Parts
from softbio_jax.runs.data import RunData
from softbio_jax.tasks import MISSING
from softbio_jax.train.probing.features import Features

Table = Mapping[str, jax.Array]  # feature (V, N, D), labels/{task} (N,), MISSING where unknown


def training_table(
    parts: Sequence[tuple[PreparedDataset, Features]], tasks: Sequence[str], mesh: Mesh
) -> Table:
    """Puts the training sets, one after the other, on every device.

    Args:
      parts: each set with its features (V, N_i, D).
      tasks: whose labels.
      mesh: the devices.

    Returns:
      feature (V, N, D) and labels/{task} (N,), N the sum of all N_i.
    """
    values = [features.values for _, features in parts]
    table = {"feature": values[0] if len(values) == 1 else np.concatenate(values, axis=1)}
    for task in tasks:
        columns = [labels_of(dataset, features, task) for dataset, features in parts]
        table[f"labels/{task}"] = np.concatenate(columns)
    placed: Table = parallel.replicate(table, mesh)
    return placed


def labels_of(dataset: PreparedDataset, features: Features, task: str) -> np.ndarray:
    """Returns a task's labels, MISSING also where the picture could not be decoded.

    Args:
      dataset: N examples.
      features: which of them were decoded.
      task: its name.

    Returns:
      (N,) int32.
    """
    missing = np.full(len(dataset), MISSING, np.int32)
    return np.where(features.decoded, dataset.labels.get(task, missing), np.int32(MISSING))


def gather(
    table: Table, rows: jax.Array, index: jax.Array, key: jax.Array, *, tasks: Sequence[str]
) -> dict[str, jax.Array]:
    """Returns the batch of some rows: feature (B, D), labels and masks.

    Each position of the stream draws its view, so that a row that an epoch holds many times comes
    in many views.

    Args:
      table: features and labels.
      rows: (B,) rows of the table.
      index: (B,) positions in the global stream.
      key: of the run.
      tasks: which tasks.
    """
    views = table["feature"].shape[0]

    def draw(position: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, position.astype(jnp.uint32))
        return jax.random.randint(own, (), 0, views)

    view = jax.vmap(draw)(index) if views > 1 else jnp.zeros_like(rows)
    batch = {"feature": table["feature"][view, rows]}
    for task in tasks:
        batch[f"labels/{task}"] = labels = table[f"labels/{task}"][rows]
        batch[f"mask/{task}"] = labels != MISSING
    return batch


def blocks(values: np.ndarray, size: int, *, fill: int = 0) -> np.ndarray:
    """Cuts rows into blocks.

    Args:
      values: (N, ...).
      size: rows in a block.
      fill: what the last block is filled up with.

    Returns:
      (ceil(N / size), size, ...).
    """
    count = -(-len(values) // size)
    padded = np.full((count * size, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded.reshape(count, size, *values.shape[1:])


class RowBatches:
    """An endless iterator over batches of `row` (B,), numbers in the concatenation of the training
    sets, and `index` (B,), positions in the global stream: the order is that of the pictures.

    Args:
      run: the parts of a run of one process.
      data: its data sets.
    """

    def __init__(self, run: Parts, data: RunData):
        self.sampler = sampling.make(**run.config.data.sampler)(data.train, run.config.seed)
        batch = run.config.train.batch_size
        self._rows, self._slice = Stream(self.sampler), Slice(batch)
        prints = [dataset.fingerprint for dataset in data.train]
        self._stream = digest_of("rows", self.sampler.digest(), batch, *prints)
        self._step = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        positions = self._slice.positions(self._step)
        batch = {"row": self._rows[positions], "index": positions}
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
