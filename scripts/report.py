"""Writes a report on one or several runs: HTML, Markdown, LaTeX, JSON and one card per run.

  python scripts/report.py RUN [RUN ...] --out=DIR
  python scripts/report.py RUN --out=DIR --predictions=MiVOLO:mivolo.csv
  python scripts/report.py RUN --out=DIR --gallery=DATA

A RUN is a folder that scripts/train.py wrote and scripts/evaluate.py evaluated. The others are
compared with the first run, example by example. DIR/report.html holds everything in one file.

Another model's predictions are a CSV file with one row per example: `id` (as in the runs'
eval/predictions), for each task the probabilities `gender_male`, `gender_female` (all classes, in
order, summing to one), optionally `gender_label` (a class name or an empty cell) and, where an id
occurs in several test sets, `test_set`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from softbio_jax import command
from softbio_jax.console import Console

_OUT = flags.DEFINE_string("out", None, "Folder to write the report to.", required=True)
_PREDICTIONS = flags.DEFINE_multi_string(
    "predictions", [], "NAME:FILE.csv, another model's predictions on the runs' test sets; repeatable."
)
_GALLERY = flags.DEFINE_string(
    "gallery",
    None,
    "Root of the prepared data: also write pages with the images of the most confident mistakes, to "
    "gallery/ in that root and not into the report.",
)
_SHARE_GALLERY = flags.DEFINE_bool(
    "share_gallery", False, "Write the gallery to gallery/ in --out, where faces may be seen."
)


def main(argv: Sequence[str]) -> None:
    from softbio_jax.evaluation.report import gallery, write
    from softbio_jax.evaluation.report import runs as run_lib
    from softbio_jax.thesis import report

    if _SHARE_GALLERY.value and not _GALLERY.value:
        raise app.UsageError("--share_gallery needs --gallery=DATA")
    if len(argv) < 2:
        raise app.UsageError("name at least one run: report.py RUN [RUN ...] --out=DIR")
    start = time.monotonic()
    console = Console(active=sys.stderr.isatty(), out=sys.stderr)
    console.show("reading runs", 0, 1)
    runs = run_lib.load_all(argv[1:])
    runs += run_lib.third_parties(_PREDICTIONS.value, runs)
    extra = report.sections(runs)
    published = report.training_set() if extra else None
    page = write.write(runs, _OUT.value, extra=extra, published=published, console=console)
    if _GALLERY.value:
        root = _OUT.value if _SHARE_GALLERY.value else _GALLERY.value
        for path in gallery.write_galleries(runs, _GALLERY.value, os.path.join(root, "gallery")):
            print(path)
    print(f"{page} ({page.stat().st_size / 2**20:.1f} MiB, {time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    command.run(main, arguments=True)
