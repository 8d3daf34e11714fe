"""Cached features on the devices, and the stream of their rows."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from softbio_jax.data import sampling
from softbio_jax.data.pipeline import Slice
from softbio_jax.data.sampling import Stream, check_stream, digest_of
from softbio_jax.data.sources import PreparedDataset, concatenate_targets
from softbio_jax.runs import parallel
from softbio_jax.runs.config import RunConfig
from softbio_jax.runs.data import RunData
from softbio_jax.tasks import MISSING
from softbio_jax.train.probing.features import Features

# feature (V, N, D), labels/{task} (N,), MISSING where unknown
FeatureTable = Mapping[str, jax.Array]


def training_table(
    parts: Sequence[tuple[PreparedDataset, Features]], tasks: Sequence[str], mesh: Mesh
) -> FeatureTable:
    """Replicates the training sets, one after the other, on every device.

    Args:
      parts: each set with its features (V, N_i, D).
      tasks: names of the tasks.
      mesh: the devices.

    Returns:
      feature (V, N, D) and labels/{task} (N,), with N the sum of all N_i; for partial labels also the
      U different weights, target/{task} or votes/{task} (U, K), and their numbers targets/{task} (N,).
    """
    values = [features.values for _, features in parts]
    table = {"feature": values[0] if len(values) == 1 else np.concatenate(values, axis=1)}
    for task in tasks:
        columns = [labels_of(dataset, features, task) for dataset, features in parts]
        table[f"labels/{task}"] = np.concatenate(columns)
    decoded = np.concatenate([features.decoded for _, features in parts])
    for task, targets in concatenate_targets([dataset for dataset, _ in parts], tasks).items():
        table[f"{targets.kind}/{task}"] = targets.table
        table[f"targets/{task}"] = targets.masked(decoded).index
    placed: FeatureTable = parallel.replicate(table, mesh)
    return placed


def labels_of(dataset: PreparedDataset, features: Features, task: str) -> np.ndarray:
    """Returns a task's labels (N,) int32, MISSING also where the image could not be decoded."""
    missing = np.full(len(dataset), MISSING, np.int32)
    return np.where(features.decoded, dataset.labels.get(task, missing), np.int32(MISSING))


def gather(
    table: FeatureTable, rows: jax.Array, index: jax.Array, key: jax.Array, *, tasks: Sequence[str]
) -> dict[str, jax.Array]:
    """Returns the batch of the given rows: feature (B, D), labels and masks.

    Each position of the stream draws its own view, so a row that is repeated within an epoch
    appears in several views.

    Args:
      table: features and labels.
      rows: (B,) rows of the table.
      index: (B,) positions in the global stream.
      key: of the run.
      tasks: names of the tasks.
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
        if f"targets/{task}" in table:
            weights = table[f"targets/{task}"][rows]
            batch[f"mask/{task}"] = weights != 0  # row 0 is no label
            kind = next(kind for kind in ("target", "votes") if f"{kind}/{task}" in table)
            batch[f"{kind}/{task}"] = table[f"{kind}/{task}"][weights]
    return batch


def blocks(values: np.ndarray, size: int, *, fill: int = 0) -> np.ndarray:
    """Splits values (N, ...) into blocks (ceil(N / size), size, ...), the last padded with `fill`."""
    count = -(-len(values) // size)
    padded = np.full((count * size, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded.reshape(count, size, *values.shape[1:])


class RowBatches:
    """An endless iterator over batches of `row` (B,) and `index` (B,).

    Rows count through the concatenated training sets, and index is the position in the global
    stream. The order is the same as that of image batches.

    Args:
      config: of a run of one process.
      data: its data sets.
    """

    def __init__(self, config: RunConfig, data: RunData):
        self.sampler = sampling.make(**config.data.sampler)(data.train, config.seed)
        batch = config.train.batch_size
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
        """Returns the position of the stream as JSON values."""
        return {"step": self._step, "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes where `state` was taken.

        Raises:
          UserError: the state belongs to another stream (data, seed, sampler or batch size).
        """
        check_stream(str(state["stream"]), self._stream)
        self._step = int(state["step"])

    def close(self) -> None:
        """Does nothing: no thread reads ahead."""
