"""A trained model that another learns from: its logits and feature on the images of a step."""

import dataclasses
from typing import Any

import jax

from softbio_jax import coverage
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
      name: for messages.
      digest: of its settings and weights.
      tasks: names of those that it teaches.
      feature: whether it also teaches its feature.
      image_size: side in pixels of the images that it reads.
      model: encoder and heads.
      variables: {"params": encoder, pool, proj, heads, "batch_stats": heads}, float32, or their shapes.
      training_images: see `coverage`; a class that it was trained on is not unknown to its student.
    """

    name: str
    digest: str
    tasks: tuple[str, ...]
    feature: bool
    image_size: int
    model: MultitaskModel
    variables: Tree
    training_images: coverage.TrainingImages = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}, digest {self.digest}, {self.image_size} x {self.image_size} pixels"

    @property
    def feature_width(self) -> int:
        """E, the number of channels of the feature."""
        config = self.model.config
        return config.out_dim or config.width if self.model.feature == "projected" else config.feature_width

    @property
    def widths(self) -> dict[str, int]:
        """The name and number of channels of each entry of `answers`."""
        logits = {
            f"logits/{task.name}": task.num_classes for task in self.model.tasks if task.name in self.tasks
        }
        return logits | ({"feature": self.feature_width} if self.feature else {})

    def abstract(self) -> "Teacher":
        """Returns the teacher with the shapes of its variables alone, as planning needs it."""
        shapes = jax.eval_shape(lambda: self.variables)
        return dataclasses.replace(self, variables=shapes)

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
        """Returns what a batch is taught, without dropout and without gradient; see `widths`.

        Args:
          variables: as `narrowed` returns them, also as `per_layer` does.
          images: (B, V, V, 3) float32 in [-1, 1], resized to the teacher's side.
        """
        features = encode(self.model, variables["params"], resized(images, self.image_size))
        logits = classify(self.model, variables, features)
        found = {f"logits/{task}": logits[task] for task in self.tasks}
        found |= {"feature": mean_feature(features)} if self.feature else {}
        return jax.lax.stop_gradient(found)


def resized(images: jax.Array, size: int) -> jax.Array:
    """Returns square images (B, V, V, 3) at another side, bilinear, with antialias where they shrink."""
    if images.shape[1] == size:
        return images
    return jax.image.resize(images, (images.shape[0], size, size, 3), "linear", antialias=True)


def _as_type(leaf: Any, dtype: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)
