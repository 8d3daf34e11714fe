"""A process that prepares workloads of one side and runs them on command.

Commands come as lines of JSON on its standard input, answers go as such to its standard output:
prepare, run, memory, device_bytes. Between two commands the parent stops it, so that the other side has
the machine.
"""

import argparse
import ctypes
import gc
import importlib
import json
import os
import pathlib
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from softbio_jax.errors import UserError

Repetition = Callable[[], float | None]
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


class Side:
    """What one side has prepared.

    Args:
      name: the module of `benchmarks` that has describe() and prepare(work, form) ->
        (repetition, facts).
    """

    def __init__(self, name: str):
        start = time.perf_counter()
        self._module = importlib.import_module(f"benchmarks.{name}")
        self._import_seconds = time.perf_counter() - start
        self._prepared: dict[str, Repetition] = {}
        self._since = time.perf_counter(), time.process_time()

    def describe(self) -> dict[str, Any]:
        return self._module.describe()

    def prepare(self, name: str, work: Mapping[str, Any], form: str) -> dict[str, Any]:
        start = time.perf_counter()
        self._prepared[name], facts = self._module.prepare(work, form)
        self._since = time.perf_counter(), time.process_time()
        return facts | {
            "prepare_seconds": time.perf_counter() - start,
            "import_seconds": self._import_seconds,
        }

    def run(self, name: str) -> dict[str, float]:
        """Runs one repetition, and returns its seconds, its processor time, and the cores
        that this process used since its last one, while it should have waited."""
        waited = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        gc.collect()
        gc.disable()
        before, start = time.process_time(), time.perf_counter()
        own = self._prepared[name]()  # its own seconds, where only a part counts
        seconds = time.perf_counter() - start if own is None else own
        used = time.process_time() - before
        gc.enable()
        self._since = time.perf_counter(), time.process_time()
        return {"seconds": seconds, "cpu_seconds": used, "waiting_cores": waited[1] / waited[0]}

    def device_bytes(self) -> dict[str, int]:
        """Returns the most that this process has used of the device's memory; 0 where it is not counted."""
        count = getattr(self._module, "device_bytes", lambda: 0)
        return {"device_bytes": count()}

    def memory(self, name: str, repetitions: int) -> dict[str, float]:
        """Measures the highest resident memory while the prepared workload runs, in MiB."""
        whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        gc.collect()
        forget_peak()
        for _ in range(repetitions):
            self._prepared[name]()
        return {"peak_mib": peak_mib(), "start_peak_mib": whole}


def forget_peak() -> None:
    """Gives freed memory back to the system and starts its high-water mark again (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Returns the process' high-water mark of resident memory since `forget_peak`."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def serve(side: Any, commands: TextIO, answers: TextIO) -> None:
    """Answers commands until there are no more."""
    for line in commands:
        command = json.loads(line)
        try:
            answer = getattr(side, command.pop("do"))(**command)
        except UserError as error:
            answer = {"mistake": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", required=True)
    arguments = parser.parse_args()
    # A stopped process would outlive a parent that is killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Whatever a library prints goes to stderr: the answers have standard output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        side = Side(arguments.side)
    except ImportError as error:  # the answer to whatever is asked first
        mistake = UserError(
            "a package is missing",
            where=sys.executable,
            expected="the extra parity",
            found=str(error),
            fix="make test-parity sets .venv-parity up; run with its python",
        )
        answers.write(json.dumps({"mistake": str(mistake)}) + "\n")
        answers.close()
        return
    serve(side, sys.stdin, answers)


if __name__ == "__main__":
    main()
