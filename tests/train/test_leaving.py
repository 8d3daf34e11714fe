"""SIGTERM to scripts/train.py before it trains, in whatever it imports."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from softbio_jax.train.preemption import EXIT_SAVED

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Importing one module takes minutes, in C, where Python runs no signal handler.
SLOW_IMPORT = """
import ctypes, importlib.abc, runpy, sys

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            print("importing", flush=True)
            for _ in range(300):
                ctypes.CDLL(None).usleep(1000000)

sys.meta_path.insert(0, Slow())
sys.argv = ["scripts/train.py", *sys.argv[1:]]
runpy.run_path("scripts/train.py", run_name="__main__")
"""


@pytest.mark.parametrize("flags", [(), ("--multihost",)], ids=["one process", "supervised"])
@pytest.mark.parametrize("module", ["absl", "jax"])
def test_sigterm_during_imports_has_the_exit_code_of_a_preemption(tmp_path, module, flags):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SLOW_IMPORT.format(module=module),
            "--config=configs/demo.py",
            f"--workdir={tmp_path / 'run'}",
            *flags,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_SAVED, errors
    assert errors.count("\n") == 1 and "SIGTERM" in errors
    assert not (tmp_path / "run").exists()
