"""Learning from a teacher: the divergence from its softened outputs and the distance to its feature.

Sources: Hinton et al. 2015, arXiv:1503.02531; of the feature, Romero et al. 2015, arXiv:1412.6550.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax

from softbio_jax.losses.masked import MaskedMean, masked_mean
from softbio_jax.params import Tree
from softbio_jax.ranges import Range, check_fields

_LEAST = 1e-12  # of a squared norm, so that the feature 0 has a gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """A trained model that a run learns from; without a teacher, nothing else is read."""

    teacher: str = ""  # a run directory, saved model or hub id; empty: the labels alone
    weight: Annotated[float, Range(0, 1, above=True)] = 0.5  # w of the teacher's term; the labels have 1 - w
    temperature: Annotated[float, Range(0, 100, above=True)] = 2.0  # T that softens both outputs
    feature: Literal["none", "cosine", "mse"] = "none"  # distance of a projection to the teacher's feature
    feature_weight: Annotated[float, Range(0, 1e6)] = 1.0  # of that term
    # live: the teacher runs in every step; cached: once per image and view, of train.cache_views
    targets: Literal["live", "cached"] = "live"
    digest: str = ""  # of the teacher, set when it is read; another one is an error
    # channels of the teacher's feature, set when it is read; 0: unknown
    feature_width: Annotated[int, Range(0, 2**17)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "distill")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """L_t = (1 - w) CE_t + w T^2 KL_t for each task, and a term of the feature; see `RunConfig.distill`.

    CE_t is the mean over the examples with a label of the task, KL_t over those that the teacher saw. A task
    without labels in the global batch learns from the teacher alone. The arguments are the fields of the
    same names.
    """

    weight: float  # w
    temperature: float  # T
    feature: Literal["none", "cosine", "mse"]
    feature_weight: float

    def losses(
        self,
        labelled: Mapping[str, MaskedMean],
        logits: Mapping[str, jax.Array],
        batch: Mapping[str, jax.Array],
    ) -> tuple[dict[str, MaskedMean], dict[str, jax.Array]]:
        """Returns L_t of each task, and the metrics that it is made of.

        Args:
          labelled: CE_t.
          logits: {task: (B, C)}.
          batch: teacher/seen (B,) bool and teacher/logits/{task} (B, C).
        """
        seen = batch["teacher/seen"]
        mixed: dict[str, MaskedMean] = {}
        metrics: dict[str, jax.Array] = {}
        for task, hard in labelled.items():
            taught = batch[f"teacher/logits/{task}"]
            soft = masked_mean(divergence(logits[task], taught, self.temperature), seen)
            count = jnp.maximum(hard.count, soft.count)
            value = (1 - self.weight) * hard.value + self.weight * soft.value
            mixed[task] = MaskedMean(value * count, count)
            agrees = logits[task].argmax(-1) == taught.argmax(-1)
            metrics |= {
                f"count/{task}": hard.count,
                f"labels/{task}": hard.value,
                f"teacher/{task}": soft.value,
                f"agreement/{task}": masked_mean(agrees.astype(jnp.float32), seen).value,
            }
        return mixed, metrics

    def feature_term(
        self, features: Mapping[str, jax.Array], projection: Tree, batch: Mapping[str, jax.Array]
    ) -> jax.Array:
        """Returns the weighted mean distance of the student's projected feature to the teacher's, ().

        Args:
          features: {task: (B, D)}; of features per task their mean counts.
          projection: kernel (D, E).
          batch: teacher/seen (B,) bool and teacher/feature (B, E).
        """
        own = mean_feature(features) @ projection["kernel"]
        found = distance(own, batch["teacher/feature"], self.feature)
        return self.feature_weight * masked_mean(found, batch["teacher/seen"]).value


def divergence(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Returns T^2 KL(softmax(teacher / T) || softmax(student / T)) of each example.

    The gradient with respect to the student's logits is T (q - p), whose size hardly depends on T.

    Args:
      student: logits (B, C).
      teacher: logits (B, C).
      temperature: T > 0.

    Returns:
      (B,) float32, in nats.
    """
    p = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    q = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def distance(student: jax.Array, teacher: jax.Array, kind: Literal["none", "cosine", "mse"]) -> jax.Array:
    """Returns 1 - cos(student, teacher), or the mean over E of the squared difference.

    Args:
      student: (B, E).
      teacher: (B, E).
      kind: cosine or mse.

    Returns:
      (B,) float32.
    """
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    if kind == "cosine":
        return optax.losses.cosine_distance(student, teacher, epsilon=_LEAST)
    return jnp.mean(jnp.square(student - teacher), axis=-1)


def mean_feature(features: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the mean over the tasks of {task: (B, D)}, in float32; of a shared feature, that itself."""
    first, *others = features.values()
    if all(feature is first for feature in others):
        return first.astype(jnp.float32)
    return jnp.mean(jnp.stack([first, *others]).astype(jnp.float32), axis=0)
