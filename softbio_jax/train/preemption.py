"""Stops a run on SIGTERM: it saves and exits, and the exit code says whether steps were lost."""

import ctypes
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import jax

from softbio_jax.train import exits
from softbio_jax.train.exits import EXIT_FELL_BACK, EXIT_SAVED

GRACE = 25.0  # seconds; schedulers kill after 30


class Preempted(Exception):
    """The run was stopped by SIGTERM after saving."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM; step {step} is saved, start again to resume")


class Preemption:
    """Watches for SIGTERM, and ends the process if it still runs when the grace period is over.

    Used as a context around a run. Python runs no signal handler during a compilation or while a
    disk hangs, so a thread reads the signal and ends the process. With several processes, JAX's
    preemption service receives the signal and makes all of them stop after the same step.

    `unsaved` is set by the loop: whether steps were completed since the last checkpoint. `leave` is
    set by the loop too: it completes that checkpoint and raises Preempted. Before it is set, nothing is
    written, and a single process ends at once.

    Args:
      grace: seconds between the signal and the end of the process.
    """

    def __init__(self, *, grace: float = GRACE):
        self.unsaved = False
        self.leave: Callable[[], NoReturn] | None = None
        self.grace = grace
        self._several = False
        self._noted = threading.Event()
        self._left = threading.Event()
        self._watch = exits.SigtermWatch(self._arrived, handler=self._note)

    def __enter__(self) -> Self:
        self._several = jax.process_count() > 1
        installed = _handler()
        self._watch.start()
        # Python's own handlers all have the same address.
        foreign = installed if installed != _handler() else None
        self._service = ctypes.CFUNCTYPE(None, ctypes.c_int)(foreign) if foreign else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._watch.stop()

    def check(self) -> None:
        """Leaves, between two parts of work that is not a step, if this single process must stop."""
        if self._noted.is_set() and self.leave is not None:
            self.leave()

    def stops_after(self, step: int) -> bool:
        """Returns whether all processes stop after this step; each calls it after every step."""
        if not self._several:
            return self._noted.is_set()
        from jax.experimental import multihost_utils

        return bool(multihost_utils.reached_preemption_sync_point(step))

    def _note(self) -> None:
        if not self._several:  # several processes must agree on a step first
            self._noted.set()

    def _arrived(self) -> None:
        self._note()
        if self._service is not None:
            self._service(signal.SIGTERM)
        begun = self._several or self.leave is not None
        if not self._left.wait(self.grace if begun else 0):
            code = EXIT_FELL_BACK if self.unsaved else EXIT_SAVED
            lost = "falls back to the last checkpoint" if self.unsaved else "nothing is lost"
            after = f" after {self.grace:.0f} s" if begun else ""
            exits.leave(code, f"stopped by SIGTERM{after}: {lost}, start again")


def _handler() -> int | None:
    """Returns the address of the C handler of SIGTERM; None for the default and ignore."""
    action = ctypes.create_string_buffer(512)  # struct sigaction; the handler is its first field
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, action)
    address = ctypes.c_void_p.from_buffer(action).value
    return None if address == 1 else address
