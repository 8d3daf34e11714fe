"""The three tasks and their classes, shared by every data set, head and table."""

import dataclasses
from typing import Annotated

from softbio_jax.ranges import Distinct, Name, check_fields
from softbio_jax.registry import Registry

Classes = Annotated[tuple[Annotated[str, Name(slash=True)], ...], Distinct(1)]
MISSING = -1  # the label of an example without one for a task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A classification task: its name and its classes in label order."""

    name: Annotated[str, Name()]
    classes: Classes

    def __post_init__(self) -> None:
        check_fields(self, f"task {self.name}")

    @property
    def num_classes(self) -> int:
        return len(self.classes)


AGE = TaskSpec(
    name="age", classes=("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
)
# The completed years [first, end) of each age class. The last year stands for itself and all above.
AGE_SPANS = ((0, 3), (3, 10), (10, 20), (20, 30), (30, 40), (40, 50), (50, 60), (60, 70), (70, 101))
NUM_YEARS = AGE_SPANS[-1][1]  # 0 to 100
GENDER = TaskSpec(name="gender", classes=("male", "female"))
# RAF-DB's order.
EMOTION = TaskSpec(
    name="emotion", classes=("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
)
TASKS = Registry[TaskSpec]("task", where="tasks", group="softbio_jax.tasks")
for _task in (AGE, GENDER, EMOTION):
    TASKS.add(_task.name, _task)
