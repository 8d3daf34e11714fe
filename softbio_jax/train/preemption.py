"""SIGTERM: the run saves and leaves, and its exit code tells what was kept."""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import jax

EXIT_SAVED = 75  # everything done is in a checkpoint: start again to go on
EXIT_FELL_BACK = 76  # the steps since the last checkpoint will be done again

GRACE = 25.0  # seconds; schedulers kill after 30


class Preempted(Exception):
    """The run was told to leave and has done so in order."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM; step {step} is saved, start again to go on")


class Preemption:
    """Notes a SIGTERM, and ends the process if it is still there when the grace is over.

    Used as a context around a run. A compilation or a hanging disk keeps python from running any
    signal handler, so the note and the exit are those of a thread. Over several processes JAX's
    preemption service is handed the signal and makes all of them stop after the same step.

    `unsaved` is kept by the loop: whether steps were done since the last whole checkpoint. `grace`
    is in seconds.
    """

    def __init__(self, *, grace: float = GRACE):
        self.unsaved = False
        self._several = False
        self.grace = grace
        self._noted = threading.Event()
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self._several = jax.process_count() > 1
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._service = _service_handler()
        self._old_handler = signal.signal(signal.SIGTERM, self._note)
        # The interpreter's C handler writes here even while python is not running.
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

    def noted(self) -> bool:
        """Returns whether this process, the only one, was told to leave."""
        return self._noted.is_set()

    def stops_after(self, step: int) -> bool:
        """Returns whether all processes leave after this step; each asks after every step."""
        if not self._several:
            return self.noted()
        from jax.experimental import multihost_utils

        return bool(multihost_utils.reached_preemption_sync_point(step))

    def _note(self, *_: object) -> None:
        if not self._several:  # several have to agree on a step first
            self._noted.set()

    def _watch(self) -> None:
        while signal.SIGTERM not in (rung := self._ear.recv(64)):
            if not rung:  # closed: the run is over
                return
        self._note()
        if self._service is not None:
            self._service(signal.SIGTERM)
        if not self._left.wait(self.grace):
            code = EXIT_FELL_BACK if self.unsaved else EXIT_SAVED
            told = "goes back to the last checkpoint" if self.unsaved else "nothing is lost"
            if os.isatty(1):
                os.write(1, b"\x1b[?25h\n")  # the cursor, which the progress line hides
            os.write(2, f"stopped by SIGTERM after {self.grace:.0f} s: {told}\n".encode())
            os._exit(code)


def _service_handler() -> Callable[[int], None] | None:
    """Returns the C handler of SIGTERM, that of JAX's preemption service, None where none is."""
    action = ctypes.create_string_buffer(512)  # struct sigaction: the handler, then the rest
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, action)
    address = ctypes.c_void_p.from_buffer(action).value
    # Python's own handlers are its own business; NULL and 1 mean none and ignored.
    if signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_DFL) or address in (None, 1):
        return None
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
