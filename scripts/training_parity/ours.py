"""This package's side: its own train step, with what the optimizer receives kept beside its state."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from softbio_jax.adapters.methods import FROZEN
from softbio_jax.checkpoints import leaves
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.data.augment import OFF
from softbio_jax.params import Tree, combine, flatten, unflatten
from softbio_jax.runs import state as states
from softbio_jax.runs.optimizer import effective_rates
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import StepConfig, make_train_step
from training_parity import float64
from training_parity.batches import Batch
from training_parity.case import Case, Start
from training_parity.masks import Masks, drawer
from training_parity.record import Arrays, Record


class Ours:
    """A run of `runs.step` in float32 or float64, a record per step.

    Args:
      case: what is trained.
      start: the state before the first step.
      dtype: "float32", or "float64" by `float64.widened`.
    """

    def __init__(self, case: Case, start: Start, *, dtype: str = "float32"):
        self.case, self.dtype = case, dtype
        config, run = case.config, case.run
        with self._types():
            self._frozen = unflatten(self._arrays(start.frozen))
            optimizer = optax.chain(_kept(), run.optimizer)
            trained = unflatten(self._arrays(start.trained))
            statistics = unflatten(self._arrays(start.statistics))
            # Counted in the width of the rates that are computed from the count.
            self.state: TrainState = jax.tree.map(_counted, states.create(trained, statistics, optimizer))
            model = float64.of_model(run.model) if dtype == "float64" else run.model
            self._key = jax.random.key(config.seed + 1)
            groups = set(run.groups.values()) - {FROZEN}
            rates = effective_rates(config.optimizer, groups, steps=config.train.steps)
            settings = StepConfig(
                augment=OFF, balancing=config.balancing, microbatches=config.train.microbatches
            )
            step = make_train_step(model, optimizer, settings, rates=rates)
            # Compiled in half the time; the sums of float64 are as good.
            options = {"xla_backend_optimization_level": 0} if dtype == "float64" else None
            self._step = jax.jit(step, compiler_options=options)
            self._masks = drawer(model, combine(trained, self._frozen), statistics, self._key)

    def masks(self, batch: Batch) -> Masks:
        """Returns the dropout masks of the next step, which is to see this batch."""
        with self._types():
            return self._masks(int(self.state.step), batch["image"])

    def step(self, batch: Batch) -> Record:
        """Takes a step and returns its record."""
        with self._types():
            self.state, metrics = self._step(self.state, self._frozen, batch, self._key)
            return self._record(jax.device_get(self.state), jax.device_get(metrics))

    def save(self, directory: pathlib.Path) -> None:
        """Writes a checkpoint as runs do."""
        with self._types():
            manager = self._manager(directory)
            manager.save(int(self.state.step), self.state, {})
            manager.wait()

    def restore(self, directory: pathlib.Path) -> None:
        """Continues from the checkpoint of `save`."""
        with self._types():
            restored = self._manager(directory).restore_newest(self.state)
            assert restored is not None, "a checkpoint was saved"
            self.state = restored.state

    def _manager(self, directory: pathlib.Path) -> CheckpointManager:
        return CheckpointManager(directory, keep=1, base=leaves.of_tree(self._frozen))

    def _record(self, state: TrainState, metrics: Mapping[str, np.ndarray]) -> Record:
        first, second = _moments(state.opt_state)
        tasks = [task for task in self.case.config.tasks if metrics[f"count/{task}"] > 0]
        prefix = "rate/"
        return Record(
            loss={task: metrics[f"loss/{task}"] for task in tasks},
            total={"total": metrics["loss/total"]},
            statistics=flatten(state.batch_stats),
            gradient={path.replace(".", "/"): leaf for path, leaf in state.opt_state[0].gradient.items()},
            norm={"norm": metrics["gradient_norm"]},
            rate={name.removeprefix(prefix): v for name, v in metrics.items() if name.startswith(prefix)},
            first_moment=first,
            second_moment=second,
            value=flatten(state.trainable),
        )

    def _arrays(self, flat: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {path: jnp.asarray(leaf, self.dtype) for path, leaf in flat.items()}

    @contextlib.contextmanager
    def _types(self) -> Iterator[None]:
        precision = self.case.config.compute.matmul_precision
        wide = float64.widened() if self.dtype == "float64" else contextlib.nullcontext()
        with wide, jax.default_matmul_precision(precision):
            yield


class _Kept(NamedTuple):
    """The last gradient {path with dots: leaf}, not nested: the step holds leaves below a task's name."""

    gradient: dict[str, jax.Array]


def _kept() -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that changes nothing and keeps the gradient in its state."""

    def init(params: Tree) -> _Kept:
        return _Kept(_dotted(jax.tree.map(jnp.zeros_like, params)))

    def update(
        updates: Tree, state: _Kept, params: Tree | None = None, **unused: object
    ) -> tuple[Tree, _Kept]:
        del state, params, unused
        return updates, _Kept(_dotted(updates))

    return optax.GradientTransformationExtraArgs(init, update)


def _dotted(tree: Tree) -> dict[str, jax.Array]:
    return {path.replace("/", "."): leaf for path, leaf in flatten(tree).items()}


def _counted(leaf: jax.Array) -> jax.Array:
    """Returns a leaf as it is, or a count in JAX's widest integers at present."""
    return leaf.astype(int) if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf


def _moments(opt_state: Any) -> tuple[Arrays, Arrays]:
    """Returns Adam's first and second moments of every leaf, whatever its group."""
    kind = optax.ScaleByAdamState
    first: Arrays = {}
    second: Arrays = {}
    for state in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind)):
        if isinstance(state, kind):
            first |= _leaves(state.mu)
            second |= _leaves(state.nu)
    return first, second


def _leaves(tree: Any) -> Arrays:
    """Returns the arrays of a tree by path; leaves of other groups are placeholders without arrays."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in found}
