"""What is timed: one computation, described so that both sides can build it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from softbio_jax.models.config import ComputeConfig
from softbio_jax.tasks import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A train step or a forward pass of the adapted encoder with its heads.

    Args:
      work: "train", an optimizer step from uint8 images on the host; "forward", a pass in
        evaluation mode from the same.
      method: how the encoder is adapted; "merged" has no adapters and only makes sense forward.
      variant: the encoder, by its PE name.
      batch: B, images.
      image_size: S, pixels.
      layers: L; 0: the variant's own.
      rank: R of every adapter; alpha is R as well.
      tasks: the heads.
      dtype: what is computed in; parameters that are trained stay float32.
      remat: of this package alone; by default its own.
      attention: of this package alone: by default the device's own, on a GPU in bfloat16 cuDNN's.
      steps: steps or passes in one repetition, waited for once at its end.
    """

    work: Literal["train", "forward"]
    method: Literal["lora", "dora", "mtlora", "ft4", "merged"]
    variant: str
    batch: int
    image_size: int
    layers: int = 0
    rank: int = 16
    tasks: tuple[str, ...] = tuple(TASKS)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: str = ComputeConfig().remat
    attention: Literal["auto", "xla"] = "auto"
    steps: int = 1

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Workload":
        return Workload(**dict(values) | {"tasks": tuple(values["tasks"])})

    @property
    def batch_norm(self) -> bool:
        """Whether the heads normalise over the batch: torch refuses to with one image."""
        return self.batch > 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartWork:
    """A train step to compile, and the folder that keeps compiled programs; empty: none does."""

    workload: Workload
    cache: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"workload": self.workload.to_json(), "cache": self.cache}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdleWork:
    """A train step, and the images of an `InputWork` that feed it."""

    workload: Workload
    images: Any

    def to_json(self) -> dict[str, Any]:
        return {"workload": self.workload.to_json(), "images": self.images.to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureWork:
    """A part of training on cached features, with its arguments; see `benchmarks.ours.features`."""

    part: Literal["epoch", "sweep", "probe"]
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"part": self.part, "arguments": dict(self.arguments)}


def example_batch(workload: Workload) -> dict[str, Any]:
    """Draws images that are decoded already, and labels of which each task misses some."""
    rng = np.random.default_rng(0)
    size, rows = workload.image_size, workload.batch
    batch: dict[str, Any] = {
        "image": rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        "index": np.arange(rows),
        "example": np.arange(rows),
    }
    for number, task in enumerate(workload.tasks):
        labels = rng.integers(0, TASKS[task].num_classes, rows).astype(np.int32)
        labels[(np.arange(rows) + number) % 3 == 2] = -1
        batch |= {f"labels/{task}": labels, f"mask/{task}": labels >= 0}
    return batch
