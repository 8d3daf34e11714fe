"""The configuration of labels that are not one certain class."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from softbio_jax.ranges import Distinct, Name, Range, check_fields
from softbio_jax.tasks import AGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How training uses labels that are not one certain class, see docs/labels.md."""

    # tasks whose ranges, years and votes are labels too
    partial: Annotated[tuple[Annotated[str, Name()], ...], Distinct()] = ()
    # share of each label that is spread over all classes
    smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    # training set -> task -> rate of wrong labels, or the rows of P(label | true class)
    noise: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "data.labels")

    def kinds(self) -> dict[str, str]:
        """Returns the tasks whose labels are weights of classes: those of a set (target), or votes."""
        noisy = {task: "target" for tasks in self.noise.values() for task in tasks}
        return noisy | {task: "target" if task == AGE.name else "votes" for task in self.partial}
