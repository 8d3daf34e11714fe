"""The two-tower model: images and texts in one space."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.models.config import TextConfig
from softbio_jax.models.text import TextTower
from softbio_jax.models.vision import VisionTower


def normalise(x: jax.Array) -> jax.Array:
    """Returns x / max(||x||, 1e-12) for x (..., D), as torch's F.normalize has it."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def similarity_logits(
    image_features: jax.Array, text_features: jax.Array, logit_scale: jax.Array | float
) -> jax.Array:
    """Returns exp(logit_scale) norm(image) . norm(text)^T, in float32.

    Args:
      image_features: (B, out).
      text_features: (C, out).
      logit_scale: (), the logarithm of the factor.

    Returns:
      (B, C).
    """
    image, text = (normalise(x.astype(jnp.float32)) for x in (image_features, text_features))
    # The factor is near 100: cosines from bfloat16 passes would be off by whole tenths of a logit.
    return jnp.exp(logit_scale) * jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)


class CLIP(VisionTower):
    """VisionTower with a text tower; parameters `text` and `logit_scale` beside the vision ones.

    Source: perception_models `core/vision_encoder/pe.py`, `CLIP`.
    """

    text_config: TextConfig = dataclasses.field(kw_only=True)

    def setup(self) -> None:
        super().setup()
        self.text = TextTower(self.text_config, self.compute, self.adapters)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), (), jnp.float32
        )

    def __call__(  # type: ignore[override]
        self, images: jax.Array, ids: jax.Array
    ) -> jax.Array:
        """Returns the logit of each text for each image.

        Args:
          images: (B, H, W, 3) in [-1, 1].
          ids: (C, N) int32.

        Returns:
          (B, C) float32.
        """
        return similarity_logits(self.encode_image(images), self.encode_text(ids), self.logit_scale)

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Returns the image embedding (B, out), not normalised."""
        return self.project(self.pooled(images))

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Returns the text embedding (C, out), not normalised."""
        return self.text(ids)
