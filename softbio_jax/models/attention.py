"""Scaled dot-product attention on (..., N, K, head_dim)."""

from typing import Literal

import jax


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    implementation: Literal["auto", "xla", "cudnn"],
    causal: bool = False,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(head_dim)) v, the softmax in float32.

    Args:
      q: (..., N, K, head_dim), any leading axes.
      k: (..., M, K, head_dim); v alike.
      implementation: as `jax.nn.dot_product_attention` has it; "auto" leaves the choice to it.
      causal: mask what comes later (text tower).

    Returns:
      (..., N, K * head_dim).
    """
    lead = q.shape[:-3]
    q, k, v = (t.reshape(-1, *t.shape[-3:]) for t in (q, k, v))
    chosen = None if implementation == "auto" else implementation
    out = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=chosen)
    return out.reshape(*lead, out.shape[1], -1)


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """Reshapes (B, N, K * head_dim) to (B, N, K, head_dim)."""
    return x.reshape(*x.shape[:-1], heads, -1)
