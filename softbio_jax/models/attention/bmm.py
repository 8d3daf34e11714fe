"""Attention as batched matrix products over merged examples and heads, with its own backward pass.

XLA's CPU backend leaves its fast products for the layout of `jax.nn.dot_product_attention`, whose heads lie
between tokens and channels: forward and backward pass of a block took twice as long (docs/performance.md).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MASKED = -0.7 * float(np.finfo(np.float32).max)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attention(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, recompute: bool) -> jax.Array:
    """Returns softmax(q k^T / sqrt(d)) v, the softmax in float32, heads merged.

    Args:
      q: (B, N, K, d), bfloat16 or float32.
      k: (B, M, K, d); v alike.
      causal: whether keys after the query are masked.
      recompute: whether the backward pass computes the weights (B K, N, M) again; else they are kept.

    Returns:
      (B, N, K d), of q's type.
    """
    return _forward(q, k, v, causal, recompute)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, recompute: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    heads, dtype = q.shape[2], q.dtype
    scale = 1 / math.sqrt(q.shape[-1])
    q, k, v = _heads_first(q * jnp.asarray(scale, dtype)), _heads_first(k), _heads_first(v)
    logits = _logits(q, k, causal)
    top = logits.max(axis=-1, keepdims=True)
    # Divided by their sum only after the product, which is smaller.
    weights = jnp.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(dtype)
    out = _heads_last(_product(weights, v, 2, 1) / total, heads).astype(dtype)
    kept = (top + jnp.log(total),) if recompute else (weights, total)
    return out, (q, k, v, out, kept)


def _backward(
    causal: bool, recompute: bool, residuals: tuple[Any, ...], dout: jax.Array
) -> tuple[jax.Array, ...]:
    q, k, v, out, kept = residuals
    dtype, heads = q.dtype, q.shape[0] // dout.shape[0]
    split = (*dout.shape[:2], heads, -1)
    dout, out = (x.reshape(split) for x in (dout, out))
    # The softmax' gradient is w (dw - sum w dw), and sum w dw = dout . out.
    centre = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    dout, centre = _heads_first(dout), _heads_first(centre)
    if recompute:
        weights, total = jnp.exp(_logits(q, k, causal) - kept[0]).astype(dtype), 1
    else:
        weights, total = kept
    dout, centre = (dout / total).astype(dtype), centre / total
    dv = _product(weights, dout, 1, 1)
    dlogits = (weights * (_product(dout, v, 2, 2) - centre)).astype(dtype)
    dq, dk = _product(dlogits, k, 2, 1), _product(dlogits, q, 1, 1)
    dq = dq * (1 / math.sqrt(q.shape[-1]))
    dq, dk, dv = (_split_heads(x.astype(dtype), heads) for x in (dq, dk, dv))
    return dq, dk, dv


attention.defvjp(_forward, _backward)


def _logits(q: jax.Array, k: jax.Array, causal: bool) -> jax.Array:
    logits = _product(q, k, 2, 2)
    if not causal:
        return logits
    seen = jnp.tril(jnp.ones(logits.shape[1:], bool))
    return jnp.where(seen[None], logits, _MASKED)


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Returns the products of the matrices of a and b, summed over an axis of each, in float32."""
    dimensions = (((axis_a,), (axis_b,)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _heads_first(x: jax.Array) -> jax.Array:
    """(B, N, K, d) to (B K, N, d)."""
    x = x.swapaxes(1, 2)
    return x.reshape(-1, *x.shape[2:])


def _split_heads(x: jax.Array, heads: int) -> jax.Array:
    """(B K, N, d) to (B, N, K, d)."""
    return x.reshape(-1, heads, *x.shape[1:]).swapaxes(1, 2)


def _heads_last(x: jax.Array, heads: int) -> jax.Array:
    """(B K, N, d) to (B, N, K d)."""
    x = _split_heads(x, heads)
    return x.reshape(*x.shape[:2], -1)
