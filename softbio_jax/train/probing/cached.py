"""Training the heads of a frozen encoder on cached features, many steps per dispatch."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from softbio_jax.console import QUIET, Console
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.models.forward import Logits, classify
from softbio_jax.params import Tree
from softbio_jax.runs import parallel
from softbio_jax.runs.build import Run
from softbio_jax.runs.data import RunData
from softbio_jax.runs.optimizer import evaluated
from softbio_jax.runs.session import CompiledStep, Outputs, Session, train_step
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import Metrics, TrainStep
from softbio_jax.train.probing import table as tables
from softbio_jax.train.probing.features import FeatureExtractor, Features, check_cacheable
from softbio_jax.train.probing.table import FeatureTable, RowBatches

# (state, frozen, table, rows (S, B), positions (S, B), count (), key) -> (state, metrics (S, ...))
Steps = Callable[
    [TrainState, Tree, FeatureTable, jax.Array, jax.Array, jax.Array, jax.Array], tuple[TrainState, Metrics]
]
_MAX_STEPS = 64  # per dispatch


class CachedSession(Session):
    """A session that trains on rows of a feature table, several steps per dispatch.

    A step is that of `make_train_step`, from the features on. Validation sets are read from cached
    features too, unless predictions are averaged over mirror images; other data sets go through the
    encoder. `held` maps the fingerprint of each validation set to its features in blocks (M, b, D) and
    its labels {task: (N,)}.

    Args:
      run: what is trained.
      devices: the devices to use; None: all.

    Raises:
      UserError: the method trains parameters below the heads.
    """

    caches = True

    def __init__(self, run: Run, *, devices: Sequence[jax.Device] | None = None):
        check_cacheable(run)
        super().__init__(run, devices=devices)
        # A dispatch reaches from one log line to the next, so that a line reports completed steps.
        self.length = min(run.config.train.log_every or _MAX_STEPS, _MAX_STEPS)
        self._pending: list[Mapping[str, np.ndarray]] = []
        self._table: FeatureTable = {}
        self.held: dict[str, tuple[jax.Array, dict[str, np.ndarray]]] = {}
        # The model reads its projection even where only the heads run.
        self._proj = {"proj": self._frozen["proj"]} if "proj" in self._frozen else {}
        self._classify = jax.jit(self._logits, out_shardings=parallel.replicated(self.mesh))

    def batches(self, data: RunData) -> RowBatches:
        """Returns the stream of the rows, in the order of the images' batches."""
        return RowBatches(self.run.config, data)

    def cache(self, data: RunData, root: pathlib.Path, *, console: Console = QUIET) -> None:
        """Computes, or reads, the features of the training and validation rows.

        Args:
          data: the run's data sets.
          root: folder of the feature stores.
          console: shows progress; checked before every batch.
        """
        extract = FeatureExtractor(self.run, self._frozen, base=self.base, mesh=self.mesh, root=root)

        def features(dataset: PreparedDataset, role: str, views: int) -> Features:
            name = f"{role}/{dataset.name}/{dataset.split}"
            return extract(dataset, views=views, name=name, console=console)

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
        """Places features on the devices: every view of training sets, the plain view of others."""
        self._table = tables.training_table(train, self.run.config.tasks, self.mesh)
        self.hold_validation(val)

    def hold_validation(self, val: Sequence[tuple[PreparedDataset, Features]]) -> None:
        """Places the plain view of validation sets on the devices."""
        tasks, size = self.run.config.tasks, self.run.config.train.eval_batch_size
        for dataset, found in val:
            values = parallel.replicate(tables.blocks(found.values[0], size), self.mesh)
            labels = {task: tables.labels_of(dataset, found, task) for task in tasks}
            self.held[dataset.fingerprint] = (values, labels)

    def compile(self, compiled: CompiledStep | None = None) -> Any:
        """Compiles the training steps; see `Session.compile`. A loop's body counts once in the jaxpr.

        Args:
          compiled: not used: that step has the encoder, these have its cached features.
        """
        del compiled
        config, everywhere = self.run.config, parallel.replicated(self.mesh)
        shape = jax.ShapeDtypeStruct(
            (self.length, config.train.batch_size),
            jnp.int32,
            sharding=parallel.batch_sharding(self.mesh, axis=1),
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        steps = make_steps(self._make_step(), config.tasks, self.mesh)
        jitted = jax.jit(steps, donate_argnums=0, out_shardings=(shardings, everywhere))
        with jax.default_matmul_precision(config.compute.matmul_precision):
            traced = jitted.trace(self.state, self._proj, self._table, shape, shape, jnp.int32(0), self._key)
            self._compiled = traced.lower().compile()
        return traced.jaxpr

    def push(self, batch: Mapping[str, np.ndarray]) -> list[Metrics]:
        """Queues the rows of one step, and runs the queue when it is full."""
        self._pending.append(batch)
        return self.drain() if len(self._pending) == self.length else []

    def drain(self) -> list[Metrics]:
        """Runs the queued steps and returns their metrics, without waiting for them."""
        batches, self._pending = self._pending, []
        if not batches:
            return []
        self.state, metrics = self._compiled(
            self.state, self._proj, self._table, *place(batches, self.length, self.mesh), self._key
        )
        return per_step(metrics, len(batches))

    def predict(
        self, dataset: PreparedDataset, *, feature_rows: np.ndarray | None = None, console: Console = QUIET
    ) -> Outputs:
        """See `Session.predict`."""
        held = self.held.get(dataset.fingerprint)
        if held is None or feature_rows is not None or self.run.model.flip_average:  # no mirror image is held
            return super().predict(dataset, feature_rows=feature_rows, console=console)
        console.check()
        values, labels = held
        with jax.default_matmul_precision(self.run.config.compute.matmul_precision):
            logits = jax.device_get(self._classify(self.state, self._proj, values))
        flat = {task: found.reshape(-1, found.shape[-1]) for task, found in logits.items()}
        return Outputs(logits={task: found[: len(dataset)] for task, found in flat.items()}, labels=labels)

    def _make_step(self) -> TrainStep:
        return train_step(self.run)

    def _logits(self, state: TrainState, proj: Tree, values: jax.Array) -> Logits:
        """Maps blocks of features (M, b, D) to logits {task: (M, b, C)}."""
        variables = {"params": evaluated(state) | proj, "batch_stats": state.batch_stats}

        def block_logits(block: jax.Array) -> Logits:
            return classify(self.run.model, variables, dict.fromkeys(self.run.config.tasks, block))

        found: Logits = jax.lax.map(block_logits, values)
        return found


def session_of(run: Run) -> Session:
    """Returns the session that trains a run.

    It trains on images, on cached features by steps or by lbfgs, or with a teacher's cached outputs.
    """
    if run.config.train.cache_features:
        if run.config.optimizer.name == "lbfgs":
            from softbio_jax.train.probing.logistic import LogisticSession

            return LogisticSession(run)
        return CachedSession(run)
    if run.teacher is not None and run.config.distill.targets == "cached":
        from softbio_jax.train.distillation.targets import TargetSession

        return TargetSession(run)
    return Session(run)


def make_steps(step: TrainStep, tasks: Sequence[str], mesh: Mesh) -> Steps:
    """Returns a function that runs the first `count` of S steps, to be jitted with state donated.

    Args:
      step: one optimizer step.
      tasks: names of the tasks.
      mesh: devices over which batches are sharded.
    """

    def steps(
        state: TrainState,
        frozen: Tree,
        table: FeatureTable,
        rows: jax.Array,
        index: jax.Array,
        count: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        view_key, _ = jax.random.split(key)  # the augmentation key, otherwise unused here

        def one(state: TrainState, i: jax.Array) -> tuple[TrainState, Metrics]:
            batch = tables.gather(table, rows[i], index[i], view_key, tasks=tasks)
            batch = jax.lax.with_sharding_constraint(batch, parallel.batch_sharding(mesh))
            return step(state, frozen, batch, key)

        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = carry
            state, new = one(state, i)
            return state, {name: metrics[name].at[i].set(new[name]) for name in metrics}

        _, shapes = jax.eval_shape(one, state, jnp.int32(0))
        metrics = {name: jnp.zeros((rows.shape[0], *leaf.shape), leaf.dtype) for name, leaf in shapes.items()}
        # Not a scan: fewer steps precede a checkpoint, and must not compile again.
        done: tuple[TrainState, Metrics] = jax.lax.fori_loop(0, count, body, (state, metrics))
        return done

    return steps


def place(
    batches: Sequence[Mapping[str, np.ndarray]], length: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Places the rows and positions of up to S batches on the devices.

    Args:
      batches: with row and index (B,) each.
      length: S; shorter lists are padded.
      mesh: devices over which each batch is sharded.

    Returns:
      rows (S, B) int32, positions (S, B) int32, and the number of batches ().
    """
    placed = []
    for name in ("row", "index"):
        values = np.zeros((length, len(batches[0][name])), np.int32)
        values[: len(batches)] = [batch[name] for batch in batches]
        placed.append(jax.device_put(values, parallel.batch_sharding(mesh, axis=1)))
    return placed[0], placed[1], jnp.int32(len(batches))


def per_step(metrics: Metrics, count: int) -> list[Metrics]:
    """Returns the metrics of each of the first `count` steps, without waiting for any."""
    return [
        {name: cast(jax.Array, _Element(values, i)) for name, values in metrics.items()} for i in range(count)
    ]


class _Element:
    """One entry of an array that may still be computed, without a dispatch of its own."""

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
