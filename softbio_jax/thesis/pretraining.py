"""A tiny tower's pretraining: it regresses given factors of its pictures and tells their classes.

Stands in for the Perception Encoder's own pretraining where its weights are not at hand.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from softbio_jax.data.augment import OFF, AugmentConfig, augment
from softbio_jax.models.config import VisionConfig
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import Tree


def pretrain(
    config: VisionConfig,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    augmentation: AugmentConfig = OFF,
    steps: int,
    batch_size: int,
    rate: float,
    seed: int,
    report: Callable[[int, float, float], None] = lambda step, loss, rate: None,
) -> tuple[Tree, float]:
    """Trains a tower from scratch to predict F factors, and one of C classes, by a linear read-out.

    L = mean over examples and factors of (w . embedding + b - target)^2, plus with labels the
    cross-entropy over log C, so that a uniform guess scores 1 as well; AdamW, cosine schedule.
    The read-out is dropped.

    Args:
      config: the tower, with pooling and projection.
      images: (N, H, W, 3) uint8.
      targets: (N, F) float32, standardised: a constant guess scores 1.
      labels: (N,) classes 0..C-1; None: factors alone.
      augmentation: of the pictures that the tower sees; it must not flip what has a left and a
        right in its targets.
      steps: optimizer steps.
      batch_size: examples a step, drawn anew each epoch.
      rate: peak learning rate.
      seed: of weights and order.
      report: gets (step, mean loss since the last report, images/s) every 50 steps.

    Returns:
      The tower's parameters and the last loss reported.
    """
    tower = VisionEncoder(config)
    tower_key, read_key = jax.random.split(jax.random.key(seed))
    size, factors = images.shape[1], targets.shape[1]
    classes = 0 if labels is None else int(labels.max()) + 1
    params = {
        "tower": tower.init(tower_key, jnp.zeros((1, size, size, 3)))["params"],
        "read": {
            "kernel": 0.02 * jax.random.normal(read_key, (config.out_dim or config.width, factors + classes)),
            "bias": jnp.zeros(factors + classes),
        },
    }
    warmup = min(50, max(steps // 10, 1))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps), weight_decay=0.05),
    )

    def loss_of(
        params: Tree, images: jax.Array, targets: jax.Array, classes_of: jax.Array | None
    ) -> jax.Array:
        embedding = tower.apply({"params": params["tower"]}, images)
        guess = embedding @ params["read"]["kernel"] + params["read"]["bias"]
        loss = jnp.mean(jnp.square(guess[:, :factors] - targets))
        if classes_of is None:
            return loss
        entropy = optax.softmax_cross_entropy_with_integer_labels(guess[:, factors:], classes_of)
        return loss + jnp.mean(entropy) / np.log(classes)

    view_key = jax.random.key(seed + 1)

    @jax.jit
    def step(
        params: Tree,
        state: optax.OptState,
        number: int,
        images: jax.Array,
        targets: jax.Array,
        classes_of: jax.Array | None,
    ) -> tuple[Tree, optax.OptState, jax.Array]:
        position = number * batch_size + jnp.arange(batch_size)
        views = augment(images, view_key, position, config=augmentation)
        loss, gradient = jax.value_and_grad(loss_of)(params, views, targets, classes_of)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, rng, order = optimizer.init(params), np.random.default_rng(seed), np.empty(0, np.int64)
    losses: list[jax.Array] = []
    mean, mark = float("inf"), time.perf_counter()
    for number in range(1, steps + 1):
        if len(order) < batch_size:
            order = rng.permutation(len(images))
        rows, order = order[:batch_size], order[batch_size:]
        classes_of = None if labels is None else labels[rows]
        params, state, loss = step(params, state, number, images[rows], targets[rows], classes_of)
        losses.append(loss)
        if number % 50 == 0 or number == steps:
            mean = float(np.mean(jax.device_get(losses)))
            now = time.perf_counter()
            report(number, mean, len(losses) * batch_size / (now - mark))
            mark, losses = now, []
    return params["tower"], mean
