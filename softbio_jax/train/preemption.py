"""Stops a run on SIGTERM: it saves and exits, and the exit code says whether steps were lost.

Imports nothing slow, so that a script can react to SIGTERM before it imports JAX.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

EXIT_SAVED = 75  # every completed step is in a checkpoint; start again to resume
EXIT_FELL_BACK = 76  # the steps since the last checkpoint will be repeated
GRACE = 25.0  # seconds; schedulers kill after 30


class SigtermWatch:
    """Calls a function from a thread when SIGTERM arrives.

    Python runs no signal handler while its main thread is in a long call (an import, a compilation, a
    disk that hangs). The interpreter's C handler writes to a socket even then, which a thread reads.

    Args:
      arrived: called in the thread, once.
      handler: called as Python's signal handler, later than `arrived` or earlier.
    """

    def __init__(self, arrived: Callable[[], None], *, handler: Callable[[], None] = lambda: None):
        self._arrived, self._handler = arrived, handler

    def start(self) -> None:
        """Takes SIGTERM over; only the main thread can."""
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._old_handler = signal.signal(signal.SIGTERM, lambda *_: self._handler())
        self._old_fd = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        # Left to the main thread, which can hold the signal back.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._listen, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Returns SIGTERM to whoever had it before."""
        signal.set_wakeup_fd(self._old_fd)
        signal.signal(signal.SIGTERM, self._old_handler)
        self._bell.close()

    def _listen(self) -> None:
        while signal.SIGTERM not in (received := self._ear.recv(64)):
            if not received:  # stopped
                return
        self._arrived()


def leave_at_sigterm() -> SigtermWatch:
    """Makes SIGTERM end the process at once with EXIT_SAVED, for the time in which nothing is written."""
    watch = SigtermWatch(lambda: leave(EXIT_SAVED, "stopped by SIGTERM: nothing is lost, start again"))
    watch.start()
    return watch


def leave(code: int, line: str) -> None:
    """Ends the process from any thread, after one line on stderr."""
    stderr = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
    if os.isatty(1):
        os.write(1, b"\x1b[?25h\n")  # show the cursor, which the progress line hides
    os.write(stderr, f"{line}\n".encode(errors="backslashreplace"))
    os._exit(code)


class Preempted(Exception):
    """The run was stopped by SIGTERM after saving."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM; step {step} is saved, start again to resume")
        self.step = step

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:  # for a worker process, which raises it
        return type(self), (self.step,)


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
        self._watch = SigtermWatch(self._arrived, handler=self._note)

    def __enter__(self) -> Self:
        import jax

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
            leave(code, f"stopped by SIGTERM{after}: {lost}, start again")


def _handler() -> int | None:
    """Returns the address of the C handler of SIGTERM; None for the default and ignore."""
    action = ctypes.create_string_buffer(512)  # struct sigaction; the handler is its first field
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, action)
    address = ctypes.c_void_p.from_buffer(action).value
    return None if address == 1 else address
