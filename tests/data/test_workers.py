"""A worker process that decodes images is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from softbio_jax.data import loading, pipeline
from softbio_jax.errors import UserError


def test_a_killed_worker_ends_the_stream_with_a_reason_and_a_fix(faces, emotions):
    batches = pipeline.train_batches(
        [faces, emotions], image_size=16, batch_size=4, workers=1, threads=1, batches_ahead=1
    )
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"data.workers=1.*memory runs out.*fix: .*data.workers"):
        for _ in range(100):  # what it had read before
            next(batches)
    batches.close()
    assert multiprocessing.active_children() == []


def _raising(message):
    raise RuntimeError(message)
    yield


@pytest.mark.parametrize(("code", "found"), [(-signal.SIGSEGV, "SIGSEGV"), (3, "exit code 3")])
def test_every_way_in_which_a_worker_ends_is_named(code, found):
    ended = _raising(f"Worker process was terminated unexpectedly with exit code {code}. Search the logs.")
    with pytest.raises(UserError, match=f"found {found}; fix"):
        next(loading._FromWorkers(ended, 1, "data.workers"))


def test_other_errors_of_workers_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a bug"):
        next(loading._FromWorkers(_raising("a bug"), 1, "data.workers"))


def test_the_shared_memory_of_a_killed_worker_is_freed_without_a_warning():
    script = """
import os
from multiprocessing import shared_memory
from softbio_jax.data import loading
loading._silence_tracker()
print(shared_memory.SharedMemory(create=True, size=16).name, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == ""
    assert not os.path.exists(f"/dev/shm/{done.stdout.strip()}")
