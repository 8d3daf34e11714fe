"""Several optimizer steps on a feature table in one dispatch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from softbio_jax import parallel
from softbio_jax.params.paths import Tree
from softbio_jax.train import feature_table
from softbio_jax.train.feature_table import Table
from softbio_jax.train.state import TrainState
from softbio_jax.train.step import Metrics, TrainStep

# (state, frozen, table, rows (S, B), positions (S, B), count (), key) -> (state, metrics (S, ...))
Steps = Callable[
    [TrainState, Tree, Table, jax.Array, jax.Array, jax.Array, jax.Array],
    tuple[TrainState, Metrics],
]


def make_steps(step: TrainStep, tasks: Sequence[str], mesh: Mesh) -> Steps:
    """Returns a function that does the first `count` of S steps, to be jitted with state donated.

    Args:
      step: what is done with the batch of one step.
      tasks: whose labels it is given.
      mesh: over which batches are split.
    """

    def steps(
        state: TrainState, frozen: Tree, table: Table, rows: jax.Array, index: jax.Array,
        count: jax.Array, key: jax.Array,
    ) -> tuple[TrainState, Metrics]:  # fmt: skip
        view_key, _ = jax.random.split(key)  # augmentation's, which has no other use here

        def one(state: TrainState, i: jax.Array) -> tuple[TrainState, Metrics]:
            batch = feature_table.gather(table, rows[i], index[i], view_key, tasks=tasks)
            batch = jax.lax.with_sharding_constraint(batch, parallel.batch_sharding(mesh))
            return step(state, frozen, batch, key)

        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            state, new = one(state, i)
            return state, {name: metrics[name].at[i].set(new[name]) for name in metrics}

        _, shapes = jax.eval_shape(one, state, jnp.int32(0))
        metrics = {
            name: jnp.zeros((rows.shape[0], *leaf.shape), leaf.dtype)
            for name, leaf in shapes.items()
        }
        # Not a scan: the last steps before a checkpoint are fewer, and compile no second time.
        done: tuple[TrainState, Metrics] = jax.lax.fori_loop(0, count, body, (state, metrics))
        return done

    return steps


def place(
    batches: Sequence[Mapping[str, np.ndarray]], length: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Puts the rows and positions of some batches on the devices.

    Args:
      batches: up to S of them, with row and index (B,) each.
      length: S; what is missing of it is filled up.
      mesh: over which each batch is split.

    Returns:
      rows (S, B) int32, positions (S, B) int32, and how many batches there are, ().
    """
    placed = []
    for name in ("row", "index"):
        values = np.zeros((length, len(batches[0][name])), np.int32)
        values[: len(batches)] = [batch[name] for batch in batches]
        placed.append(jax.device_put(values, parallel.batch_sharding(mesh, axis=1)))
    return placed[0], placed[1], jnp.int32(len(batches))


def each(metrics: Metrics, count: int) -> list[Metrics]:
    """Returns the metrics of each of the first `count` steps, without waiting for any."""
    return [
        {name: cast(jax.Array, _Element(values, i)) for name, values in metrics.items()}
        for i in range(count)
    ]


class _Element:
    """An entry of an array that may still be computed: a scalar that costs no dispatch."""

    def __init__(self, values: jax.Array, i: int):
        self._values, self._i = values, i

    def block_until_ready(self) -> "_Element":
        self._values.block_until_ready()
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.asarray(self._values)[self._i].astype(dtype or self._values.dtype)

    def __float__(self) -> float:
        return float(self.__array__())

    def __int__(self) -> int:
        return int(self.__array__())
