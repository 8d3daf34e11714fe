"""What a run reports while it trains: progress, skipped updates, a stalled input pipeline, a profile."""

import contextlib
import json
import pathlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from etils import epath

from softbio_jax import files
from softbio_jax.console import Console, duration
from softbio_jax.errors import UserError
from softbio_jax.files import LineFile

STALL = 60.0  # seconds without a batch


class DivergedError(UserError):
    """Too many updates in a row were not finite."""


class Progress:
    """Shows `step 120/400  1,250 images/s  0:42 left  loss 1.234  validation 1.300 at 100`.

    Args:
      console: where the line is shown.
      first: the step training resumes from.
      steps: the last step.
      batch_size: images per step.
      clock: monotonic time in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        first: int,
        steps: int,
        batch_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._console, self._clock = console, clock
        self._first, self._steps, self._batch_size = first, steps, batch_size
        self._validation = ""
        self._before, self._since = first, clock()
        self._spent = 0.0  # seconds in steps since the last update
        self._busy = 0.0  # seconds in steps before the last update
        self.images_per_second = 0.0

    def update(self, step: int, text: str) -> None:
        """Shows the line of a step with text at its end; the rate is that since the last update."""
        if step > self._before:
            self.pause()
            self.images_per_second = (step - self._before) * self._batch_size / max(self._spent, 1e-9)
            self._busy += self._spent
            self._before, self._spent = step, 0.0
        line = f"step {step}/{self._steps}  {self.images_per_second:,.0f} images/s"
        if step > self._first:
            left = self._busy / (step - self._first) * (self._steps - step)
            line += f"  {duration(left)} left"
        self._console.show(f"{line}  {text}{self._validation}", step, self._steps)

    def validated(self, step: int, loss: float) -> None:
        """Shows a validation loss in every line until the next one."""
        self._validation = f"  validation {loss:.3f} at {step}"

    def pause(self) -> None:
        """Stops the clock before work that is not a step, such as a checkpoint or a validation."""
        now = self._clock()
        self._spent += now - self._since
        self._since = now

    def resume(self) -> None:
        """Starts the clock again after such work."""
        self._since = self._clock()


class IdleClock:
    """Measures the share of time in which the device waits for the next step.

    A thread waits for each step's outputs, so the training loop never does.
    """

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[tuple[float, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended: float | None = None
        self._idle = 0.0
        self._since = time.perf_counter()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def dispatched(self, outputs: Any) -> None:
        """Adds a step that was just dispatched, by outputs that are ready when it ends."""
        self._steps.put((time.perf_counter(), outputs))

    def take(self) -> float:
        """Returns the idle share since the last call, in [0, 1]."""
        now = time.perf_counter()
        with self._lock:
            idle, span = self._idle, now - self._since
            self._idle, self._since = 0.0, now
        return min(idle / max(span, 1e-9), 1.0)

    def pause(self) -> None:
        """Excludes the time until the next step (validation, saving)."""
        with self._lock:
            self._ended = None
        self._since, self._idle = time.perf_counter(), 0.0

    def close(self) -> None:
        """Ends the thread."""
        self._steps.put(None)
        self._thread.join()

    def _follow(self) -> None:
        while (item := self._steps.get()) is not None:
            started, outputs = item
            with self._lock:
                if self._ended is not None:
                    self._idle += max(started - self._ended, 0.0)
            with contextlib.suppress(Exception):  # a step that failed: whoever reads its outputs raises that
                jax.block_until_ready(outputs)
            with self._lock:
                self._ended = time.perf_counter()


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


class Profile:
    """Traces the steps from first to last into a folder that TensorBoard reads.

    Args:
      steps: (first, last), both included; empty: no trace.
      folder: destination, local or gs://.

    Raises:
      UserError: steps that are not a range.
    """

    def __init__(self, steps: Sequence[int], folder: epath.PathLike):
        if steps and (len(steps) != 2 or not 0 < steps[0] <= steps[1]):
            raise UserError(
                "not a range of steps",
                where="train.profile_steps",
                expected="(first, last)",
                found=repr(tuple(steps)),
                fix="write it as in (10, 15)",
            )
        self._steps, self._folder = tuple(steps), epath.Path(folder)
        # The profiler writes to local disks only.
        self._written = (
            pathlib.Path(folder)
            if not steps or files.is_local(folder)
            else pathlib.Path(tempfile.mkdtemp(prefix="profile_"))
        )
        self._tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Wraps one step."""
        if not self._steps:
            yield
            return
        if step == self._steps[0]:
            jax.profiler.start_trace(str(self._written))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Ends an open trace, after waiting for the device."""
        if self._tracing:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self._tracing = False
            if not files.is_local(self._folder):
                files.upload(self._written, self._folder)


def closing(workdir: epath.Path, *, evaluated: bool) -> str:
    """Returns the last line of a run: where its results are, and the commands that use them."""
    if not evaluated:
        return f"the trained run is in {workdir}, not evaluated: no test set; {later(workdir)}"
    return (
        f"results: {workdir / 'eval' / 'metrics.json'}; report: scripts/report.py {workdir} --out=DIR; "
        f"predictions: scripts/predict.py --model={workdir} --out=rows.csv IMAGES"
    )


def later(workdir: epath.Path) -> str:
    """Returns how a run without a test set is evaluated."""
    return f"later: scripts/evaluate.py --workdir={workdir} --test=NAME/SPLIT"
