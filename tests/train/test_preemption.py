import os
import signal
import subprocess
import sys

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED, Preemption


def test_sigterm_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.stops_after(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.stops_after(2)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_check_leaves_once_the_signal_was_seen():
    left = []
    with Preemption() as preemption:
        preemption.leave = lambda: left.append(True)
        preemption.check()
        assert left == []
        os.kill(os.getpid(), signal.SIGTERM)
        preemption.check()
    assert left == [True]


@pytest.mark.parametrize(("unsaved", "code"), [(True, EXIT_FELL_BACK), (False, EXIT_SAVED)])
def test_a_process_that_cannot_run_python_leaves_after_the_grace(unsaved, code):
    # ctypes.PyDLL holds the interpreter's lock in sleep() only if asked to; CDLL lets it go, as a
    # compilation does, yet no python signal handler runs before it returns.
    script = f"""
import ctypes, os, signal, threading, time
from softbio_jax.train.preemption import Preemption
libc = ctypes.CDLL(None)
with Preemption(grace=0.5) as preemption:
    preemption.unsaved, preemption.leave = {unsaved}, lambda: None
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        libc.usleep(1000000)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    assert "stopped by SIGTERM" in done.stderr


def test_of_several_processes_the_service_is_handed_the_signal():
    """JAX's handler is one of C, which python's own has to replace to be woken in a compilation."""
    script = """
import ctypes, os, signal, time
import jax
from softbio_jax.train.preemption import Preemption
jax.process_count = lambda: 2
seen = []
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(seen.append)
ctypes.CDLL(None).signal(signal.SIGTERM, handler)
with Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen == [signal.SIGTERM], seen
    preemption.leave = lambda: os._exit(3)
    preemption.check()  # does not leave before all have agreed on a step
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
