"""One optimizer step: augmentation, forward pass, masked losses, balancing, update."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from softbio_jax.data.augment import AugmentConfig, augment
from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.losses.masked import MaskedMean, cross_entropy, masked_mean
from softbio_jax.models.forward import Features, Logits, classify_in_training, encode
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, combine
from softbio_jax.runs.optimizer import EffectiveRates
from softbio_jax.runs.state import ScaledState, TrainState, with_loss_scale

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Settings of a step besides the model and the optimizer."""

    augment: AugmentConfig
    balancing: BalancingConfig
    microbatches: int = 1


class _Auxiliary(NamedTuple):
    """Outputs of the objective besides the loss to differentiate."""

    total: jax.Array  # (), not scaled
    losses: dict[str, MaskedMean]
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
      config: augmentation, balancing, microbatches.
      rates: see `effective_rates`; adds rate/{group} to the metrics.

    Returns:
      A function of the state, the frozen tree, the batch and the run's key. The batch holds image
      (B, H, W, 3) uint8 and index (B,), or instead of both feature (B, D) of a frozen encoder, and
      labels/{task} and mask/{task} (B,).
    """
    tasks = [task.name for task in model.tasks]

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(key)
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        # Cached features: nothing below the heads is trained.
        images = None
        if "image" in batch:
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
                losses = task_losses(logits, batch, tasks)
                means = balancing.update_means(state.batch_stats.get("balance", {}), losses, config.balancing)
                if means:  # a running statistic like the heads' own
                    stats = stats | {"balance": means}
                total, weights = balancing.total(losses, params.get("balance", {}), config.balancing, means)
            scaled = total if scaler is None else total * scaler.scale
            return scaled, _Auxiliary(total, losses, weights, logits, stats)

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
        metrics |= _task_metrics(found, batch, tasks)
        for task, leaves in new.trainable.get("balance", {}).items():  # log_var
            metrics |= {f"{name}/{task}": leaf for name, leaf in leaves.items()}
        return new, metrics

    return train_step


def task_losses(logits: Mapping[str, jax.Array], batch: Batch, tasks: Sequence[str]) -> dict[str, MaskedMean]:
    """Returns each task's cross-entropy over its labelled examples of the global batch.

    Args:
      logits: {task: (B, C)}.
      batch: labels/{task} and mask/{task} (B,).
      tasks: which of them.
    """
    losses = {}
    for task in tasks:
        mask = batch[f"mask/{task}"]
        losses[task] = masked_mean(cross_entropy(logits[task], batch[f"labels/{task}"], mask), mask)
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
    if microbatches == 1:
        return encode_part(images, rows)
    # Strided, so that every device keeps its own rows: microbatch m holds rows m, m + M, ...
    split = jax.tree.map(lambda t: t.reshape(-1, microbatches, *t.shape[1:]).swapaxes(0, 1), (images, rows))
    features = jax.lax.map(lambda part: jax.checkpoint(encode_part)(*part), split)
    return jax.tree.map(lambda f: f.swapaxes(0, 1).reshape(-1, f.shape[-1]), features)


def _task_metrics(found: _Auxiliary, batch: Batch, tasks: Sequence[str]) -> Metrics:
    metrics: Metrics = {}
    for task in tasks:
        mask, labels = batch[f"mask/{task}"], batch[f"labels/{task}"]
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
