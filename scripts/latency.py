"""Measures how fast models answer on this machine: milliseconds, memory, size and operations.

  python scripts/latency.py exports/robot exports/onnx runs/mine --out=latency.json
  python scripts/latency.py model.int8.tflite --threads=1,2,4 --seconds=10

A MODEL is a run, a saved model, a hub id, a folder that scripts/export.py wrote (all its files), or a .onnx
or .tflite file. Each is timed in a process of its own, one image per call (a LiteRT file: as many as it was
exported for), on one core and on two: median and 95th percentile of at least 50 calls and 5 seconds.
Prints a table; --out writes it as JSON, with the machine.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from softbio_jax import command, files
from softbio_jax.console import Console
from softbio_jax.errors import UserError

_THREADS = flags.DEFINE_list("threads", ["1", "2"], "Numbers of cores.")
_SECONDS = flags.DEFINE_float(
    "seconds",
    5.0,
    "At least so long is timed, per model and number of cores.",
    lower_bound=0,
    upper_bound=3600,
)
_CALLS = flags.DEFINE_integer(
    "calls", 50, "At least so many calls are timed.", lower_bound=1, upper_bound=5000
)
_OUT = flags.DEFINE_string("out", None, "JSON file for the rows and the machine.")
_BEGINS = '{\n "machine": {'  # of a file that --out wrote


def main(argv: Sequence[str]) -> None:
    from softbio_jax.inference import latency

    if len(argv) < 2:
        raise app.UsageError("name at least one model: latency.py MODEL [MODEL ...]")
    if _OUT.value is not None:
        files.check_own(_OUT.value, _BEGINS, where="--out")
    console = Console(out=sys.stderr)
    before = latency.machine()
    rows = latency.measure(
        argv[1:], threads=_threads(), seconds=_SECONDS.value, calls=_CALLS.value, console=console
    )
    console.close()
    if _OUT.value is not None:
        values = {"machine": before, "rows": [dataclasses.asdict(row) for row in rows]}
        files.write_text(pathlib.Path(_OUT.value), json.dumps(values, indent=1) + "\n")
    print(latency.table(rows), end="")
    if (before["load"] or 0) > 0.5:
        console.say(f"warning: {before['load']:.1f} other processes were running: times are upper bounds")


def _threads() -> list[int]:
    if not _THREADS.value or not all(text.isdigit() and 0 < int(text) < 1024 for text in _THREADS.value):
        raise UserError(
            "bad numbers of threads",
            where="--threads",
            expected="positive integers as 1,2",
            found=repr(",".join(_THREADS.value)),
            fix="correct it",
        )
    return [int(text) for text in _THREADS.value]


if __name__ == "__main__":
    command.run(main, arguments=True)
