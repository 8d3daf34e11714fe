import threading
import time

import pytest

from softbio_jax.train.progress import IdleClock


class Outputs:
    """Stands for a step's outputs: ready when told."""

    def __init__(self):
        self._ready = threading.Event()

    def block_until_ready(self):
        self._ready.wait(20)

    def finish(self):
        self._ready.set()


@pytest.fixture
def clock():
    clock = IdleClock()
    yield clock
    clock.close()


def _wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def test_time_between_steps_is_idle(clock):
    first, second = Outputs(), Outputs()
    clock.dispatched(first)
    first.finish()
    _wait_until(lambda: clock._ended is not None)
    time.sleep(0.2)
    clock.dispatched(second)
    second.finish()
    _wait_until(lambda: clock._idle > 0)
    assert 0.5 < clock.take() <= 1


def test_a_step_that_was_waiting_leaves_no_gap(clock):
    first, second = Outputs(), Outputs()
    clock.dispatched(first)
    clock.dispatched(second)
    time.sleep(0.05)
    first.finish()
    _wait_until(lambda: clock._ended is not None)
    second.finish()
    assert clock.take() == 0
