"""How long the devices had nothing to do."""

import queue
import threading
import time
from typing import Any

import jax


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
