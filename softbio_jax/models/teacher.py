"""A trained model that another learns from: its logits and feature on the images of a step."""

import dataclasses
from typing import Any

import jax

from softbio_jax.losses.distillation import mean_feature
from softbio_jax.models.attention.choice import resolved
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.forward import classify, encode
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, flatten, unflatten

Answers = dict[str, jax.Array]  # {logits/{task}: (B, C), feature: (B, E)}, float32


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A model whose outputs another learns.

    Args:
      digest: of its settings and weights.
      image_size: side in pixels of the images that it reads.
      model: encoder and heads.
      variables: {"params": encoder, pool, proj, heads, "batch_stats": heads}, float32, or their shapes.
    """

    digest: str
    image_size: int
    model: MultitaskModel
    variables: Tree

    @property
    def feature_width(self) -> int:
        """E, the number of channels of the feature."""
        config = self.model.config
        return config.out_dim or config.width if self.model.feature == "projected" else config.feature_width

    @property
    def widths(self) -> dict[str, int]:
        """The name and number of channels of each entry of `answers`."""
        logits = {f"logits/{task.name}": task.num_classes for task in self.model.tasks}
        return logits | {"feature": self.feature_width}

    def on(self, compute: ComputeConfig, devices: Any) -> "Teacher":
        """Returns the teacher computed as a run is on the devices; without a backward pass."""
        config = self.model.config
        side = self.image_size // config.patch_size
        compute = dataclasses.replace(compute, remat="none", block_rows=0, unroll=None)
        compute, _ = resolved(compute, config, devices, tokens=config.tokens_on((side, side)))
        return dataclasses.replace(self, model=self.model.clone(compute=compute))

    def narrowed(self, dtype: Any) -> Tree:
        """Returns the variables with the kernels of the encoder and its pooling in another type."""
        flat = flatten(self.variables)
        kernels = {
            path
            for path in flat
            if path.startswith(("params/encoder/", "params/pool/")) and path.endswith("/kernel")
        }
        return unflatten(
            {path: _as_type(leaf, dtype) if path in kernels else leaf for path, leaf in flat.items()}
        )

    def answers(self, variables: Tree, images: jax.Array) -> Answers:
        """Returns the logits and the feature of a batch, without dropout and without gradient.

        Args:
          variables: as `narrowed` returns them, also as `per_layer` does.
          images: (B, V, V, 3) float32 in [-1, 1], resized to the teacher's side.
        """
        features = encode(self.model, variables["params"], resized(images, self.image_size))
        logits = classify(self.model, variables, features)
        found = {f"logits/{task}": values for task, values in logits.items()}
        return jax.lax.stop_gradient(found | {"feature": mean_feature(features)})


def resized(images: jax.Array, size: int) -> jax.Array:
    """Returns square images (B, V, V, 3) at another side, bilinear, with antialias where they shrink."""
    if images.shape[1] == size:
        return images
    return jax.image.resize(images, (images.shape[0], size, size, 3), "linear", antialias=True)


def _as_type(leaf: Any, dtype: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)
