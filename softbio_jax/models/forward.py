"""The forward pass: uint8 images and variables in, features and logits per task out."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import Tree

Features = dict[str, jax.Array]  # {task: (B, D)}
Logits = dict[str, jax.Array]  # {task: (B, C)}, float32


class Forward(NamedTuple):
    """Features and logits per task of one batch."""

    features: Features
    logits: Logits


def forward(model: MultitaskModel, variables: Tree, images: jax.Array) -> Forward:
    """Returns the features and logits of a batch, without dropout and with running statistics.

    Args:
      model: encoder and heads.
      variables: `params`, and `batch_stats` of the heads.
      images: (B, H, W, 3) uint8, RGB.
    """
    features = encode(model, variables["params"], images)
    return Forward(features, classify(model, variables, features))


def encode(
    model: MultitaskModel,
    params: Tree,
    images: jax.Array,
    *,
    rows: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> Features:
    """Returns the feature that each task's head reads.

    Args:
      model: encoder and heads.
      params: those of the encoder are read.
      images: (B, H, W, 3), uint8, or float32 in [-1, 1] as `augment` returns them.
      rows: (B,) int32, turns the adapters' dropout on, see `AdaptedDense`.
      dropout_key: of that dropout.
    """
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    features: Features = _apply(
        model, {"params": params}, _floats(images), rows=rows, method="features", rngs=rngs
    )
    return features


def classify(model: MultitaskModel, variables: Tree, features: Features) -> Logits:
    """Returns the heads' logits, without dropout and with running statistics."""
    logits: Logits = _apply(model, variables, features, method="classify")
    return logits


def classify_in_training(
    model: MultitaskModel, variables: Tree, features: Features, dropout_key: jax.Array
) -> tuple[Logits, Tree]:
    """Returns the heads' logits under dropout, and the running statistics with this batch in."""
    logits, updated = _apply(
        model,
        variables,
        features,
        train=True,
        method="classify",
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
    )
    return logits, updated.get("batch_stats", {})


def embed(encoder: VisionEncoder, params: Tree, images: jax.Array) -> jax.Array:
    """Returns the projected image embedding (B, out) of uint8 images (B, H, W, 3)."""
    embedding: jax.Array = _apply(encoder, {"params": params}, _floats(images))
    return embedding


def normalize(images: jax.Array) -> jax.Array:
    """Returns x / 127.5 - 1, which is (x / 255 - 0.5) / 0.5.

    Args:
      images: (B, H, W, 3) in 0..255, of any type.

    Returns:
      (B, H, W, 3) float32 in [-1, 1].
    """
    return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0


def _floats(images: jax.Array) -> jax.Array:
    return normalize(images) if images.dtype == jnp.uint8 else images


def _apply(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    # Flax types what apply returns as a union of all modules' outputs.
    return module.apply(*args, **kwargs)
