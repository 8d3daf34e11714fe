"""The text tower: token ids to one embedding a text."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.models.blocks import Block
from softbio_jax.models.config import ComputeConfig, TextConfig
from softbio_jax.models.norm import LayerNorm
from softbio_jax.models.stack import stack


class TextTower(nn.Module):
    """A Perception Encoder's text side: causal pre-norm blocks without rotary positions.

    Parameters: token_embedding (V, D), positional_embedding (context, D), trunk, ln_final and
    text_projection (D, out).

    Source: perception_models `core/vision_encoder/pe.py`, `TextTransformer`.
    """

    config: TextConfig
    compute: ComputeConfig = ComputeConfig()
    adapters: AdapterRules = NO_ADAPTERS

    @nn.compact
    def __call__(self, ids: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Returns the embedding of each text, read where its id is largest, the end-of-text.

        Args:
          ids: (B, N) int32 in [0, V), N <= context; what follows the end-of-text is not read.
          rows: (B,) int32, turns the adapters' dropout on, see `AdaptedDense`.

        Returns:
          (B, out), not normalised.
        """
        c, dtype = self.config, jnp.dtype(self.compute.dtype)
        table = self.param(
            "token_embedding", nn.initializers.normal(0.02), (c.vocab, c.width), jnp.float32
        )
        places = self.param(
            "positional_embedding", nn.initializers.normal(0.01), (c.context, c.width), jnp.float32
        )
        # Rows are gathered before the cast, so that the whole vocabulary is never copied.
        x = table[ids].astype(dtype) + places[: ids.shape[1]].astype(dtype)
        make = functools.partial(_block, config=c, compute=self.compute, adapters=self.adapters)
        run = stack(make, layers=c.layers, name="trunk", compute=self.compute, capture=False)
        x, _ = run(x, None, rows)
        x = LayerNorm(name="ln_final")(x).astype(dtype)
        pooled = jnp.take_along_axis(x, ids.argmax(axis=-1)[:, None, None], axis=1)[:, 0]
        projection = self.param(
            "text_projection", nn.initializers.normal(c.width**-0.5), (c.width, c.out_dim),
            jnp.float32,
        )  # fmt: skip
        return pooled @ projection.astype(dtype)


def _block(
    name: str, *, config: TextConfig, compute: ComputeConfig, adapters: AdapterRules
) -> Block:
    return Block(config.heads, config.mlp_width, None, compute, adapters, causal=True,
                 name=name)  # fmt: skip
