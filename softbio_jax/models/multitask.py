"""The multitask model: a vision encoder, its pooled feature, one head per task."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.errors import UserError
from softbio_jax.models import age_heads
from softbio_jax.models.elementwise import gelu
from softbio_jax.models.vision import VisionEncoder
from softbio_jax.ranges import Dropout, check_fields
from softbio_jax.tasks import AGE, NUM_YEARS, TaskSpec

AgeHead = Literal["classes", "ordinal", "years"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A head: `deep` is Linear(D, D) - GELU - Linear(D, C), `linear` is Linear(D, C)."""

    kind: Literal["deep", "linear"] = "deep"  # two layers or one
    batch_norm: bool = True  # of the feature, without which the layers read it as it is
    dropout: Dropout = 0.5  # of the layers' input
    age: AgeHead = "classes"  # what the age head predicts: classes, ordinal (CORN) or years, 0 to 100

    def __post_init__(self) -> None:
        check_fields(self, "head")

    def outputs(self, task: TaskSpec) -> int:
        """Returns the number of outputs of a task's head."""
        if task.name != AGE.name or self.age == "classes":
            return task.num_classes
        return NUM_YEARS if self.age == "years" else task.num_classes - 1


class BatchNorm(nn.Module):
    """Batch normalisation over B with torch's conventions: eps 1e-5, momentum 0.1, and the
    running variance unbiased where the normalising one is not (flax's is biased in both).

    Under jit the statistics are those of the global batch, regardless of its sharding.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train:
            m, v = x.mean(axis=0), x.var(axis=0)
            if not self.is_initializing():
                unbiased = v * (x.shape[0] / max(x.shape[0] - 1, 1))
                mean.value += self.momentum * (jax.lax.stop_gradient(m) - mean.value)
                var.value += self.momentum * (jax.lax.stop_gradient(unbiased) - var.value)
        else:
            m, v = mean.value, var.value
        m, v, scale, bias = (vector[None] for vector in (m, v, scale, bias))
        return (x - m) * jax.lax.rsqrt(v + self.epsilon) * scale + bias


class Head(nn.Module):
    """Maps a pooled feature (B, D) to outputs (B, K), in float32: logits of classes or years, or CORN's."""

    config: HeadConfig
    outputs: int

    @nn.compact
    def __call__(self, feature: jax.Array, *, train: bool) -> jax.Array:
        x = feature.astype(jnp.float32)
        if self.config.batch_norm:
            x = BatchNorm(name="norm")(x, train=train)
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        if self.config.kind == "deep":
            x = gelu(nn.Dense(x.shape[-1], name="dense_0", param_dtype=jnp.float32)(x))
        return nn.Dense(self.outputs, name="dense_out", param_dtype=jnp.float32)(x)


class Heads(nn.Module):
    """One head per task; parameters `heads/{task}`."""

    tasks: tuple[TaskSpec, ...]
    config: HeadConfig

    def setup(self) -> None:
        for task in self.tasks:
            setattr(self, task.name, Head(self.config, self.config.outputs(task)))

    def __call__(self, features: dict[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        return {task.name: getattr(self, task.name)(features[task.name], train=train) for task in self.tasks}


def by_class(logits: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns logits of classes, {task: (B, C)}, also for a head of years (B, 101)."""
    if AGE.name not in logits or logits[AGE.name].shape[-1] != NUM_YEARS:
        return logits
    return logits | {AGE.name: age_heads.classes_of_years(logits[AGE.name])}


def check_tasks(names: Sequence[str], *, where: str) -> None:
    """Raises UserError for no task, a task twice, or a name that a module's attribute has."""
    taken = [name for name in names if hasattr(Heads, name) or name in Heads.__annotations__]
    repeated = [name for name in names if list(names).count(name) > 1]
    if taken or repeated or not names:
        raise UserError(
            "bad tasks",
            where=where,
            expected="one or more tasks, each once" if not taken else "names that no part of a module has",
            found=repr((taken or repeated or [""])[0]),
            fix="rename it" if taken else "name each task once",
        )


class MultitaskModel(VisionEncoder):
    """VisionEncoder with heads; `features` then `classify`, so that a step can run the encoder over
    microbatches and the heads, with their batch statistics, once over the complete batch.

    flip_average is for `forward.forward`, which predicts, alone: training and the module do not read it."""

    tasks: tuple[TaskSpec, ...] = ()
    head: HeadConfig = HeadConfig()
    feature: Literal["pooled", "projected"] = "pooled"
    flip_average: bool = False

    def setup(self) -> None:
        self.build(self.adapters.for_tasks(len(self.tasks)))
        self.heads = Heads(self.tasks, self.head)

    def __call__(  # type: ignore[override]
        self, images: jax.Array, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Maps images (B, H, W, 3) in [-1, 1] to logits {task: (B, C)}."""
        rows = jnp.arange(len(images)) if train else None
        return self.classify(self.features(images, rows=rows), train=train)

    def features(self, images: jax.Array, *, rows: jax.Array | None = None) -> dict[str, jax.Array]:
        """Returns the feature each task's head reads: {task: (B, D)}; rows as in `VisionEncoder`."""
        pooled = self.pooled(images, rows=rows)
        feature = self.project(pooled) if self.feature == "projected" else pooled
        if self.adapters.per_task is None:
            return {task.name: feature for task in self.tasks}
        return {task.name: feature[t] for t, task in enumerate(self.tasks)}

    def classify(self, features: dict[str, jax.Array], *, train: bool = False) -> dict[str, jax.Array]:
        """Maps features {task: (B, D)} to logits {task: (B, C)}.

        A head of years keeps its bins (B, 101) in training, whose labels may be as fine.
        """
        logits = self.heads(features, train=train)
        if self.head.age == "ordinal" and AGE.name in logits:
            logits |= {AGE.name: age_heads.ordinal_log_probabilities(logits[AGE.name])}
        return logits if train else by_class(logits)

    def expected_years(self, features: dict[str, jax.Array]) -> jax.Array:
        """Returns the expected age in years (B,) of a head of years, for features {task: (B, D)}."""
        return age_heads.expected_years(self.heads(features, train=False)[AGE.name])
