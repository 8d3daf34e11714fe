"""A tiny tower's pretraining: it regresses the drawing parameters of rendered faces.

Stands in for the Perception Encoder's own pretraining where its weights are not at hand.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from softbio_jax.data.augment import normalize
from softbio_jax.models.config import VisionConfig
from softbio_jax.models.vision import VisionTower
from softbio_jax.params.paths import Tree


def pretrain(
    config: VisionConfig,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    seed: int,
    report: Callable[[int, float, float], None] = lambda step, loss, rate: None,
) -> tuple[Tree, float]:
    """Trains a tower from scratch to predict F continuous factors by a linear read-out.

    L = mean over examples and factors of (w . embedding + b - target)^2, AdamW, cosine schedule.

    Args:
      config: the tower, with pooling and projection.
      images: (N, H, W, 3) uint8.
      targets: (N, F) float32, standardised: a constant guess scores 1.
      steps: optimizer steps.
      batch_size: examples a step, drawn anew each epoch.
      rate: peak learning rate.
      seed: of weights and order.
      report: gets (step, loss, images/s) now and then.

    Returns:
      The tower's parameters and the last loss reported.
    """
    tower = VisionTower(config)
    tower_key, read_key = jax.random.split(jax.random.key(seed))
    size = images.shape[1]
    params = {
        "tower": tower.init(tower_key, jnp.zeros((1, size, size, 3)))["params"],
        "read": {
            "kernel": 0.02 * jax.random.normal(read_key, (config.out_dim or config.width,
                                                          targets.shape[1])),
            "bias": jnp.zeros(targets.shape[1]),
        },
    }  # fmt: skip
    warmup = min(50, max(steps // 10, 1))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps),
                    weight_decay=0.05),
    )  # fmt: skip

    def loss_of(params: Tree, images: jax.Array, targets: jax.Array) -> jax.Array:
        embedding = tower.apply({"params": params["tower"]}, normalize(images))
        guess = embedding @ params["read"]["kernel"] + params["read"]["bias"]
        return jnp.mean(jnp.square(guess - targets))

    @jax.jit
    def step(params: Tree, state: optax.OptState, images: jax.Array,
             targets: jax.Array) -> tuple[Tree, optax.OptState, jax.Array]:  # fmt: skip
        loss, gradient = jax.value_and_grad(loss_of)(params, images, targets)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, rng, order = optimizer.init(params), np.random.default_rng(seed), np.empty(0, np.int64)
    loss, mark = jnp.inf, time.perf_counter()
    for number in range(1, steps + 1):
        if len(order) < batch_size:
            order = rng.permutation(len(images))
        rows, order = order[:batch_size], order[batch_size:]
        params, state, loss = step(params, state, images[rows], targets[rows])
        if number % 50 == 0 or number == steps:
            loss = float(loss)
            now = time.perf_counter()
            report(number, loss, 50 * batch_size / (now - mark))
            mark = now
    return params["tower"], float(loss)
