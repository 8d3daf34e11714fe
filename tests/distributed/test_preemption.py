"""SIGTERM to two processes of scripts/train.py, in whatever they are doing."""

import signal
import time

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED
from tests.distributed.pair import start, wait_for, write_config
from tests.runs.tiny import changed, config_on

pytestmark = pytest.mark.long


@pytest.mark.parametrize("moment", ["trainable", "step 6/"])
def test_sigterm_ends_both_processes_in_time_and_the_run_goes_on(data_root, tmp_path, moment):
    """In the first compilation, where no python runs and no step has been agreed on, and later."""
    config = changed(config_on(data_root), train__steps=400, train__log_every=2)
    config_file = write_config(tmp_path / "tiny.py", config)
    processes = start(config_file, tmp_path / "run", tmp_path / "cache")
    wait_for(processes[0], moment)
    if moment == "trainable":
        time.sleep(1.0)  # into reading and compiling
    for process in processes:
        process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    told = [process.communicate(timeout=120) for process in processes]
    seconds, codes = time.monotonic() - sent, [process.returncode for process in processes]
    print(f"RESULT SIGTERM x 2 at {moment!r}: exits {codes} after {seconds:.1f} s")
    assert set(codes) <= {EXIT_SAVED, EXIT_FELL_BACK}, told
    assert seconds < 30
    checkpoints = tmp_path / "run" / "checkpoints"
    saved = checkpoints.is_dir() and any(checkpoints.glob("*/manifest.json"))
    assert saved or moment == "trainable"
    processes = start(config_file, tmp_path / "run", tmp_path / "cache")
    try:
        wait_for(processes[0], "resumed from step" if saved else "compiled")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
