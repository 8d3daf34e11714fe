"""Pretraining of a small encoder: regress given factors of its images and classify them.

Stands in for the Perception Encoder's pretraining where its weights are not available.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from softbio_jax.console import QUIET, Console
from softbio_jax.data.augment import OFF, AugmentConfig, augment
from softbio_jax.models.config import VisionConfig
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import Tree

_MEAN_OVER, _SHOWN_EVERY = 50, 250  # steps


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
    console: Console = QUIET,
) -> tuple[Tree, float]:
    """Trains an encoder from scratch to predict F factors, and one of C classes, by a linear read-out.

    L = mean over examples and factors of (w . embedding + b - target)^2, plus with labels the
    cross-entropy divided by log C, so that a uniform guess also scores 1; AdamW, cosine schedule.
    The read-out is dropped.

    Args:
      config: the encoder, with pooling and projection.
      images: (N, H, W, 3) uint8.
      targets: (N, F) float32, standardised: a constant guess scores 1.
      labels: (N,) classes 0..C-1; None: only factors.
      augmentation: of the encoder's input; no flip if the targets distinguish left and right.
      batch_size: examples per step, in a new order each epoch.
      rate: peak learning rate.
      seed: of weights and order.

    Returns:
      The encoder's parameters and the mean loss of the last up to 50 steps.
    """
    encoder = VisionEncoder(config)
    encoder_key, read_key = jax.random.split(jax.random.key(seed))
    size, factors = images.shape[1], targets.shape[1]
    classes = 0 if labels is None else int(labels.max()) + 1
    width = config.out_dim or config.feature_width
    params = {
        "vision": encoder.init(encoder_key, jnp.zeros((1, size, size, 3)))["params"],
        "read": {
            "kernel": 0.02 * jax.random.normal(read_key, (width, factors + classes)),
            "bias": jnp.zeros(factors + classes),
        },
    }
    warmup = min(50, max(steps // 10, 1))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps), weight_decay=0.05),
    )

    def loss_of(params: Tree, images: jax.Array, targets: jax.Array, labels: jax.Array | None) -> jax.Array:
        embedding = encoder.apply({"params": params["vision"]}, images)
        guess = embedding @ params["read"]["kernel"] + params["read"]["bias"]
        loss = jnp.mean(jnp.square(guess[:, :factors] - targets))
        if labels is None:
            return loss
        entropy = optax.softmax_cross_entropy_with_integer_labels(guess[:, factors:], labels)
        return loss + jnp.mean(entropy) / np.log(classes)

    view_key = jax.random.key(seed + 1)

    @jax.jit
    def step(
        params: Tree,
        state: optax.OptState,
        number: int,
        images: jax.Array,
        targets: jax.Array,
        labels: jax.Array | None,
    ) -> tuple[Tree, optax.OptState, jax.Array]:
        position = number * batch_size + jnp.arange(batch_size)
        views = augment(images, view_key, position, config=augmentation)
        loss, gradient = jax.value_and_grad(loss_of)(params, views, targets, labels)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, rng, order = optimizer.init(params), np.random.default_rng(seed), np.empty(0, np.int64)
    losses: list[jax.Array] = []
    mean, begun = float("inf"), time.perf_counter()
    for number in range(1, steps + 1):
        if len(order) < batch_size:
            order = rng.permutation(len(images))
        rows, order = order[:batch_size], order[batch_size:]
        known = None if labels is None else labels[rows]
        params, state, loss = step(params, state, number, images[rows], targets[rows], known)
        losses.append(loss)
        if number % _MEAN_OVER == 0 or number == steps:
            mean, losses = float(np.mean(jax.device_get(losses))), []
        if number % _SHOWN_EVERY == 0 or number == steps:
            pace = number * batch_size / (time.perf_counter() - begun)
            line = f"pretraining {number}/{steps}  {pace:,.0f} images/s  loss {mean:.3f}"
            console.show(line, number, steps)
    console.close()
    return params["vision"], mean
