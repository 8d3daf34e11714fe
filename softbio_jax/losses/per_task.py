"""Unreduced losses."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns -log softmax(logits)[label] of each example, 0 where masked.

    Labels are clamped before the look-up: a missing one would give NaN, and NaN * 0 is NaN, in
    the value and in the gradient.

    Args:
      logits: (B, C).
      labels: (B,) int, anything where mask is False.
      mask: (B,) bool.

    Returns:
      (B,) float32, in nats.
    """
    safe = jnp.where(mask, labels, 0)
    values = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), safe)
    return jnp.where(mask, values, 0.0)
