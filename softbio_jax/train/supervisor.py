"""Runs one of several processes as the child of a light one, which reports how it ended.

When another process of the run is gone, JAX's coordination service aborts this one from C++, after a
page of log, and nothing in the process can prevent either. So the work is done in a child. What C++
writes to stderr reaches the user with a delay, or not at all if it is that page.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED, SigtermWatch

LOST = "another process of the run has ended"
AGAIN = "fix: start all processes again with the same command; the run resumes from its last checkpoint"

_VARIABLE = "SOFTBIO_SUPERVISOR"  # descriptor of stderr and id of the parent, for the child
_ABORTED = (b"distributed service", b"coordination service")  # in what JAX logs before it aborts
_HOLD = 5.0  # seconds for which C++ output is held back, more than between its first line and the abort
_SET_PDEATHSIG = 1  # of prctl


def adopt() -> bool:
    """Returns whether this process is a supervised child, and if so prepares it.

    Python's stderr is the user's; only C and C++ write to the supervisor. The child is killed if the
    supervisor is.
    """
    given = os.environ.pop(_VARIABLE, None)
    if given is None:
        return False
    stderr, parent = map(int, given.split())
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed in the meantime
        os._exit(EXIT_FELL_BACK)
    sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="backslashreplace")
    sys.__stderr__ = sys.stderr  # type: ignore[misc]
    return True


def supervise(sigterm: SigtermWatch) -> int:
    """Runs this command once more as a child and returns its exit code.

    A child that died of a signal ends this process by the same one; one that JAX aborted because another
    process is gone counts as `EXIT_FELL_BACK`.

    Args:
      sigterm: what has watched for SIGTERM so far; from now on the child gets it.
    """
    stderr = os.dup(2)
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        stderr=subprocess.PIPE,
        pass_fds=(stderr,),
        env=os.environ | {_VARIABLE: f"{stderr} {os.getpid()}"},
    )
    sigterm.stop()
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: None if _in_foreground() else child.send_signal(signal.SIGINT))
    held, code = _relay(child, stderr)
    if code == -signal.SIGABRT and any(words in held for words in _ABORTED):
        held, code = f"error: {LOST}; {AGAIN}\n".encode(), EXIT_FELL_BACK
    elif code == -signal.SIGTERM:  # before its first line of Python
        held, code = b"stopped by SIGTERM: nothing is lost, start again\n", EXIT_SAVED
    elif code in (EXIT_SAVED, EXIT_FELL_BACK):  # it has said why
        held = b""
    elif code == -signal.SIGKILL:
        held += (
            b"error: killed by SIGKILL, which the system sends when memory runs out; " + f"{AGAIN}\n".encode()
        )
    _write(stderr, held)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _relay(child: subprocess.Popen[bytes], stderr: int) -> tuple[bytes, int]:
    """Copies the child's C++ output to stderr, `_HOLD` seconds late, until the child has ended.

    Returns:
      The output still held, and the exit code.
    """
    assert child.stderr is not None
    held, since, source = b"", 0.0, child.stderr.fileno()
    while True:
        code = child.poll()
        # Workers of the child may keep the pipe open: after its end only what is there is read.
        while select.select([source], [], [], 0.2 if code is None else 0)[0]:
            if not (read := os.read(source, 65536)):
                return held, child.wait()
            since = since if held else time.monotonic()
            held += read
        if code is not None:
            return held, code
        if held and time.monotonic() - since > _HOLD:
            _write(stderr, held)
            held = b""


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, which does not end a run
        while data:
            data = data[os.write(descriptor, data) :]


def _in_foreground() -> bool:
    """Returns whether a terminal sends Ctrl-C to this process, and so to the child too."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
