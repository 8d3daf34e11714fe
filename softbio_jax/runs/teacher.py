"""A trained model that another learns from, and train steps whose batches get its outputs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from softbio_jax import coverage
from softbio_jax.data.augment import augment, augment_views
from softbio_jax.errors import UserError
from softbio_jax.losses.distillation import Distillation, DistillConfig, mean_feature
from softbio_jax.models.attention.choice import resolved
from softbio_jax.models.config import ComputeConfig
from softbio_jax.models.forward import classify, encode
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, flatten, unflatten
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import Batch, Metrics, StepConfig, TrainStep, in_parts

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

    def cached_shapes(self, batch: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Returns the shapes and types of what `with_cached_teacher` reads of a batch, by name."""
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            f"teacher/{name}": ((batch, width), jnp.float32) for name, width in self.widths.items()
        }
        rows = {"view": jnp.int32, "row": jnp.int32, "set": jnp.uint32}
        return shapes | {f"teacher/{name}": ((batch,), dtype) for name, dtype in rows.items()}

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


def distillation(config: DistillConfig, teacher: Teacher | None) -> Distillation:
    """Returns what a run's step learns from its teacher.

    Raises:
      UserError: a teacher that was not read.
    """
    if teacher is None:
        raise UserError(
            "the teacher was not read",
            where=f"distill.teacher={config.teacher}",
            fix="start the run by train_and_evaluate, or build it with the teacher of train.distillation",
        )
    names = (field.name for field in dataclasses.fields(Distillation))
    return Distillation(**{name: getattr(config, name) for name in names})


def with_teacher(
    step: TrainStep,
    teacher: Teacher,
    config: StepConfig,
    *,
    image_size: int,
    mean: tuple[float, float, float],
) -> TrainStep:
    """Returns a step whose batches get the outputs of a teacher that reads the same augmented images.

    Its frozen tree is {"own": that of the step, "teacher": the teacher's variables}. Images are augmented at
    the larger of both sides. One that is black, as an undecodable one is loaded, teaches nothing.

    Args:
      step: of `make_train_step`.
      teacher: runs over as many microbatches as the encoder.
      config: of the step.
      image_size: side of the step's images.
      mean: of the encoder, see `augment`.
    """

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        augment_key, _ = jax.random.split(key)
        with jax.named_scope("augment"):
            views = augment(batch["image"], augment_key, batch["index"], config=config.augment, mean=mean)
        with jax.named_scope("teacher"):

            def answers(images: jax.Array) -> dict[str, jax.Array]:
                return teacher.answers(frozen["teacher"], images)

            found = in_parts(answers, (views,), config.microbatches)
        found = {f"teacher/{name}": values for name, values in found.items()}
        return step(state, frozen["own"], _taught(batch, views, image_size) | found, key)

    return train_step


def with_cached_teacher(
    step: TrainStep, config: StepConfig, *, seed: int, image_size: int, mean: tuple[float, float, float]
) -> TrainStep:
    """Returns a step whose batches hold the outputs of a teacher for one view of each image.

    They are those of `Distillation`, and teacher/view, teacher/set and teacher/row (B,) of `augment_views`.

    Args:
      step: of `make_train_step`.
      config: of the step.
      seed: of the run.
      image_size: side of the step's images.
      mean: of the encoder, see `augment`.
    """

    def train_step(
        state: TrainState, frozen: Tree, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        which = (batch[f"teacher/{name}"] for name in ("view", "set", "row"))
        with jax.named_scope("augment"):
            views = augment_views(batch["image"], *which, seed=seed, config=config.augment, mean=mean)
        return step(state, frozen, _taught(batch, views, image_size), key)

    return train_step


def _taught(batch: Batch, views: jax.Array, size: int) -> dict[str, jax.Array]:
    """Returns the batch with augmented images of the step's side, and which of them are not black."""
    seen = (batch["image"] > 0).any(axis=(1, 2, 3))
    return dict(batch) | {"image": resized(views, size), "teacher/seen": seen}
