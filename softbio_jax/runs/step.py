"""One optimizer step: augment, tower, heads, masked losses, balancing, update."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from softbio_jax.data.augment import AugmentConfig, augment, normalize
from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import BalancingConfig
from softbio_jax.losses.masked import MaskedMean, cross_entropy, masked_mean
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, combine
from softbio_jax.runs.state import TrainState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Tree, Batch, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a step needs besides the model and the optimizer."""

    augment: AugmentConfig
    balancing: BalancingConfig
    microbatches: int = 1


class _Pass(NamedTuple):
    """What a forward pass gives besides the loss to minimise."""

    losses: dict[str, MaskedMean]
    weights: dict[str, jax.Array]  # of each task's loss, ()
    logits: dict[str, jax.Array]  # (B, C)
    batch_stats: Tree


def make_train_step(
    model: MultitaskModel, optimizer: optax.GradientTransformationExtraArgs, config: StepConfig
) -> TrainStep:
    """Returns (state, frozen, batch, key) -> (state, metrics), to be jitted with state donated.

    Sums and counts of the losses, batch statistics and gradients are those of the global batch:
    the batch arrives sharded over its first axis and jit does the rest. An update that is not
    finite is skipped; a task without a label in the whole batch is left alone, momentum and decay
    included.

    Args:
      model: the tower and its heads.
      optimizer: of the trainable tree.
      config: augmentation, balancing, microbatches.

    Returns:
      A function of the state, the frozen tree, the batch and the run's key. The batch holds image
      (B, H, W, 3) uint8 and index (B,), or in their place feature (B, D), what a frozen tower made
      of the pictures, and labels/{task} and mask/{task} (B,).
    """
    tasks = [task.name for task in model.tasks]

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(key)
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        # A batch of features was through the tower before: nothing below the heads is trained.
        images = None
        if "image" in batch:
            images = augment(batch["image"], augment_key, batch["index"], config=config.augment)

        def objective(trainable: Tree) -> tuple[jax.Array, _Pass]:
            params = combine(trainable, frozen)
            if images is None:
                features = dict.fromkeys(tasks, batch["feature"])
            else:
                features = _features(model, params, images, dropout_key, config.microbatches)
            logits, stats = _classify(model, params, state.batch_stats, features, dropout_key)
            losses = task_losses(logits, batch, tasks)
            means = balancing.update_means(state.batch_stats.get("balance", {}), losses, config.balancing)
            if means:  # a running statistic like the heads' own
                stats = stats | {"balance": means}
            total, weights = balancing.total(losses, params.get("balance", {}), config.balancing, means)
            return total, _Pass(losses, weights, logits, stats)

        (total, found), gradient = jax.value_and_grad(objective, has_aux=True)(state.trainable)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)

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
        new = jax.tree.map(lambda a, b: jnp.where(finite, b, a), state, new)
        new = dataclasses.replace(new, step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1))

        metrics = {"loss/total": total, "gradient_norm": norm, "skipped": new.skipped}
        metrics |= _task_metrics(found, batch, tasks)
        for task, leaves in new.trainable.get("balance", {}).items():  # log_var
            metrics |= {f"{name}/{task}": leaf for name, leaf in leaves.items()}
        return new, metrics

    return train_step


def make_eval_step(model: MultitaskModel) -> Callable[[TrainState, Tree, Batch], tuple[dict, dict]]:
    """Returns (state, frozen, batch) -> ({task: logits (B, C)}, {task: feature (B, D)}).

    Both are float32 and without augmentation; of the batch only image (B, H, W, 3) uint8 is read.
    """

    def eval_step(
        state: TrainState, frozen: Tree, batch: Batch
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        variables = {"params": combine(state.trainable, frozen), "batch_stats": state.batch_stats}
        images = normalize(batch["image"])
        features = cast(dict[str, jax.Array], model.apply(variables, images, method="features"))
        logits = cast(dict[str, jax.Array], model.apply(variables, features, method="classify"))
        return logits, {task: feature.astype(jnp.float32) for task, feature in features.items()}

    return eval_step


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


def _features(
    model: MultitaskModel, params: Tree, images: jax.Array, key: jax.Array, microbatches: int
) -> dict[str, jax.Array]:
    """Runs the tower over microbatches, keeping only their features: {task: (B, D)}.

    Everything after the features sees the whole batch, and the tower's dropout is drawn for each
    row of it, so accumulation is exact.
    """

    def tower(images: jax.Array, rows: jax.Array) -> dict[str, jax.Array]:
        features = model.apply(
            {"params": params}, images, rows=rows, method="features", rngs={"dropout": key}
        )
        return cast(dict[str, jax.Array], features)

    rows = jnp.arange(len(images))
    if microbatches == 1:
        return tower(images, rows)
    # Strided, so that every device keeps its own rows: microbatch m holds rows m, m + M, ...
    split = jax.tree.map(lambda t: t.reshape(-1, microbatches, *t.shape[1:]).swapaxes(0, 1), (images, rows))
    features = jax.lax.map(lambda part: jax.checkpoint(tower)(*part), split)
    return jax.tree.map(lambda f: f.swapaxes(0, 1).reshape(-1, f.shape[-1]), features)


def _classify(
    model: MultitaskModel, params: Tree, batch_stats: Tree, features: dict[str, jax.Array], key: jax.Array
) -> tuple[dict[str, jax.Array], Tree]:
    """Runs the heads; returns logits {task: (B, C)} and the statistics with this batch in."""
    logits, updated = model.apply(
        {"params": params, "batch_stats": batch_stats},
        features,
        train=True,
        method="classify",
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    return cast(dict[str, jax.Array], logits), updated.get("batch_stats", {})


def _task_metrics(found: _Pass, batch: Batch, tasks: Sequence[str]) -> Metrics:
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


def _hold(old: TrainState, new: TrainState, present: Mapping[str, jax.Array]) -> TrainState:
    """Returns new, with what belongs to an absent task as it was in old."""

    def choose(path: tuple[Any, ...], before: jax.Array, after: jax.Array) -> jax.Array:
        names = [str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path]
        for owner, task in itertools.pairwise(names):
            if owner in ("heads", "balance") and task in present:
                return jnp.where(present[task], after, before)
        return after

    return jax.tree_util.tree_map_with_path(choose, old, new)
