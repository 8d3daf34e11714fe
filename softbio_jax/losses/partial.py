"""Losses of labels that are not one certain class: sets, intervals of years, votes, noisy classes.

`masked.cross_entropy` is the loss of a certain class; `set_likelihood` equals it to the bit for a set of one
class. docs/labels.md has the formulas with their sources.
"""

import jax
import jax.numpy as jnp

from softbio_jax.tasks import AGE_SPANS, NUM_YEARS


def set_likelihood(logits: jax.Array, weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns -log sum_c w_c p_c of each example, p = softmax(logits), 0 where masked.

    With w_c = [c in S] it is the likelihood of a label of which only the set S is known (interval
    censoring for adjacent classes); with w_c = P(label | true class c) that of a noisy label, the forward
    correction. Value and gradient are 0 for the set of all classes, and for the empty one, which is no label.

    Args:
      logits: (B, C).
      weights: (B, C), none negative.
      mask: (B,) bool.

    Returns:
      (B,) float32, in nats.

    Source: Heitjan and Rubin, Annals of Statistics 1991 (coarse data); Patrini et al. 2017,
      arXiv:1609.03683, theorem 2 (forward correction).
    """
    mask = mask & weights.any(axis=-1)
    logits = logits.astype(jnp.float32)
    # jax's logsumexp of an empty set is -inf with a gradient of 0, and where() drops the value.
    values = jax.nn.logsumexp(logits, axis=-1) - jax.nn.logsumexp(logits, b=weights, axis=-1)
    return jnp.where(mask, values, 0.0)


def soft_cross_entropy(logits: jax.Array, votes: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns -sum_c q_c log p_c of each example for votes q that sum to 1, 0 where masked.

    Args:
      logits: (B, C).
      votes: (B, C).
      mask: (B,) bool.

    Returns:
      (B,) float32, in nats.

    Source: Barsoum et al. 2016, arXiv:1608.01041, equation 4.
    """
    logits = logits.astype(jnp.float32)
    values = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(votes * logits, axis=-1)
    return jnp.where(mask, values, 0.0)


def smoothed(values: jax.Array, logits: jax.Array, mask: jax.Array, rate: float) -> jax.Array:
    """Returns (1 - rate) L - rate mean_c log p_c of each example: label smoothing of any loss L.

    Of a cross-entropy it is the one against (1 - rate) q + rate / C.

    Args:
      values: (B,) losses L, 0 where masked.
      logits: (B, C).
      mask: (B,) bool.
      rate: between 0 and 1.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    uniform = -jnp.mean(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
    return (1 - rate) * values + rate * jnp.where(mask, uniform, 0.0)


def fitted(weights: jax.Array, bins: int) -> jax.Array:
    """Returns the weights (B, K) of years for a head of 9 age classes, others unchanged.

    A class is in the set where one of its years is: all that its label excludes is excluded.
    """
    if weights.shape[-1] == bins or weights.shape[-1] != NUM_YEARS:
        return weights
    return jnp.stack([weights[:, first:end].max(axis=-1) for first, end in AGE_SPANS], axis=-1)
