"""When a run stops or slows down: validation loss, non-finite updates, a stalled input pipeline."""

import contextlib
import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from etils import epath

from softbio_jax.console import Console
from softbio_jax.errors import UserError
from softbio_jax.files import LineFile

STALL = 60.0  # seconds without a batch


class DivergedError(UserError):
    """Too many updates in a row were not finite."""


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


class SkippedUpdates:
    """Reports the steps whose loss, gradient or update was not finite, and ends a run that only has those.

    Args:
      path: JSON lines with each such step and its examples; None: not written.
      maximum: number of skipped updates in a row that ends the run.
      examples: step -> names of the examples in its global batch.
      console: where each is reported.
    """

    def __init__(
        self,
        path: epath.Path | None,
        *,
        maximum: int,
        examples: Callable[[int], Sequence[str]],
        console: Console,
    ):
        self._path, self._maximum, self._examples, self._console = path, maximum, examples, console
        self._total = 0

    def update(self, step: int, in_a_row: int) -> None:
        """Adds the number of updates skipped in a row up to a step.

        Raises:
          DivergedError: the maximum is reached.
        """
        if not in_a_row:
            return
        self._total += 1
        names = list(self._examples(step))
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        self._console.say(
            f"step {step}: loss, gradient or update not finite, skipped ({self._total} so far); "
            f"its examples: {shown}"
        )
        if self._path is not None:
            file = LineFile(self._path)
            file.write(json.dumps({"step": step, "examples": names}))
            file.close()
        if in_a_row >= self._maximum:
            raise DivergedError(
                "loss, gradient or update is not finite",
                where=f"step {step}",
                found=f"{in_a_row} updates in a row skipped",
                fix="lower the learning rates, or inspect the examples in skipped.jsonl; "
                "the last finite state is saved",
            )


@contextlib.contextmanager
def stall_warning(step: int, console: Console, *, seconds: float = STALL) -> Iterator[None]:
    """Prints a warning if the block, which waits for the batch of a step, takes longer than `seconds`."""
    timer = threading.Timer(
        seconds,
        console.say,
        [
            f"no batch for step {step} in {seconds:.0f} s: the input pipeline is stalled; "
            "check the disk of data.root and data.workers"
        ],
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
