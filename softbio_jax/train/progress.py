"""One line that says how far training is."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Prints `step 120/400  1,250 images/s  0:42 left  loss 1.234`, on a terminal in place.

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
        self._in_place, self._open_line = self._out.isatty(), False
        self._before, self._since = first, clock()
        self._busy = 0.0  # seconds spent in steps, up to the last update
        self.images_per_second = 0.0

    def update(self, step: int, text: str) -> None:
        """Shows the line for `step` with text at its end; the rate is that since the last one."""
        if step > self._before:
            now = self._clock()
            self._busy += now - self._since
            images = (step - self._before) * self._batch_size
            self.images_per_second = images / max(now - self._since, 1e-9)
            self._before, self._since = step, now
        line = f"step {step}/{self._steps}  {self.images_per_second:,.0f} images/s"
        if step > self._first:
            left = self._busy / (step - self._first) * (self._steps - step)
            line += f"  {_duration(left)} left"
        self._print(f"{line}  {text}")

    def say(self, text: str) -> None:
        """Prints a line of its own, that stays."""
        if not self._active:
            return
        print(f"\n{text}" if self._open_line else text, file=self._out, flush=True)
        self._open_line = False

    def resume(self) -> None:
        """Starts the clock again after something else (validation): its time is not a step's.

        To be called when every step so far has had its update.
        """
        self._since = self._clock()

    def _print(self, line: str) -> None:
        if not self._active:
            return
        if self._in_place:
            print(f"\r\x1b[2K{line}", end="", file=self._out, flush=True)
            self._open_line = True
        else:
            print(line, file=self._out, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
