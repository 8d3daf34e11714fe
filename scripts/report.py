"""Writes a report on one or several runs: HTML, Markdown, LaTeX and JSON.

  python scripts/report.py RUN [RUN ...] --out=DIR
  python scripts/report.py RUN --out=DIR --predictions=MiVOLO:mivolo.csv

A RUN is a folder that scripts/train.py wrote and scripts/evaluate.py judged. The first run is
the one that the others are compared with, example by example. DIR/report.html holds everything
in one file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from absl import app, flags

from softbio_jax import command

_OUT = flags.DEFINE_string("out", None, "The folder to write the report to.", required=True)
_PREDICTIONS = flags.DEFINE_multi_string(
    "predictions",
    [],
    "NAME:FILE.csv, another model's predictions on the runs' test sets (columns: docs/evaluation.md"
    "); may be given several times.",
)


def main(argv: Sequence[str]) -> None:
    from softbio_jax.evaluation.report import runs as run_lib
    from softbio_jax.evaluation.report import write

    if len(argv) < 2:
        raise app.UsageError("name at least one run: report.py RUN [RUN ...] --out=DIR")
    start = time.monotonic()
    shown = sys.stderr.isatty()

    def progress(what: str) -> None:
        if shown:
            print(f"\r\033[K{what} ...", end="", file=sys.stderr, flush=True)

    progress("reading runs")
    runs = run_lib.load_all(argv[1:])
    runs += run_lib.third_parties(_PREDICTIONS.value, runs)
    page = write.write(runs, _OUT.value, progress=progress)
    if shown:
        print("\r\033[K", end="", file=sys.stderr)
    print(f"{page} ({page.stat().st_size / 2**20:.1f} MiB, {time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    command.run(main)
