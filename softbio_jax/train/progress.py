"""One line that says how far training is."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


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
