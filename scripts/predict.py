"""Predicts age group, gender and emotion from images and videos, one row per face.

  python scripts/predict.py --model=runs/mine photo.jpg holiday/ 'more/**/*.png' clip.mp4
  python scripts/predict.py --model=runs/mine --faces=crop --out=crops.csv crops/
  find . -name '*.jpg' | python scripts/predict.py --model=runs/mine --out=all.jsonl -

Rows go to stdout, or to --out, where the same command resumes after an interruption. The exit code is
1 if any file was skipped; files of folders that are hidden, or no images or videos, are left out.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from softbio_jax import command, coverage
from softbio_jax.console import Console, duration

_MODEL = flags.DEFINE_string(
    "model", None, "A run of scripts/train.py, a folder with a saved model, or a hub id.", required=True
)
_FACES = flags.DEFINE_enum(
    "faces",
    "detect",
    ["detect", "crop"],
    "detect: detect faces (needs the extra faces); crop: each image is the crop of one face.",
)
_MARGIN = flags.DEFINE_float(
    "margin",
    None,
    "Added on each side of a detected face's square, as a fraction of its side; default: as in the training "
    "crops, 0 where that is not known.",
    lower_bound=0.0,
    upper_bound=2.0,
)
_OUT = flags.DEFINE_string("out", None, "File for the rows; default: stdout.")
_FORMAT = flags.DEFINE_enum(
    "format", None, ["csv", "jsonl"], "Format of the rows; default: by the ending of --out, else csv."
)
_ANNOTATE = flags.DEFINE_string("annotate", None, "Folder for images with the predictions drawn on them.")
_EVERY = flags.DEFINE_string("every", "1s", "Frames of videos: 10 for every tenth, 0.5s for two per second.")
_BATCH = flags.DEFINE_integer("batch", 64, "Maximum batch size (a power of two).")
_DEVICE = flags.DEFINE_string("device", None, "Such as cpu, gpu or gpu:1; default: JAX's first.")


_READERS = {"margin": ["--faces=detect"]}


def main(argv: Sequence[str]) -> int:
    command.refuse_ignored(f"--faces={_FACES.value}", _READERS)
    if len(argv) < 2:
        raise app.UsageError("name at least one input: predict.py --model=RUN INPUT [INPUT ...]")
    from softbio_jax.data.faces import Mtcnn
    from softbio_jax.inference import bundle, crops, inputs, predictor
    from softbio_jax.inference.stream import Pace, Stream
    from softbio_jax.inference.table import PredictionTable

    start = time.monotonic()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names need not be UTF-8
    pace = Pace.parse(_EVERY.value)
    finder = Mtcnn() if _FACES.value == "detect" else None  # before the model, which takes longer
    model = predictor.load(_MODEL.value, device=_DEVICE.value, max_batch=_BATCH.value)
    jsonl = (_OUT.value or "").endswith((".jsonl", ".json"))
    table = PredictionTable(
        _OUT.value,
        stream=sys.stdout,
        form=_FORMAT.value or ("jsonl" if jsonl else "csv"),
        tasks=model.bundle.tasks,
        model=bundle.label(model.bundle),
        marks=bool(notes := coverage.notes(model.bundle.training_images)),
    )
    console = Console(out=sys.stderr)
    for note in notes:
        console.say(f"warning: {note}: such answers are marked in the column untrained")
    left_out = inputs.LeftOut(console)
    stream = Stream(
        model=model,
        table=table,
        faces=_FACES.value,
        finder=finder,
        margin=crops.chosen(_MARGIN.value, model.bundle.crops, console) if finder else 0.0,
        pace=pace,
        annotated=_ANNOTATE.value,
        console=console,
    )
    try:
        counts = stream.run(inputs.expand(argv[1:], stdin=sys.stdin, leave_out=left_out))
    except BrokenPipeError:  # the reader of stdout, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        console.close()
        table.close()
    console.say(
        f"{counts.images:,} images, {counts.faces:,} faces, {counts.done:,} done before, "
        f"{counts.skipped:,} skipped, "
        + (f"{left_out.count:,} left out, " if left_out.count else "")
        + (f"{counts.untrained:,} with a class without training images, " if counts.untrained else "")
        + f"in {duration(time.monotonic() - start)}"
    )
    return 1 if counts.skipped else 0


if __name__ == "__main__":
    command.run(main, arguments=True)
