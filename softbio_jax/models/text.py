"""The text encoder: token ids to one embedding per text; and CLIP, which has both encoders."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.adapters.config import NO_ADAPTERS, AdapterRules
from softbio_jax.models.blocks import Block, stack
from softbio_jax.models.config import ComputeConfig, TextConfig
from softbio_jax.models.elementwise import LayerNorm
from softbio_jax.models.vision import VisionEncoder


class TextEncoder(nn.Module):
    """The text encoder of every family, as its `TextConfig` declares: pre-norm blocks, no rotary positions.

    Parameters: token_embedding (V, D), positional_embedding (context, D), trunk, ln_final,
    text_projection (D, out) and, where it is declared, text_projection_bias (out,).

    Source: perception_models `core/vision_encoder/pe.py`, `TextTransformer`.
    """

    config: TextConfig
    compute: ComputeConfig = ComputeConfig()
    adapters: AdapterRules = NO_ADAPTERS

    @nn.compact
    def __call__(self, ids: jax.Array, *, rows: jax.Array | None = None) -> jax.Array:
        """Returns the embeddings (B, out), not normalised.

        Args:
          ids: (B, N) int32 in [0, V), N <= context. With pooling "end" those after the end-of-text are not
            read; with "last" N is the context, as in training.
          rows: (B,) int32, turns the adapters' dropout on, see `AdaptedDense`.
        """
        c, dtype = self.config, jnp.dtype(self.compute.dtype)
        table = self.param("token_embedding", nn.initializers.normal(0.02), (c.vocab, c.width), jnp.float32)
        places = self.param(
            "positional_embedding", nn.initializers.normal(0.01), (c.context, c.width), jnp.float32
        )
        # Rows are gathered before the cast, so that the vocabulary is never copied.
        x = table[ids].astype(dtype) + places[None, : ids.shape[1]].astype(dtype)
        make = functools.partial(_block, config=c, compute=self.compute, adapters=self.adapters)
        run = stack(make, layers=c.layers, name="trunk", compute=self.compute, capture=False)
        (x,), _ = run((x,), None, None if rows is None else (rows,))
        x = LayerNorm(c.norm_eps, name="ln_final")(x).astype(dtype)
        if c.pooling == "last":
            pooled = x[:, -1]
        else:
            pooled = jnp.take_along_axis(x, ids.argmax(axis=-1)[:, None, None], axis=1)[:, 0]
        projection = self.param(
            "text_projection", nn.initializers.normal(c.width**-0.5), (c.width, c.out_dim), jnp.float32
        )
        embedding = pooled @ projection.astype(dtype)
        if not c.projection_bias:
            return embedding
        bias = self.param("text_projection_bias", nn.initializers.zeros, (c.out_dim,), jnp.float32)
        return embedding + bias.astype(dtype)[None]


def _block(name: str, *, config: TextConfig, compute: ComputeConfig, adapters: AdapterRules) -> Block:
    own: dict[str, Any] = {"activation": config.activation, "norm_eps": config.norm_eps}
    own |= {"causal": config.causal, "name": name}
    return Block(config.heads, config.mlp_width, None, compute, adapters, **own)


def normalise(x: jax.Array) -> jax.Array:
    """Returns x / max(||x||, 1e-12) for x (..., D), as torch's F.normalize."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def similarity_logits(
    image_features: jax.Array,
    text_features: jax.Array,
    logit_scale: jax.Array | float,
    logit_bias: jax.Array | float = 0.0,
) -> jax.Array:
    """Returns exp(logit_scale) cos(image, text) + logit_bias, float32: (B, out), (C, out) to (B, C)."""
    image, text = (normalise(x.astype(jnp.float32)) for x in (image_features, text_features))
    # The factor is near 100: cosines from bfloat16 passes would be off by tenths of a logit.
    cosines = jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.exp(logit_scale) * cosines + logit_bias


class CLIP(VisionEncoder):
    """VisionEncoder with a text encoder; parameters `text`, `logit_scale` and, where declared, `logit_bias`.

    Source: perception_models `core/vision_encoder/pe.py`, `CLIP`; for the bias Zhai et al. 2023,
    arXiv:2303.15343.
    """

    text_config: TextConfig = dataclasses.field(kw_only=True)

    def setup(self) -> None:
        super().setup()
        self.text = TextEncoder(self.text_config, self.compute, self.adapters)
        biased = self.text_config.logit_bias
        start = math.log(10 if biased else 1 / 0.07)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(start), (), jnp.float32)
        self.logit_bias: jax.Array | float = 0.0
        if biased:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), (), jnp.float32)

    def __call__(  # type: ignore[override]
        self, images: jax.Array, ids: jax.Array
    ) -> jax.Array:
        """Returns logits (B, C) float32 of images (B, H, W, 3) in [-1, 1] and texts (C, N) int32."""
        image, text = self.encode_image(images), self.encode_text(ids)
        return similarity_logits(image, text, self.logit_scale, self.logit_bias)

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the image embedding (B, out), not normalised."""
        return self.project(self.pooled(images))

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Returns the text embedding (C, out), not normalised."""
        return self.text(ids)


TextTower = TextEncoder  # the name of 0.1
