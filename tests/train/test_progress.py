import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from softbio_jax.console import Console
from softbio_jax.train.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def _progress(out, clock, **values):
    arguments = {"first": 0, "steps": 100, "batch_size": 8} | values
    return Progress(Console(out=out), clock=clock, **arguments)


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
    progress.pause()
    clock.now = 50.0  # the validation
    progress.resume()
    clock.now = 51.0
    progress.update(20, "")
    assert progress.images_per_second == pytest.approx(80)


def test_steps_between_an_update_and_a_validation_keep_their_time():
    out, clock = io.StringIO(), Clock()
    progress = _progress(out, clock)
    clock.now = 1.0
    progress.update(10, "")
    clock.now = 1.5  # five more steps
    progress.pause()
    clock.now = 9.0  # the checkpoint
    progress.resume()
    clock.now = 50.0  # the validation
    progress.resume()
    clock.now = 50.5  # the other five
    progress.update(20, "")
    assert progress.images_per_second == pytest.approx(80)
    assert "0:08 left" in out.getvalue()


def test_a_resumed_run_counts_its_own_steps():
    out, clock = io.StringIO(), Clock()
    progress = _progress(out, clock, first=90)
    clock.now = 1.0
    progress.update(95, "")
    assert "0:01 left" in out.getvalue()


def test_the_last_validation_stays_in_sight():
    out, clock = io.StringIO(), Clock()
    progress = _progress(out, clock)
    progress.validated(10, 1.25)
    clock.now = 1.0
    progress.update(20, "loss 1.5")
    assert out.getvalue().endswith("  loss 1.5  validation 1.250 at 10\n")


TERMINAL = """
from softbio_jax.console import Console
from softbio_jax.train.progress import Progress
console = Console()
progress = Progress(console, first=0, steps=40, batch_size=8)
console.say("TensorBoard: tensorboard --logdir runs/[1]/tensorboard")
for step in range(1, 41):
    progress.update(step, f"loss {step}.5")
    if step == 20:
        console.say("validation at step 20")
        progress.validated(20, 1.25)
console.close()
print("done")
"""


def test_a_terminal_has_one_line_at_its_bottom_and_whole_messages():
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdout=end, stderr=end, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(end)
        content = b""
        with contextlib.suppress(OSError):  # how a terminal without a writer ends
            while chunk := os.read(main, 65536):
                content += chunk
    os.close(main)
    assert process.returncode == 0, content.decode()
    lines = _screen(content.decode())
    assert lines[0] == "TensorBoard: tensorboard --logdir runs/[1]/tensorboard"
    assert lines[1] == "validation at step 20"
    assert "step 40/40" in lines[2] and lines[2].endswith("loss 40.5  validation 1.250 at 20")
    assert lines[3:] == ["done"]
    assert content.decode().count("step 39/40") == 1
    assert content.decode().rfind("\x1b[?25h") > content.decode().rfind("\x1b[?25l")


def _screen(content):
    """What a terminal shows after some output: lines, from the top, without colours."""
    rows, row, column = [""], 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", content):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif part.startswith("\x1b["):
            if part == "\x1b[2K":
                rows[row] = ""
            elif part.endswith("A"):
                row -= int(part[2:-1] or 1)
        elif part:
            rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in rows if line.strip()]


def test_another_process_prints_nothing():
    out = io.StringIO()
    console = Console(out=out, active=False)
    Progress(console, first=0, steps=100, batch_size=8, clock=Clock()).update(1, "a")
    console.say("b")
    assert out.getvalue() == ""
