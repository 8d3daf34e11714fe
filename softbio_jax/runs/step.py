"""One optimizer step: augmentation, forward pass, masked losses, balancing, update."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from softbio_jax.data.augment import AugmentConfig, augment
from softbio_jax.losses import balancing, partial
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.losses.masked import MaskedMean, cross_entropy, masked_mean
from softbio_jax.models.forward import Features, Logits, classify_in_training, encode
from softbio_jax.models.multitask import MultitaskModel, by_class
from softbio_jax.params import Tree, combine
from softbio_jax.runs import parallel
from softbio_jax.runs.optimizer import EffectiveRates
from softbio_jax.runs.state import ScaledState, TrainState, with_loss_scale
from softbio_jax.tasks import AGE, MISSING, NUM_YEARS, TASKS

if TYPE_CHECKING:
    from softbio_jax.losses.distillation import Distillation
    from softbio_jax.runs.build import Run

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
_T = TypeVar("_T")
TrainStep = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Settings of a step besides the model and the optimizer."""

    augment: AugmentConfig
    balancing: BalancingConfig
    microbatches: int = 1
    smoothing: float = 0.0  # of labels
    distillation: Distillation | None = None  # adds the teacher's outputs in a batch to the losses


class _Auxiliary(NamedTuple):
    """Outputs of the objective besides the loss to differentiate."""

    total: jax.Array  # (), not scaled
    losses: dict[str, MaskedMean]
    taught: Metrics  # of what the losses are made, with a teacher
    weights: dict[str, jax.Array]  # of each task's loss, ()
    logits: Logits
    batch_stats: Tree


def make_train_step(
    model: MultitaskModel,
    optimizer: optax.GradientTransformationExtraArgs,
    config: StepConfig,
    *,
    rates: EffectiveRates | None = None,
) -> TrainStep:
    """Returns (state, frozen, batch, key) -> (state, metrics), to be jitted with state donated.

    Loss sums and counts, batch statistics and gradients are those of the global batch: the batch
    arrives sharded over its first axis and jit does the rest. A step whose loss, gradient or result
    (parameters, moments, log-variances, statistics) is not finite is skipped. The
    parameters and moments of a task without a label in the global batch do not change, not even by
    weight decay.

    With a `ScaledState` the loss is differentiated times its scale. A step whose gradient overflows by
    the scale alone is skipped as well, but counted apart.

    Args:
      model: encoder and heads.
      optimizer: of the trainable tree.
      config: augmentation, balancing, microbatches, distillation.
      rates: see `effective_rates`; adds rate/{group} to the metrics.

    Returns:
      A function of the state, the frozen tree, the batch and the run's key. The batch holds image
      (B, H, W, 3) uint8 and index (B,), or instead of both feature (B, D) of a frozen encoder, and
      labels/{task} and mask/{task} (B,); for partial labels also target/{task} or votes/{task}, see
      `task_losses`. An image of float32 is augmented already. With distillation the batch holds the
      teacher's outputs, see `Distillation`.
    """
    tasks = [task.name for task in model.tasks]

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(key)
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        # Cached features: nothing below the heads is trained.
        images = None
        if "image" in batch and batch["image"].dtype != jnp.uint8:
            images = batch["image"]
        elif "image" in batch:
            with jax.named_scope("augment"):
                images = augment(
                    batch["image"], augment_key, batch["index"], config=config.augment, mean=model.config.mean
                )

        scaler = state.loss_scale if isinstance(state, ScaledState) else None

        def objective(trainable: Tree) -> tuple[jax.Array, _Auxiliary]:
            params = combine(trainable, frozen)
            if images is None:
                features = dict.fromkeys(tasks, batch["feature"])
            else:
                features = _encode(model, params, images, dropout_key, config.microbatches)
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, stats = classify_in_training(model, variables, features, dropout_key)
            with jax.named_scope("loss"):
                losses = task_losses(logits, batch, tasks, smoothing=config.smoothing)
                logits = by_class(logits)
                taught: Metrics = {}
                if config.distillation is not None:
                    losses, taught = config.distillation.losses(losses, logits, batch)
                means = balancing.update_means(state.batch_stats.get("balance", {}), losses, config.balancing)
                if means:  # a running statistic like the heads' own
                    stats = stats | {"balance": means}
                total, weights = balancing.total(losses, params.get("balance", {}), config.balancing, means)
                if config.distillation is not None and "distill" in params:
                    taught["teacher/feature"] = config.distillation.feature_term(
                        features, params["distill"]["projection"], batch
                    )
                    total += taught["teacher/feature"]
            scaled = total if scaler is None else total * scaler.scale
            return scaled, _Auxiliary(total, losses, taught, weights, logits, stats)

        (_, found), gradient = jax.value_and_grad(objective, has_aux=True)(state.trainable)
        with jax.named_scope("optimizer"):
            if scaler is not None:
                gradient = scaler.unscaled(gradient)
            norm = optax.tree.norm(gradient)
            checks = {"loss": jnp.isfinite(found.total), "gradient": jnp.isfinite(norm)}
            finite = checks["loss"] & checks["gradient"]

            updates, opt_state = optimizer.update(
                gradient, state.opt_state, state.trainable, rate_scale=state.rate_scale
            )
            new = dataclasses.replace(
                state,
                trainable=optax.apply_updates(state.trainable, updates),
                opt_state=opt_state,
                batch_stats=found.batch_stats,
            )
            new = _hold(state, new, {task: found.losses[task].present for task in tasks})
            # A finite gradient can make an update that is not, as where Adam divides by zero.
            finite &= _all_finite(new)
            new = jax.tree.map(lambda a, b: jnp.where(finite, b, a), state, new)
        overflow = False if scaler is None else scaler.overflowed(**checks)
        skipped = jnp.where(finite | overflow, 0, state.skipped + 1)
        new = dataclasses.replace(new, step=state.step + 1, skipped=skipped)

        metrics = {"loss/total": found.total, "gradient_norm": norm, "skipped": skipped}
        if scaler is not None:
            scaler = scaler.after(**checks)
            new = with_loss_scale(new, scaler)
            metrics |= {"loss_scale": scaler.scale, "overflows": scaler.overflows}
        if rates is not None:  # those of this update
            of_groups = rates(state.opt_state, state.rate_scale)
            metrics |= {f"rate/{group}": rate for group, rate in of_groups.items()}
        metrics |= _task_metrics(found, batch, tasks) | found.taught
        for task, leaves in new.trainable.get("balance", {}).items():  # log_var
            metrics |= {f"{name}/{task}": leaf for name, leaf in leaves.items()}
        return new, metrics

    return train_step


