import io

import pytest

from softbio_jax.train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def _progress(out, clock, **values):
    arguments = {"first": 0, "steps": 100, "batch_size": 8, "active": True} | values
    return Progress(out=out, clock=clock, **arguments)


def test_line_tells_step_rate_and_time_left():
    out, clock = io.StringIO(), Clock()
    progress = _progress(out, clock)
    clock.now = 2.0
    progress.update(10, "loss 1.5")
    assert out.getvalue() == "step 10/100  40 images/s  0:18 left  loss 1.5\n"


def test_hours_are_told():
    out, clock = io.StringIO(), Clock()
    progress = _progress(out, clock, steps=100_000)
    clock.now = 1.0
    progress.update(10, "")
    assert " 2:46:39 left " in out.getvalue()


def test_time_of_a_validation_is_no_part_of_the_rate():
    clock = Clock()
    progress = _progress(io.StringIO(), clock)
    clock.now = 1.0
    progress.update(10, "")
    clock.now = 50.0  # the validation
    progress.resume()
    clock.now = 51.0
    progress.update(20, "")
    assert progress.images_per_second == pytest.approx(80)


def test_a_resumed_run_counts_its_own_steps():
    out, clock = io.StringIO(), Clock()
    progress = _progress(out, clock, first=90)
    clock.now = 1.0
    progress.update(95, "")
    assert "0:01 left" in out.getvalue()


def test_a_terminal_keeps_one_line_and_whole_messages():
    out, clock = Terminal(), Clock()
    progress = _progress(out, clock)
    progress.update(1, "a")
    progress.update(2, "b")
    progress.say("validation")
    assert out.getvalue().count("\n") == 2
    assert out.getvalue().endswith("b\nvalidation\n")


def test_another_process_prints_nothing():
    out = io.StringIO()
    progress = _progress(out, Clock(), active=False)
    progress.update(1, "a")
    progress.say("b")
    assert out.getvalue() == ""
