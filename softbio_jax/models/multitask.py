"""The multitask model: a vision tower, one pooled feature, one head a task."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from softbio_jax.models.heads import Head, HeadConfig
from softbio_jax.models.vision import VisionTower
from softbio_jax.tasks import TaskSpec


class Heads(nn.Module):
    """One head a task; parameters `heads/{task}`."""

    tasks: tuple[TaskSpec, ...]
    config: HeadConfig

    def setup(self) -> None:
        for task in self.tasks:
            setattr(self, task.name, Head(self.config, task.num_classes))

    def __call__(self, features: dict[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        return {
            task.name: getattr(self, task.name)(features[task.name], train=train)
            for task in self.tasks
        }


class MultitaskModel(VisionTower):
    """VisionTower with heads; `features` then `classify`, so that a step can run the tower over
    microbatches and the heads, with their batch statistics, once over the whole batch."""

    tasks: tuple[TaskSpec, ...] = ()
    head: HeadConfig = HeadConfig()
    feature: Literal["pooled", "projected"] = "pooled"

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
        """Returns the feature each task's head reads: {task: (B, D)}; rows as in `VisionTower`."""
        pooled = self.pooled(images, rows=rows)
        feature = self.project(pooled) if self.feature == "projected" else pooled
        if self.adapters.per_task is None:
            return {task.name: feature for task in self.tasks}
        return {task.name: feature[t] for t, task in enumerate(self.tasks)}

    def classify(
        self, features: dict[str, jax.Array], *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Maps features {task: (B, D)} to logits {task: (B, C)}."""
        return self.heads(features, train=train)
