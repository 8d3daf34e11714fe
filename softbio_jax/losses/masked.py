"""The loss per example, and its masked mean over the global batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class MaskedMean(NamedTuple):
    """The sum over the unmasked examples of an optimizer step, and their count."""

    total: jax.Array  # ()
    count: jax.Array  # type: ignore[assignment]  # (), tuple.count is not needed

    @property
    def value(self) -> jax.Array:
        """total / max(count, 1)."""
        return self.total / jnp.maximum(self.count, 1.0)

    @property
    def present(self) -> jax.Array:
        """Whether any example counts."""
        return self.count > 0


def masked_mean(values: jax.Array, mask: jax.Array) -> MaskedMean:
    """Returns the sum and count of values (B,) where mask (B,) holds.

    Under jit with a sharded batch both are global; averaging per-device means instead would weight
    devices, not examples.
    """
    return MaskedMean(jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32))


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns -log softmax(logits)[label] of each example, 0 where masked.

    Labels are clamped before the look-up: a missing one would give NaN, and NaN * 0 is NaN, in
    the value and in the gradient.

    Args:
      logits: (B, C).
      labels: (B,) int, any value where mask is False.
      mask: (B,) bool.

    Returns:
      (B,) float32, in nats.
    """
    safe = jnp.where(mask, labels, 0)
    values = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), safe)
    return jnp.where(mask, values, 0.0)
