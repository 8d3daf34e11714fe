"""The forward pass: uint8 images and variables in, features and logits per task out."""

import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.tasks import AGE

Features = dict[str, jax.Array]  # {task: (B, D)}
Logits = dict[str, jax.Array]  # {task: (B, C)}, float32

_KERNEL_OF_BLOCKS = re.compile(r"(.*/)?encoder/(trunk|tail)/.*kernel")


class Forward(NamedTuple):
    """Features and logits per task of one batch, and the expected age in years (B,) of a head of years."""

    features: Features
    logits: Logits
    expected_years: jax.Array | None


def forward(model: MultitaskModel, variables: Tree, images: jax.Array) -> Forward:
    """Returns the predictions for a batch, without dropout and with running statistics.

    With the model's flip_average, logits and years are the means (f(x) + f(flip(x))) / 2 over an image x and
    its mirror image, at twice the cost; the features are those of x.

    Args:
      model: encoder and heads.
      variables: `params`, and `batch_stats` of the heads; also as `per_layer` returns them.
      images: (B, H, W, 3) uint8, RGB.
    """
    if model.flip_average:  # side by side, so that a batch divided among devices stays divided
        images = jnp.stack([images, jnp.flip(images, axis=2)], axis=1).reshape(-1, *images.shape[1:])
    features = encode(model, variables["params"], images)
    logits, years = classify(model, variables, features), None
    if model.head.age == "years" and AGE.name in logits:
        years = _apply(model, variables, features, method="expected_years")
    if model.flip_average:
        features = {task: feature[::2] for task, feature in features.items()}
        logits = {task: _mean_of_pairs(values) for task, values in logits.items()}
        years = None if years is None else _mean_of_pairs(years)
    return Forward(features, logits, years)


def _mean_of_pairs(values: jax.Array) -> jax.Array:
    return values.reshape(-1, 2, *values.shape[1:]).mean(axis=1)


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


def per_layer(model: VisionEncoder, tree: Tree) -> Tree:
    """Returns parameters whose kernels of blocks are tuples (L,) of arrays, if the blocks are unrolled.

    A compiled pass reads such kernels where they are, and those of a stack after a copy. The functions of
    this module accept both forms; trained kernels stay stacked, as their gradients are.

    Args:
      model: its compute has unroll resolved, see `attention.choice.resolved`; None counts as 1.
      tree: parameters that are not trained, or variables, (L, in, out) on the host or a device; or their
        shapes, which lose a sharding.
    """
    if (model.compute.unroll or 1) < model.config.layers:
        return tree

    def split(leaf: Any) -> tuple[Any, ...]:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return (jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),) * leaf.shape[0]
        return tuple(np.asarray(leaf))

    flat = flatten(tree)
    kernels = {path: split(leaf) for path, leaf in flat.items() if _KERNEL_OF_BLOCKS.fullmatch(path)}
    return unflatten(flat | kernels)


def stacked(tree: Tree) -> Tree:
    """Returns the parameters of `per_layer` with stacked kernels (L, in, out) again."""
    # XLA replaces a slice of what is joined here by the part itself.
    flat = {path: jnp.stack(x) if isinstance(x, tuple) else x for path, x in flatten(tree).items()}
    return unflatten(flat)


def _floats(images: jax.Array) -> jax.Array:
    return normalize(images) if images.dtype == jnp.uint8 else images


def _apply(module: nn.Module, variables: Tree, *args: Any, **kwargs: Any) -> Any:
    # Flax types what apply returns as a union of all modules' outputs.
    return module.apply(variables | {"params": stacked(variables["params"])}, *args, **kwargs)
