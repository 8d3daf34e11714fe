"""One of two processes of scripts/train.py ends; the other one must not wait for it."""

import time

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK
from tests.distributed.pair import start, wait_for, write_config
from tests.runs.tiny import changed, config_on

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config_file(data_root, tmp_path):
    config = changed(config_on(data_root), train__steps=400, train__log_every=2, train__eval_every=0)
    return write_config(tmp_path / "tiny.py", config)


# The process that fails does so in the step that follows the first checkpoint.
FAILING = """
import os, runpy, sys
sys.argv = ["scripts/train.py", *sys.argv[1:]]
if "--process_id=1" in sys.argv and "SOFTBIO_SUPERVISOR" in os.environ:
    from softbio_jax.errors import UserError
    from softbio_jax.train.loop import Training
    step = Training.step
    def failing(self, number):
        if number == 3:
            raise UserError("a record is damaged", where="a.record", fix="prepare it again")
        return step(self, number)
    Training.step = failing
runpy.run_path("scripts/train.py", run_name="__main__")
"""

# Process 1 is in the middle of a save for as long as the test takes.
SAVING = """
import os, runpy, sys, time
sys.argv = ["scripts/train.py", *sys.argv[1:]]
if "SOFTBIO_SUPERVISOR" in os.environ:
    from softbio_jax.checkpoints.arrays import Writer
    wait = Writer.wait
    def slow(self):
        print("saving", flush=True)
        time.sleep(600 if "--process_id=1" in sys.argv else 0)
        wait(self)
    Writer.wait = slow
runpy.run_path("scripts/train.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("moment", "victim", "command", "again"),
    [
        ("trainable", 0, ("scripts/train.py",), None),
        ("step 4/", 1, ("scripts/train.py",), "resumed from step"),
        ("saving", 1, ("-c", SAVING), "training starts from step 0"),
    ],
)
def test_a_killed_process_ends_the_other_in_one_line(
    config_file, cache, tmp_path, moment, victim, command, again
):
    processes = start(config_file, tmp_path / "run", cache, command=command)
    wait_for(processes[0], moment)
    processes[victim].kill()
    sent, other = time.monotonic(), processes[1 - victim]
    _, errors = other.communicate(timeout=120)
    seconds = time.monotonic() - sent
    processes[victim].communicate()
    print(f"RESULT SIGKILL to {victim} at {moment!r}: {other.returncode} after {seconds:.1f} s")
    assert other.returncode == EXIT_FELL_BACK, errors
    assert seconds < 30
    assert errors.startswith("error: ") and errors.count("\n") == 1 and "fix: start all" in errors
    if again is None:
        return
    processes = start(config_file, tmp_path / "run", cache)
    try:
        wait_for(processes[0], again)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_mistake_that_one_process_finds_is_the_message_of_both(config_file, cache, tmp_path):
    processes = start(config_file, tmp_path / "run", cache, command=("-c", FAILING))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    for text in errors:
        assert text.count("\n") == 1 and "a record is damaged: a.record; fix: prepare it again" in text
    assert "process 1 of 2 has ended" in errors[0]
