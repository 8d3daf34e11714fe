"""The validation of a run: losses and accuracies over its validation rows, and the best step so far."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

from softbio_jax.console import Console
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.runs.session import Outputs, Session


@dataclasses.dataclass
class ValidationHistory:
    """The best validation step so far, and the validations since: for stopping and plateaus."""

    best: float = math.inf
    best_step: int | None = None
    since_best: int = 0
    since_drop: int = 0

    def update(self, step: int, loss: float) -> None:
        """Adds the validation loss of a step."""
        improved = loss < self.best
        if improved:
            self.best, self.best_step = loss, step
        self.since_best = 0 if improved else self.since_best + 1
        self.since_drop = 0 if improved else self.since_drop + 1

    def to_json(self) -> dict[str, float | int | None]:
        """Returns JSON values; JSON has no infinity, so it becomes null."""
        values = dataclasses.asdict(self)
        return values | {"best": None if math.isinf(self.best) else self.best}

    @classmethod
    def from_json(cls, values: dict) -> Self:
        """Returns the history that `to_json` wrote."""
        return cls(**values | {"best": math.inf if values["best"] is None else values["best"]})


def validate(session: Session, sets: Sequence[PreparedDataset], *, console: Console) -> dict[str, float]:
    """Returns each task's mean loss and accuracy over the rows of all sets, and the losses' sum.

    Args:
      session: the run.
      sets: validation rows.
      console: checked before every batch, which may end the pass.

    Returns:
      val/{task}/loss, val/{task}/accuracy and val/loss, the unweighted sum of the losses.
    """
    outputs = [session.predict(dataset, console=console) for dataset in sets]
    scalars = Outputs.concatenate(outputs).losses()
    loss = sum(value for name, value in scalars.items() if name.endswith("/loss"))
    return {"val/loss": loss} | {f"val/{name}": value for name, value in scalars.items()}


def summary(scalars: Mapping[str, float]) -> str:
    """Returns the loss and accuracies of `validate` as one line."""
    return "  ".join([f"loss {scalars['val/loss']:.4f}", *accuracies(scalars)])


def accuracies(scalars: Mapping[str, float]) -> list[str]:
    """Returns each task's accuracy as "age 61.3 %"."""
    return [
        f"{name.split('/')[1]} {100 * value:.1f} %"
        for name, value in scalars.items()
        if name.endswith("/accuracy")
    ]
