"""What a run watches: the validation loss, updates not finite, batches that do not come."""

import contextlib
import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from softbio_jax.errors import UserError
from softbio_jax.files import LineFile

STALL = 60.0  # seconds without a batch


class DivergedError(UserError):
    """So many updates in a row were not finite that the run was ended."""


@dataclasses.dataclass
class Watch:
    """The course of the validation loss: which step was best, when to lower the rate or stop."""

    best: float = math.inf
    best_step: int | None = None
    since_best: int = 0
    since_drop: int = 0

    def update(self, step: int, loss: float) -> None:
        """Takes the validation loss of a step in."""
        improved = loss < self.best
        if improved:
            self.best, self.best_step = loss, step
        self.since_best = 0 if improved else self.since_best + 1
        self.since_drop = 0 if improved else self.since_drop + 1

    def to_json(self) -> dict[str, float | int | None]:
        """Returns JSON values; infinity has none and becomes null."""
        values = dataclasses.asdict(self)
        return values | {"best": None if math.isinf(self.best) else self.best}

    @classmethod
    def from_json(cls, values: dict) -> "Watch":
        """Returns the watch of `to_json`."""
        return cls(**values | {"best": math.inf if values["best"] is None else values["best"]})


class SkippedUpdates:
    """Names the steps whose loss or gradient was not finite, and ends a run that only has those.

    Args:
      path: where each such step and its examples are kept, as JSON lines; None: nowhere.
      most: so many in a row end the run.
      examples: step -> names of the examples in its global batch.
      say: takes one line.
    """

    def __init__(
        self,
        path: epath.Path | None,
        *,
        most: int,
        examples: Callable[[int], Sequence[str]],
        say: Callable[[str], None],
    ):
        self._path, self._most, self._examples, self._say = path, most, examples, say
        self._total = 0

    def update(self, step: int, in_a_row: int) -> None:
        """Takes in how many updates up to `step` were skipped in a row.

        Raises:
          DivergedError: as many as the run stands.
        """
        if not in_a_row:
            return
        self._total += 1
        names = list(self._examples(step))
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        self._say(
            f"step {step}: loss or gradient not finite, update skipped "
            f"({self._total} so far); its examples: {shown}"
        )
        if self._path is not None:
            file = LineFile(self._path)
            file.write(json.dumps({"step": step, "examples": names}))
            file.close()
        if in_a_row >= self._most:
            raise DivergedError(
                "loss or gradient is not finite",
                where=f"step {step}",
                found=f"{in_a_row} updates in a row skipped",
                fix="lower the rates, or look at the examples of skipped.jsonl; the last good state is saved",
            )


@contextlib.contextmanager
def stall_told(step: int, say: Callable[[str], None], *, seconds: float = STALL) -> Iterator[None]:
    """Tells of a block that takes too long while it is still at it.

    Args:
      step: whose batch it waits for.
      say: takes one line.
      seconds: what is too long.
    """

    def tell() -> None:
        say(
            f"no batch for step {step} in {seconds:.0f} s: the input pipeline is stalled; "
            "check the disk of data.root and data.workers"
        )

    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
