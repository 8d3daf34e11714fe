"""Stops a run on SIGTERM: it saves and exits, and the exit code says whether steps were lost."""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import jax

EXIT_SAVED = 75  # every completed step is in a checkpoint; start again to resume
EXIT_FELL_BACK = 76  # the steps since the last checkpoint will be repeated

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
    set by the loop too: it completes that checkpoint and raises Preempted.

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

    def __enter__(self) -> Self:
        self._several = jax.process_count() > 1
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._service = _service_handler()
        self._old_handler = signal.signal(signal.SIGTERM, self._note)
        # The interpreter's C handler writes to this socket even while Python code does not run.
        self._old_fd = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._old_fd)
        signal.signal(signal.SIGTERM, self._old_handler)
        self._bell.close()

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

    def _note(self, *_: object) -> None:
        if not self._several:  # several processes must agree on a step first
            self._noted.set()

    def _watch(self) -> None:
        while signal.SIGTERM not in (received := self._ear.recv(64)):
            if not received:  # closed: the run is over
                return
        self._note()
        if self._service is not None:
            self._service(signal.SIGTERM)
        if not self._left.wait(self.grace):
            code = EXIT_FELL_BACK if self.unsaved else EXIT_SAVED
            lost = "falls back to the last checkpoint" if self.unsaved else "nothing is lost"
            if os.isatty(1):
                os.write(1, b"\x1b[?25h\n")  # show the cursor, which the progress line hides
            os.write(2, f"stopped by SIGTERM after {self.grace:.0f} s: {lost}\n".encode())
            os._exit(code)


def _service_handler() -> Callable[[int], None] | None:
    """Returns the C handler that JAX's preemption service installed for SIGTERM, or None."""
    action = ctypes.create_string_buffer(512)  # struct sigaction; the handler is its first field
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, action)
    address = ctypes.c_void_p.from_buffer(action).value
    # A Python handler is called by the interpreter anyway; NULL and 1 are the default and ignore.
    if signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_DFL) or address in (None, 1):
        return None
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
