"""The vision encoder with its pooling and projection."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.adapters.dense import AdaptedDense
from softbio_jax.errors import UserError
from softbio_jax.models.attention.attend import cross_attention
from softbio_jax.models.blocks import MLP
from softbio_jax.models.config import ComputeConfig, VisionConfig
from softbio_jax.models.elementwise import LayerNorm, row_mean
from softbio_jax.models.encoder import Encoder


class ProbeAttention(nn.Module):
    """Cross-attention from the probe (..., B, 1, D) to the tokens (..., B, N, D)."""

    heads: int
    compute: ComputeConfig
    adapters: AdapterRules

    @nn.compact
    def __call__(self, probe: jax.Array, tokens: jax.Array, rows: jax.Array | None) -> jax.Array:
        width = tokens.shape[-1]
        dense: dict[str, Any] = {"adapters": self.adapters, "dtype": self.compute.dtype}
        q = AdaptedDense(width, name="q", **dense)(probe, rows)
        kv = AdaptedDense(2 * width, projections=2, name="kv", **dense)(tokens, rows)
        out = cross_attention(q, kv, heads=self.heads, compute=self.compute)
        return AdaptedDense(width, name="out", **dense)(out, rows)


class AttentionPooling(nn.Module):
    """x = attn(probe, tokens); x + mlp(layernorm(x)): no residual around the attention."""

    config: VisionConfig
    compute: ComputeConfig
    adapters: AdapterRules

    @nn.compact
    def __call__(self, tokens: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Maps tokens (B, N, D) to the pooled feature (B, D), either with a leading task axis."""
        c, width = self.config, tokens.shape[-1]
        probe = self.param("probe", nn.initializers.normal(1.0), (1, 1, width), jnp.float32)
        per_task = self.adapters.per_task
        if per_task is not None and per_task.probe:
            # Beside the pretrained one, which every task's starts from.
            start = jnp.broadcast_to(probe, (per_task.tasks, *probe.shape))
            probe = self.param("task_probe", lambda _: start)
        probe = jnp.broadcast_to(probe.astype(tokens.dtype), (*tokens.shape[:-2], 1, width))
        shared: dict[str, Any] = {"compute": self.compute, "adapters": self.adapters}
        x = ProbeAttention(c.pool_heads, name="attn", **shared)(probe, tokens, rows)
        normed = LayerNorm(c.pool_norm_eps, name="layernorm")(x)
        mlp = MLP(c.pool_hidden, activation=c.pool_activation, name="mlp", **shared)
        x = x + mlp(normed, rows).astype(x.dtype)
        return x[..., 0, :]


class VisionEncoder(nn.Module):
    """A vision encoder of any family; parameters `encoder`, `pool` and `proj`."""

    config: VisionConfig
    compute: ComputeConfig = ComputeConfig()
    adapters: AdapterRules = NO_ADAPTERS
    tail: int = 0

    def setup(self) -> None:
        self.build(self.adapters)

    def build(self, adapters: AdapterRules) -> None:
        """Makes the submodules and the projection."""
        c = self.config
        if not 0 <= self.tail <= c.layers:
            raise UserError(
                "more last blocks than the encoder has",
                where=c.name,
                expected=f"at most {c.layers}",
                found=str(self.tail),
                fix="lower method.blocks",
            )
        self.encoder = Encoder(c, self.compute, adapters, self.tail)
        if c.pooling == "attn":
            self.pool = AttentionPooling(c, self.compute, adapters)
        if c.out_dim is not None:
            init = nn.initializers.normal(c.feature_width**-0.5)
            self.proj = self.param("proj", init, (c.feature_width, c.out_dim), jnp.float32)

    def __call__(self, images: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Returns the projected pooled feature (B, out), or (B, N, D) of variants without pooling.

        Args:
          images: (B, H, W, 3) in [-1, 1].
          rows: (B,) int32, turns the adapters' dropout on, see `AdaptedDense`.
        """
        return self.project(self.pooled(images, rows=rows))

    def pooled(self, images: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Returns the pooled feature (B, D), or (B, 2 D) of "tok+avg", before the projection."""
        tokens, _ = self.encoder(images, rows=rows)
        return self.pool_tokens(tokens, rows=rows)

    def pool_tokens(self, tokens: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Pools tokens (B, N, D) as the variant does."""
        match self.config.pooling:
            case "attn":
                return self.pool(tokens, rows=rows)
            case "tok":
                return tokens[..., 0, :]
            case "avg":
                return _mean(tokens)
            case "tok+avg":
                # Indexing becomes a gather where the batch size is free, which ONNX has no use for.
                patches = jax.lax.slice_in_dim(tokens, self.config.prefix, None, axis=tokens.ndim - 2)
                return jnp.concatenate([tokens[..., 0, :], _mean(patches)], axis=-1)
            case "none":
                return tokens

    def project(self, pooled: jax.Array) -> jax.Array:
        """Applies the projection of variants that have one."""
        return pooled if self.config.out_dim is None else pooled @ self.proj.astype(pooled.dtype)

    def intermediates(
        self, images: jax.Array, layers: tuple[int, ...] = (-1,), *, norm: bool = False
    ) -> jax.Array:
        """Returns the tokens after each of the blocks `layers`, as features for other tasks.

        Args:
          images: (B, H, W, 3) in [-1, 1].
          layers: indices of blocks, negative ones from the end.
          norm: whether to apply the final norm of variants that have one.

        Returns:
          (len(layers), B, N, D), with any class token first.

        Raises:
          UserError: no such block.
        """
        count = self.config.layers
        if wrong := [layer for layer in layers if not -count <= layer < count]:
            expected = f"{-count} to {count - 1}"
            raise UserError(
                "no such block",
                where="layers",
                expected=expected,
                found=str(wrong[0]),
                fix="give an index in this range",
            )
        return self.encoder(images, capture=True, norm=norm, after=layers)[0]

    def states(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns every stage of the forward pass by name, for parity and probing."""
        tokens, states = self.encoder(images, capture=True)
        pooled = self.pool_tokens(tokens)
        return states | {"tokens": tokens, "pooled": pooled, "embedding": self.project(pooled)}


def _mean(tokens: jax.Array) -> jax.Array:
    channels = tokens.astype(jnp.float32).swapaxes(-1, -2)
    return row_mean(channels)[..., 0].astype(tokens.dtype)


VisionTower = VisionEncoder  # the name of 0.1
