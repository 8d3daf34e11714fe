"""One line that says how far training is."""

import contextlib
import pathlib
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import jax
from etils import epath

from softbio_jax import files
from softbio_jax.errors import UserError


class Progress:
    """Prints `step 120/400  1,250 images/s  0:42 left  loss 1.234  validation 1.3 at 100`.

    On a terminal one line stays at the bottom, with a bar; elsewhere every update is a line.

    Args:
      first: the step training goes on from.
      steps: the last step.
      batch_size: images a step.
      active: whether this process prints.
      out: where to; None: standard output.
      clock: seconds, never going back.
    """

    def __init__(
        self,
        *,
        first: int,
        steps: int,
        batch_size: int,
        active: bool,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._first, self._steps, self._batch_size = first, steps, batch_size
        self._active, self._clock, self._out = active, clock, out or sys.stdout
        self._live = _Live(self._out, steps) if active and self._out.isatty() else None
        self._validation = ""
        self._before, self._since = first, clock()
        self._spent = 0.0  # seconds spent in steps after the last update and before a pause
        self._busy = 0.0  # seconds spent in steps, up to the last update
        self.images_per_second = 0.0

    def update(self, step: int, text: str) -> None:
        """Shows the line for `step` with text at its end; the rate is that since the last one."""
        if step > self._before:
            self.pause()
            images = (step - self._before) * self._batch_size
            self.images_per_second = images / max(self._spent, 1e-9)
            self._busy += self._spent
            self._before, self._spent = step, 0.0
        line = f"step {step}/{self._steps}  {self.images_per_second:,.0f} images/s"
        if step > self._first:
            left = self._busy / (step - self._first) * (self._steps - step)
            line += f"  {_duration(left)} left"
        self._print(f"{line}  {text}{self._validation}", step)

    def validated(self, step: int, loss: float) -> None:
        """Keeps a validation in sight until the next one."""
        self._validation = f"  validation {loss:.3f} at {step}"

    def say(self, text: str) -> None:
        """Prints a line of its own, that stays."""
        if self._live is not None:
            self._live.say(text)
        elif self._active:
            print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Leaves the line as it is and the terminal to others."""
        if self._live is not None:
            self._live.close()

    def pause(self) -> None:
        """Keeps the time of the steps so far, before something else (a checkpoint, validation)."""
        now = self._clock()
        self._spent += now - self._since
        self._since = now

    def resume(self) -> None:
        """Starts the clock again after something else: its time since `pause` is not a step's."""
        self._since = self._clock()

    def _print(self, line: str, step: int) -> None:
        if self._live is not None:
            self._live.show(line, step)
        elif self._active:
            print(line, file=self._out, flush=True)


class _Live:
    """The line at the bottom of a terminal."""

    def __init__(self, out: TextIO, steps: int):
        from rich import console, progress, table

        one_line = table.Column(no_wrap=True, overflow="ellipsis")
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=16),
            progress.TextColumn("{task.description}", table_column=one_line, markup=False),
            console=console.Console(file=out, highlight=False),
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=steps)

    def show(self, line: str, step: int) -> None:
        self._bar.start()  # does nothing where it has been
        self._bar.update(self._task, completed=step, description=line, refresh=True)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class IdleClock:
    """Measures the device's idle share: the time between a step's end and the next one's start.

    A thread waits for each step's outputs, so the loop itself never does.
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
        """Takes in a step that was just handed to the device, and outputs that end with it."""
        self._steps.put((time.perf_counter(), outputs))

    def take(self) -> float:
        """Returns the idle share since the last call, in [0, 1]."""
        now = time.perf_counter()
        with self._lock:
            idle, span = self._idle, now - self._since
            self._idle, self._since = 0.0, now
        return min(idle / max(span, 1e-9), 1.0)

    def pause(self) -> None:
        """Leaves what comes before the next step (validation, saving) out."""
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
            jax.block_until_ready(outputs)
            with self._lock:
                self._ended = time.perf_counter()


class Profile:
    """Traces the steps first to last, both included, into a folder that TensorBoard reads.

    Args:
      steps: (first, last), or empty: no trace.
      folder: where the trace goes, local or gs://.

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
                fix="write for instance (10, 15)",
            )
        self._steps, self._folder = tuple(steps), epath.Path(folder)
        # The profiler writes to disks alone.
        self._written = (
            pathlib.Path(folder)
            if not steps or files.is_local(folder)
            else pathlib.Path(tempfile.mkdtemp(prefix="profile_"))
        )
        self._tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Surrounds one step."""
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
        """Ends a trace that is still open, once the device has done what it was given."""
        if self._tracing:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self._tracing = False
            if not files.is_local(self._folder):
                files.upload(self._written, self._folder)
