"""Attention pooling: one learned probe reads all tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.models.attention import attend, split_heads
from softbio_jax.models.blocks import MLP
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.norm import LayerNorm


class ProbeAttention(nn.Module):
    """Cross-attention from the probe (..., B, 1, D) to the tokens (..., B, N, D)."""

    heads: int
    compute: ComputeConfig
    adapters: AdapterRules

    @nn.compact
    def __call__(self, probe: jax.Array, tokens: jax.Array, rows: jax.Array | None) -> jax.Array:
        width = tokens.shape[-1]
        dense: dict[str, Any] = {
            "adapters": self.adapters,
            "dtype": self.compute.dtype,
        }
        q = AdaptedDense(width, name="q", **dense)(probe, rows)
        kv = AdaptedDense(2 * width, projections=2, name="kv", **dense)(tokens, rows)
        k, v = jnp.split(kv, 2, axis=-1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        # One query row: the fused kernels have nothing to gain here.
        out = attend(q, k, v, implementation="xla")
        return AdaptedDense(width, name="out", **dense)(out, rows)


class AttentionPooling(nn.Module):
    """x = attn(probe, tokens); x + mlp(layernorm(x)): no residual around the attention."""

    heads: int
    compute: ComputeConfig
    adapters: AdapterRules

    @nn.compact
    def __call__(self, tokens: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Maps tokens (B, N, D) to the pooled feature (B, D), either with a leading task axis."""
        width = tokens.shape[-1]
        probe = self.param("probe", nn.initializers.normal(1.0), (1, 1, width), jnp.float32)
        per_task = self.adapters.per_task
        if per_task is not None and per_task.probe:
            # Beside the pretrained one, from which every task's starts.
            start = jnp.broadcast_to(probe, (per_task.tasks, *probe.shape))
            probe = self.param("task_probe", lambda _: start)
        probe = jnp.broadcast_to(probe.astype(tokens.dtype), (*tokens.shape[:-2], 1, width))
        shared: dict[str, Any] = {
            "compute": self.compute,
            "adapters": self.adapters,
        }
        x = ProbeAttention(self.heads, name="attn", **shared)(probe, tokens, rows)
        normed = LayerNorm(name="layernorm")(x)
        # The pooling's mlp ratio is 4 in every variant, also where the blocks' is not.
        x = x + MLP(4 * width, name="mlp", **shared)(normed, rows).astype(x.dtype)
        return x[..., 0, :]
