"""Scaled dot-product attention on (B, N, K, head_dim), with or without a leading task axis."""

import dataclasses
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp

from softbio_jax.models.config import ComputeConfig

_Compute = TypeVar("_Compute", bound=ComputeConfig)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    implementation: Literal["auto", "xla", "cudnn"],
    causal: bool = False,
    recompute: bool = False,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(head_dim)) v, the softmax in float32.

    float16 is multiplied as such on GPUs only, elsewhere in float32.

    Args:
      q: (B, N, K, head_dim), or (T, B, N, K, head_dim).
      k: the same with M for N; v alike.
      implementation: of `jax.nn.dot_product_attention`; "auto" leaves the choice to it.
      causal: mask later positions (text encoder).
      recompute: recompute the weights (B, K, N, M) in the backward pass instead of saving them,
        as fused kernels do; docs/performance.md shows what that saves and costs.

    Returns:
      (B, N, K * head_dim), or (T, B, N, K * head_dim).
    """
    chosen = None if implementation == "auto" else implementation
    dtype = q.dtype
    if dtype == jnp.float16 and jax.default_backend() != "gpu":
        # jax.nn asks for float16 products summed in float32, which no other compiler has.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))

    def one(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=chosen)
        return out.reshape(*out.shape[:-2], -1).astype(dtype)

    if recompute:
        one = jax.checkpoint(one, prevent_cse=False)
    if q.ndim == 4:
        return one(q, k, v)
    # One task at a time, as in `adapters.math.apart`.
    return jnp.stack([one(q[t], k[t], v[t]) for t in range(len(q))])


def on_this_machine(compute: _Compute) -> _Compute:
    """Returns compute with an attention that this machine supports: cuDNN needs a GPU."""
    if compute.attention != "cudnn" or jax.default_backend() == "gpu":
        return compute
    return dataclasses.replace(compute, attention="auto")


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """Reshapes (B, N, K * head_dim) to (B, N, K, head_dim)."""
    return x.reshape(*x.shape[:-1], heads, -1)
