"""A run on its devices: placed state, compiled steps, passes over data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from softbio_jax import parallel
from softbio_jax.checkpoints import leaves
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.evaluation import collect
from softbio_jax.evaluation.collect import Outputs
from softbio_jax.models.flops import matmul_flops
from softbio_jax.params import Tree, combine, unflatten
from softbio_jax.runs import build
from softbio_jax.runs.build import Parts
from softbio_jax.runs.data import eval_stream
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import Batch, Metrics, make_eval_step


class Session:
    """Holds a run's state on a mesh and the two compiled functions over it.

    `base` is the digest of the frozen tree, before it is narrowed.

    Args:
      run: the parts of the run.
      devices: which devices; None: all of them.
    """

    def __init__(self, run: Parts, *, devices: Sequence[jax.Device] | None = None):
        config = run.config
        self.run = run
        self.mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=devices)
        parallel.check_batch(
            config.train.batch_size,
            self.mesh,
            microbatches=config.train.microbatches,
            where="train.batch_size",
        )
        parallel.check_batch(config.train.eval_batch_size, self.mesh, where="train.eval_batch_size")
        self.state: TrainState
        self.state, frozen = build.start(run, self.mesh)
        self.base = leaves.of_tree(frozen)
        self._frozen = parallel.shard_weights(build.narrow(frozen, config), self.mesh)
        # Made by jit, so that it is on every device of every process.
        self._key = jax.jit(
            lambda: jax.random.key(config.seed + 1), out_shardings=parallel.replicated(self.mesh)
        )()
        self._compiled: Any = None
        self._forward = self._jit_forward()

    def params(self) -> Tree:
        """Returns every parameter on the host, trained and frozen; all processes must call it."""
        return unflatten(leaves.host_leaves(combine(self.state.trainable, self._frozen)))

    def compile(self) -> int:
        """Compiles the train step ahead of its first batch; it cannot be compiled again.

        Returns:
          The matrix operations of a step.
        """
        traced = trace_train_step(self.run, self.mesh, self.state, self._frozen)
        self._compiled = traced.lower().compile()
        return matmul_flops(traced.jaxpr)

    def train(self, batch: Mapping[str, np.ndarray]) -> Metrics:
        """Runs one optimizer step on this process' rows; returns without waiting for it."""
        placed = parallel.to_global(batch, self.mesh)
        self.state, metrics = self._compiled(self.state, self._frozen, placed, self._key)
        return metrics

    def push(self, batch: Mapping[str, np.ndarray]) -> list[Metrics]:
        """Takes in one more step and returns the metrics of those it set off, in order."""
        return [self.train(batch)]

    def drain(self) -> list[Metrics]:
        """Sets off the steps that were taken in and still wait; here none ever does."""
        return []

    def forward(self, batch: Batch) -> dict[str, jax.Array]:
        """Returns logits/{task}, labels/{task}, the example and the feature (B, D) of each row of
        a global batch, on every device; with task-specific features, the first task's."""
        with jax.default_matmul_precision(self.run.config.compute.matmul_precision):
            out: dict[str, jax.Array] = self._forward(self.state, self._frozen, batch)
        return out

    def predict(
        self,
        dataset: PreparedDataset,
        *,
        feature_rows: np.ndarray | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Outputs:
        """Returns every example's logits, on every process.

        Args:
          dataset: what to predict.
          feature_rows: (M,) ascending examples whose features are wanted as well.
          between: called before every batch; it may raise to end the pass.
        """
        return collect.collect(
            self.forward,
            eval_stream(self.run, dataset),
            size=len(dataset),
            tasks=self.run.config.tasks,
            mesh=self.mesh,
            feature_rows=feature_rows,
            between=between,
        )

    def _jit_forward(self) -> Any:
        step, tasks = make_eval_step(self.run.model), self.run.config.tasks

        def forward(state: TrainState, frozen: Any, batch: Batch) -> dict[str, jax.Array]:
            logits, features = step(state, frozen, batch)
            return collect.packed(batch, logits, features[tasks[0]])

        # Replicated, so that every process has every row.
        return jax.jit(forward, out_shardings=parallel.replicated(self.mesh))


def trace_train_step(run: Parts, mesh: Mesh, state: TrainState, frozen: Tree) -> jax.stages.Traced:
    """Traces the jitted train step for arrays or shapes with their shardings.

    The state is donated and comes back laid out as it went in.
    """
    config, whole = run.config, parallel.replicated(mesh)
    step = build.train_step(run)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    with jax.default_matmul_precision(config.compute.matmul_precision):
        laid_out = jax.tree.map(lambda leaf: leaf.sharding, state)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(laid_out, whole))
        return jitted.trace(state, frozen, _abstract_batch(run, mesh), key)


def _abstract_batch(run: Parts, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    size, batch = run.image_size, run.config.train.batch_size
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((batch, size, size, 3), jnp.uint8),
        "index": ((batch,), jnp.int64),
    }
    for task in run.config.tasks:
        shapes |= {f"labels/{task}": ((batch,), jnp.int32), f"mask/{task}": ((batch,), bool)}
    rows = parallel.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=rows)
        for name, (shape, dtype) in shapes.items()
    }
