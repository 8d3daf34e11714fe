"""SIGTERM to two processes of scripts/train.py, in whatever they are doing."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from softbio_jax.train.preemption import EXIT_FELL_BACK, EXIT_SAVED
from tests.runs.tiny import changed, config_on

pytestmark = pytest.mark.long
ROOT = pathlib.Path(__file__).resolve().parents[2]


def _start(config_file, workdir, cache):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    return [
        subprocess.Popen(
            [
                sys.executable,
                "scripts/train.py",
                "--multihost",
                f"--config={config_file}",
                f"--workdir={workdir}",
                f"--coordinator=127.0.0.1:{port}",
                "--processes=2",
                f"--process_id={process}",
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]


def _wait_for(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    pytest.fail(f"no {text!r} in: {''.join(lines)} {process.stderr.read()[-2000:]}")


@pytest.mark.parametrize("moment", ["trainable", "step 6/"])
def test_sigterm_ends_both_processes_in_time_and_the_run_goes_on(data_root, tmp_path, moment):
    """In the first compilation, where no python runs and no step has been agreed on, and later."""
    config = changed(config_on(data_root), train__steps=400, train__log_every=2)
    config_file = tmp_path / "tiny.py"
    config_file.write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n"
    )
    processes = _start(config_file, tmp_path / "run", tmp_path / "cache")
    _wait_for(processes[0], moment)
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
    processes = _start(config_file, tmp_path / "run", tmp_path / "cache")
    try:
        _wait_for(processes[0], "resumed from step" if saved else "compiled")
    finally:
        for process in processes:
            process.kill()
            process.communicate()