def task_losses(
    logits: Logits, batch: Batch, tasks: Sequence[str], *, smoothing: float = 0.0
) -> dict[str, MaskedMean]:
    """Returns each task's loss over its labelled examples of the global batch.

    It is the cross-entropy of labels/{task}, unless the batch has target/{task}, the weights of a set (see
    `set_likelihood`), or votes/{task} (see `soft_cross_entropy`), (B, K) each.

    Args:
      logits: {task: (B, C)}, of age (B, 101) with a head of years.
      batch: labels/{task} and mask/{task} (B,).
      tasks: which of them.
      smoothing: see `smoothed`.
    """
    losses, classes = {}, by_class(logits)
    for task in tasks:
        mask = batch[f"mask/{task}"]
        if f"target/{task}" in batch:
            weights = partial.fitted(batch[f"target/{task}"], logits[task].shape[-1])
            mask = mask & (weights.max(-1) > weights.min(-1))  # the set of all classes says nothing
            values = partial.set_likelihood(logits[task], weights, mask)
        elif f"votes/{task}" in batch:
            values = partial.soft_cross_entropy(logits[task], batch[f"votes/{task}"], mask)
        else:
            values = cross_entropy(classes[task], batch[f"labels/{task}"], mask)
        if smoothing:
            values = partial.smoothed(values, logits[task], mask, smoothing)
        losses[task] = masked_mean(values, mask)
    return losses


