"""How an interrupted run ends: its exit codes, and SIGTERM as it is noticed at any moment.

Imports nothing slow, so that a script can react to SIGTERM before it imports JAX.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

EXIT_SAVED = 75  # every completed step is in a checkpoint; start again to resume
EXIT_FELL_BACK = 76  # the steps since the last checkpoint will be repeated


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
        threading.Thread(target=self._listen, daemon=True).start()

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
