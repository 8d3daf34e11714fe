"""Starts a script of the repository as a user does."""

import os
import subprocess
import sys

from tests.structure import ROOT


def run_script(script, *arguments):
    """Runs scripts/{script} to its end; returns its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, f"scripts/{script}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
