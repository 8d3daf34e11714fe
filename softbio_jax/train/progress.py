"""One line that says how far training is."""

import sys
import time


class Progress:
    """Prints `step 120/400  1,250 images/s  0:42 left  loss 1.234`, on a terminal in place."""

    def __init__(self, *, first: int, steps: int, batch_size: int, active: bool):
        self._steps, self._batch_size, self._active = steps, batch_size, active
        self._in_place = sys.stdout.isatty()
        self._mark = (first, time.perf_counter())
        self.images_per_second = 0.0

    def update(self, step: int, text: str) -> None:
        """Shows the line for `step` with text at its end; the rate is since the last update."""
        before, since = self._mark
        now = time.perf_counter()
        if step > before:
            self.images_per_second = (step - before) * self._batch_size / max(now - since, 1e-9)
        self._mark = (step, now)
        if not self._active:
            return
        line = f"step {step}/{self._steps}  {self.images_per_second:,.0f} images/s"
        if self.images_per_second:
            seconds = (self._steps - step) * self._batch_size / self.images_per_second
            line += f"  {int(seconds // 60)}:{int(seconds % 60):02d} left"
        line += f"  {text}"
        print(f"\r\x1b[2K{line}" if self._in_place else line, end="" if self._in_place else "\n",
              flush=True)  # fmt: skip

    def pause(self) -> None:
        """Leaves time spent on something else (validation, saving) out of the rate."""
        self._mark = (self._mark[0], self._mark[1])
        if self._active and self._in_place:
            print(flush=True)

    def resume(self, step: int) -> None:
        """Starts the clock again at `step`."""
        self._mark = (step, time.perf_counter())