def _encode(
    model: MultitaskModel, params: Tree, images: jax.Array, key: jax.Array, microbatches: int
) -> Features:
    """Runs the encoder over microbatches and keeps only their features.

    The heads, losses and batch statistics see the whole batch, and the encoder's dropout is drawn
    per row of it, so accumulation is exact.
    """

    def encode_part(images: jax.Array, rows: jax.Array) -> Features:
        return encode(model, params, images, rows=rows, dropout_key=key)

    rows = jnp.arange(len(images))
    return in_parts(
        encode_part if microbatches == 1 else jax.checkpoint(encode_part), (images, rows), microbatches
    )


def in_parts(function: Callable[..., _T], arrays: Sequence[jax.Array], parts: int) -> _T:
    """Returns function(*arrays) of arrays (B, ...), computed for B / M rows at a time."""
    if parts == 1:
        return function(*arrays)
    # Strided, so that every device keeps its own rows: microbatch m holds rows m, m + M, ...
    split = jax.tree.map(lambda t: t.reshape(-1, parts, *t.shape[1:]).swapaxes(0, 1), tuple(arrays))
    found = jax.lax.map(lambda part: function(*part), split)
    joined: _T = jax.tree.map(lambda f: f.swapaxes(0, 1).reshape(-1, f.shape[-1]), found)
    return joined


def _task_metrics(found: _Auxiliary, batch: Batch, tasks: Sequence[str]) -> Metrics:
    metrics: Metrics = {}
    for task in tasks:
        mask, labels = batch[f"mask/{task}"], batch[f"labels/{task}"]
        if f"target/{task}" in batch or f"votes/{task}" in batch:
            mask = mask & (labels != MISSING)  # partial labels have no right class
        hits = masked_mean((found.logits[task].argmax(-1) == labels).astype(jnp.float32), mask)
        metrics |= {
            f"loss/{task}": found.losses[task].value,
            f"count/{task}": found.losses[task].count,
            f"accuracy/{task}": hits.value,
            f"weight/{task}": found.weights[task],
        }
    return metrics


def _all_finite(state: TrainState) -> jax.Array:
    """Returns whether every float of a state is finite, ()."""
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    flags = jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).astype(jnp.float32)
    # A product: XLA's CPU compiler would copy a reduction of scalars into the update of every leaf, which
    # doubles the time to compile a step.
    return jnp.vdot(flags, flags) == len(floats)


def _hold(old: TrainState, new: TrainState, present: Mapping[str, jax.Array]) -> TrainState:
    """Returns `new` with the leaves of absent tasks as they were in `old`.

    The tasks' own adapters and probes are leaves of all tasks, of which an absent task's part is held.
    """
    every = jnp.stack(list(present.values()))  # (T,)

    def choose(path: tuple[Any, ...], before: jax.Array, after: jax.Array) -> jax.Array:
        names = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
        for owner, task in itertools.pairwise(names):
            if owner in ("heads", "balance") and task in present:
                return jnp.where(present[task], after, before)
        axis = 1 if "tail" in names else 0  # leaves of blocks are stacked
        # Placeholders of optimizers have no such axis.
        if {"tasks", "task_probe"} & set(names) and after.shape[axis : axis + 1] == every.shape:
            shape = [-1 if dim == axis else 1 for dim in range(after.ndim)]
            return jnp.where(every.reshape(shape), after, before)
        return after

    return jax.tree_util.tree_map_with_path(choose, old, new)


def abstract_batch(run: Run, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, types and shardings of a batch that a run's step reads."""
    size, batch = run.view_size, run.config.train.batch_size
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((batch, size, size, 3), jnp.uint8),
        "index": ((batch,), jnp.int64),
    }
    for task in run.config.tasks:
        shapes |= {f"labels/{task}": ((batch,), jnp.int32), f"mask/{task}": ((batch,), bool)}
    labels = run.config.data.labels
    for task, kind in labels.kinds().items() if labels.partial or labels.noise else ():
        if task in run.config.tasks:
            width = NUM_YEARS if task == AGE.name else TASKS[task].num_classes
            shapes[f"{kind}/{task}"] = ((batch, width), jnp.float32)
    if run.teacher is not None and run.config.distill.targets == "cached":
        shapes |= run.teacher.cached_shapes(batch)
    rows = parallel.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype), sharding=rows)
        for name, (shape, dtype) in shapes.items()
    }
