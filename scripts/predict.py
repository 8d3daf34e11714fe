"""Predicts age group, gender and emotion from pictures and videos, a row a face.

  python scripts/predict.py --model=runs/mine photo.jpg holiday/ 'more/**/*.png' clip.mp4
  python scripts/predict.py --model=runs/mine --faces=crop --out=crops.csv crops/
  find . -name '*.jpg' | python scripts/predict.py --model=runs/mine --out=all.jsonl -

--model is a run of scripts/train.py, a saved folder or a hub id. Rows go to stdout, or to --out,
where the same command goes on after an interruption. Exit code 1 if anything was left out.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from softbio_jax import command

_MODEL = flags.DEFINE_string("model", None, "A run, a folder with a saved model, or a hub id.", required=True)
_FACES = flags.DEFINE_enum(
    "faces",
    "detect",
    ["detect", "crop"],
    "detect: find faces (needs the extra faces); crop: pictures are of one face, cut already.",
)
_MARGIN = flags.DEFINE_float(
    "margin",
    0.0,
    "Added on each side of a found face's square, as a share of its side.",
    lower_bound=0.0,
    upper_bound=2.0,
)
_OUT = flags.DEFINE_string("out", None, "The file for the rows; stdout if not given.")
_FORMAT = flags.DEFINE_enum(
    "format", None, ["csv", "jsonl"], "Of the rows; by default as --out ends, else csv."
)
_ANNOTATE = flags.DEFINE_string("annotate", None, "A folder for pictures with the predictions.")
_EVERY = flags.DEFINE_string("every", "1s", "Of videos: every 10 (frames), or every 0.5s.")
_BATCH = flags.DEFINE_integer("batch", 64, "Most faces at once, a power of two.")
_DEVICE = flags.DEFINE_string("device", None, "Such as cpu, gpu or gpu:1; by default JAX's first.")

_SECONDS_BETWEEN = 5.0


def main(argv: Sequence[str]) -> int:
    if len(argv) < 2:
        raise app.UsageError("name at least one input: predict.py --model=RUN INPUT [INPUT ...]")
    from softbio_jax.data.faces import Mtcnn
    from softbio_jax.inference import bundle, inputs, predictor, table
    from softbio_jax.inference import stream as stream_lib
    from softbio_jax.inference.stream import Stream

    pace = stream_lib.pace(_EVERY.value)
    finder = Mtcnn() if _FACES.value == "detect" else None  # before the model, which takes longer
    model = predictor.load(_MODEL.value, device=_DEVICE.value, max_batch=_BATCH.value)
    label = bundle.label(model.bundle)
    jsonl = (_OUT.value or "").endswith((".jsonl", ".json"))
    output = table.Table(
        _OUT.value,
        stream=sys.stdout,
        form=_FORMAT.value or ("jsonl" if jsonl else "csv"),
        columns=table.columns(model.bundle.tasks),
        model=label,
    )
    progress = Progress()
    stream = Stream(
        model=model,
        table=output,
        label=label,
        faces=_FACES.value,
        finder=finder,
        margin=_MARGIN.value,
        pace=pace,
        annotated=_ANNOTATE.value,
        report=progress.say,
        progress=progress.update,
    )
    try:
        counts = stream.run(inputs.expand(argv[1:], stdin=sys.stdin))
    except BrokenPipeError:  # what reads stdout, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        output.close()
    progress.end(counts)
    return 1 if counts.left_out else 0


class Progress:
    """Counts on stderr: in place on a terminal, else a line every few seconds."""

    def __init__(self):
        self._start = self._before = time.monotonic()
        self._open = False

    def update(self, counts):
        now = time.monotonic()
        in_place = sys.stderr.isatty()
        if not in_place and now - self._before < _SECONDS_BETWEEN:
            return
        self._before = now
        rate = counts.pictures / max(now - self._start, 1e-9)
        line = f"{counts.pictures:,} pictures  {counts.faces:,} faces  {rate:,.0f} pictures/s"
        print(
            f"\r\033[K{line}" if in_place else line, end="" if in_place else "\n", file=sys.stderr, flush=True
        )
        self._open = in_place

    def say(self, problem):
        print(("\n" if self._open else "") + f"left out: {problem}", file=sys.stderr, flush=True)
        self._open = False

    def end(self, counts):
        self._open = self._open and print(file=sys.stderr) is not None
        seconds = time.monotonic() - self._start
        print(
            f"{counts.pictures:,} pictures, {counts.faces:,} faces, "
            f"{counts.skipped:,} done before, {counts.left_out:,} left out, in {seconds:.1f} s",
            file=sys.stderr,
        )


if __name__ == "__main__":
    command.run(main)
