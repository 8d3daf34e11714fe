"""A run whose tower is frozen: its heads trained on features that were computed before."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from softbio_jax import parallel
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.evaluation.collect import Outputs
from softbio_jax.models.flops import matmul_flops
from softbio_jax.params import Tree
from softbio_jax.runs import build
from softbio_jax.runs.build import Parts
from softbio_jax.runs.data import RunData
from softbio_jax.runs.session import Session
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import Metrics, TrainStep
from softbio_jax.train.probing import table
from softbio_jax.train.probing import table as table_lib
from softbio_jax.train.probing.features import FeatureExtractor, Features, Say, check_cacheable
from softbio_jax.train.probing.table import Table

# (state, frozen, table, rows (S, B), positions (S, B), count (), key) -> (state, metrics (S, ...))
Steps = Callable[
    [TrainState, Tree, Table, jax.Array, jax.Array, jax.Array, jax.Array], tuple[TrainState, Metrics]
]


def make_steps(step: TrainStep, tasks: Sequence[str], mesh: Mesh) -> Steps:
    """Returns a function that does the first `count` of S steps, to be jitted with state donated.

    Args:
      step: what is done with the batch of one step.
      tasks: whose labels it is given.
      mesh: over which batches are split.
    """

    def steps(
        state: TrainState,
        frozen: Tree,
        table: Table,
        rows: jax.Array,
        index: jax.Array,
        count: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        view_key, _ = jax.random.split(key)  # augmentation's, which has no other use here

        def one(state: TrainState, i: jax.Array) -> tuple[TrainState, Metrics]:
            batch = table_lib.gather(table, rows[i], index[i], view_key, tasks=tasks)
            batch = jax.lax.with_sharding_constraint(batch, parallel.batch_sharding(mesh))
            return step(state, frozen, batch, key)

        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            state, new = one(state, i)
            return state, {name: metrics[name].at[i].set(new[name]) for name in metrics}

        _, shapes = jax.eval_shape(one, state, jnp.int32(0))
        metrics = {name: jnp.zeros((rows.shape[0], *leaf.shape), leaf.dtype) for name, leaf in shapes.items()}
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
        {name: cast(jax.Array, _Element(values, i)) for name, values in metrics.items()} for i in range(count)
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


_MOST_STEPS = 64  # of a dispatch


class CachedSession(Session):
    """A session that trains on rows of a feature table, several steps a dispatch.

    A step is `make_train_step`'s own, from the features on. Validation sets come from features as
    well, any other data set goes through the tower. `held` are those features by fingerprint, in
    blocks (M, b, D), and their labels {task: (N,)}.

    Args:
      run: the parts of the run.
      devices: which devices; None: all of them.

    Raises:
      UserError: the method trains something below the heads.
    """

    def __init__(self, run: Parts, *, devices: Sequence[jax.Device] | None = None):
        check_cacheable(run)
        super().__init__(run, devices=devices)
        # From log to log: a line is then about steps that have been done.
        self.length = min(run.config.train.log_every or _MOST_STEPS, _MOST_STEPS)
        self._pending: list[Mapping[str, np.ndarray]] = []
        self._table: Table = {}
        self.held: dict[str, tuple[jax.Array, dict[str, np.ndarray]]] = {}
        # The model looks its projection up even where only the heads run.
        self._proj = {"proj": self._frozen["proj"]} if "proj" in self._frozen else {}
        self._classify = jax.jit(self._logits, out_shardings=parallel.replicated(self.mesh))

    def cache(
        self,
        data: RunData,
        root: pathlib.Path,
        *,
        say: Say = print,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Computes, or reads, the features of the training and the validation rows.

        Args:
          data: the run's data sets.
          root: where features are kept.
          say: takes lines of progress.
          between: called before every batch; it may raise to end the pass.
        """
        extract = FeatureExtractor(self.run, self._frozen, base=self.base, mesh=self.mesh, root=root)

        def features(dataset: PreparedDataset, role: str, views: int) -> Features:
            name = f"{role}/{dataset.name}/{dataset.split}"
            return extract(dataset, views=views, name=name, say=say, between=between)

        views = self.run.config.train.cache_views
        self.hold(
            [(dataset, features(dataset, "train", views)) for dataset in data.train],
            [(dataset, features(dataset, "val", 1)) for dataset in data.val],
        )

    def hold(
        self,
        train: Sequence[tuple[PreparedDataset, Features]],
        val: Sequence[tuple[PreparedDataset, Features]] = (),
    ) -> None:
        """Puts features on the devices: of the training sets in every view, of the validation
        sets as they are."""
        tasks, size = self.run.config.tasks, self.run.config.train.eval_batch_size
        self._table = table.training_table(train, tasks, self.mesh)
        for dataset, found in val:
            values = parallel.replicate(table.blocks(found.values[0], size), self.mesh)
            labels = {task: table.labels_of(dataset, found, task) for task in tasks}
            self.held[dataset.fingerprint] = (values, labels)

    def compile(self) -> int:
        """Compiles the training steps; see `Session.compile`."""
        config, whole = self.run.config, parallel.replicated(self.mesh)
        shape = jax.ShapeDtypeStruct(
            (self.length, config.train.batch_size),
            jnp.int32,
            sharding=parallel.batch_sharding(self.mesh, axis=1),
        )
        laid_out = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        jitted = jax.jit(
            make_steps(self._make_step(), config.tasks, self.mesh),
            donate_argnums=0,
            out_shardings=(laid_out, whole),
        )
        with jax.default_matmul_precision(config.compute.matmul_precision):
            traced = jitted.trace(self.state, self._proj, self._table, shape, shape, jnp.int32(0), self._key)
            self._compiled = traced.lower().compile()
        return matmul_flops(traced.jaxpr)  # a loop without a fixed length counts once

    def push(self, batch: Mapping[str, np.ndarray]) -> list[Metrics]:
        """Takes in the rows of one more step; sets those that wait off when they are enough."""
        self._pending.append(batch)
        return self.drain() if len(self._pending) == self.length else []

    def drain(self) -> list[Metrics]:
        """Sets the steps that wait off and returns their metrics, without waiting for them."""
        batches, self._pending = self._pending, []
        if not batches:
            return []
        self.state, metrics = self._compiled(
            self.state, self._proj, self._table, *place(batches, self.length, self.mesh), self._key
        )
        return each(metrics, len(batches))

    def predict(
        self,
        dataset: PreparedDataset,
        *,
        feature_rows: np.ndarray | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Outputs:
        """See `Session.predict`."""
        held = self.held.get(dataset.fingerprint)
        if held is None or feature_rows is not None:
            return super().predict(dataset, feature_rows=feature_rows, between=between)
        between()
        values, labels = held
        with jax.default_matmul_precision(self.run.config.compute.matmul_precision):
            logits = jax.device_get(self._classify(self.state, self._proj, values))
        flat = {task: found.reshape(-1, found.shape[-1]) for task, found in logits.items()}
        return Outputs(logits={task: found[: len(dataset)] for task, found in flat.items()}, labels=labels)

    def _make_step(self) -> TrainStep:
        return build.train_step(self.run)

    def _logits(self, state: TrainState, proj: Tree, values: jax.Array) -> dict[str, jax.Array]:
        """Maps blocks of features (M, b, D) to logits {task: (M, b, C)}."""
        variables = {"params": state.trainable | proj, "batch_stats": state.batch_stats}

        def classify(block: jax.Array) -> dict[str, jax.Array]:
            features = dict.fromkeys(self.run.config.tasks, block)
            logits = self.run.model.apply(variables, features, method="classify")
            return cast(dict[str, jax.Array], logits)

        found: dict[str, jax.Array] = jax.lax.map(classify, values)
        return found
