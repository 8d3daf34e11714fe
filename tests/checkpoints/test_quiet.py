"""What a failed save prints besides its one line; tests/train/test_disks.py has a full disk."""

import asyncio
import pathlib
import subprocess
import sys

import pytest

from softbio_jax.checkpoints import arrays

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Files may not grow beyond a limit, so that several of the writes of a save fail at once.
FAILING_SAVES = """
import logging, resource, sys
import jax
from softbio_jax.checkpoints.manager import CheckpointManager
from softbio_jax.errors import UserError

state = {f"k{i}": jax.random.normal(jax.random.key(i), (64, 64)) for i in range(24)}
hooks = sys.excepthook, sys.unraisablehook, logging.getLogger("asyncio").filters[:]
manager = CheckpointManager(sys.argv[1], keep=2, base="0" * 64)
manager.save(1, state, {})
manager.wait()
for _ in range(3):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), limits[1]))
    try:
        manager.save(2, state, {})
        manager.wait()
    except UserError as error:
        assert "\\n" not in str(error)
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
assert hooks == (sys.excepthook, sys.unraisablehook, logging.getLogger("asyncio").filters)
assert not logging.getLogger("absl").filters
manager.save(3, state, {})
manager.close()
print(*manager.steps())
"""


@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_failed_save_is_one_line_and_later_ones_work(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-c", FAILING_SAVES, str(tmp_path / "run"), str(limit)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=ROOT,
    )
    *failed, steps = done.stdout.splitlines()
    assert done.stderr == ""
    assert len(failed) == 3 and all("checkpoint cannot be written" in line for line in failed)
    assert steps == "3 1"


def test_errors_of_other_libraries_are_logged_during_a_save(tmp_path, caplog, monkeypatch):
    import jax.numpy as jnp
    from absl import logging

    from softbio_jax.checkpoints import manifest
    from softbio_jax.checkpoints.manager import CheckpointManager

    write = manifest.write
    monkeypatch.setattr(manifest, "write", lambda *args: (logging.error("another's"), write(*args)))
    manager = CheckpointManager(tmp_path / "run", keep=1, base="0" * 64)
    manager.save(1, {"a": jnp.zeros(3)}, {})
    manager.close()
    assert "another's" in caplog.text


def test_a_write_that_ends_after_its_event_loop_reports_nothing():
    # asyncio.run cancels what is left when one write fails; tensorstore's threads still report to the loop.
    loops = []

    async def write():
        loops.append(asyncio.get_running_loop())

    asyncio.run(arrays._patient(write)())
    assert loops[0].is_closed()
    assert loops[0].call_soon_threadsafe(print) is None
