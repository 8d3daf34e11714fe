"""Predicts age group, gender and emotion from images and videos, one row per face.

  python scripts/predict.py --model=runs/mine photo.jpg holiday/ 'more/**/*.png' clip.mp4
  python scripts/predict.py --model=runs/mine --faces=crop --out=crops.csv crops/
  find . -name '*.jpg' | python scripts/predict.py --model=runs/mine --out=all.jsonl -
  python scripts/predict.py --model=runs/mine --faces=crop --shards=16 --out=rows --multihost crops/
  python scripts/predict.py --model=runs/mine --faces=crop --out=rows.parquet faces.parquet
  python scripts/predict.py --model=runs/mine --track --risk=0.1 --out=rows.csv clip.mp4

Rows go to stdout, or to --out, where the same command resumes after an interruption. With --shards, --out
is a folder of tables; with --multihost, every process writes its share of them. With --track, a face of a
video is followed over its frames and its answers are smoothed, and OUT.tracks has one row per face; with
--risk, an answer is unsure where the validation rows say that more would be wrong. The exit code is
1 if any file was skipped; files of folders that are hidden, or no images or videos, are left out.
"""

from __future__ import annotations

import io
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags

from softbio_jax import command, coverage, files
from softbio_jax.console import Console, duration
from softbio_jax.errors import UserError
from softbio_jax.train import huge_pages

if TYPE_CHECKING:
    from softbio_jax.inference.bulk.table import Kind

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
_OUT = flags.DEFINE_string("out", None, "File for the rows, or with --shards a folder; default: stdout.")
_SHARDS = flags.DEFINE_integer(
    "shards", 0, "Number of tables in the folder --out; 0: one file.", lower_bound=0, upper_bound=99_999
)
_FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ["csv", "jsonl", "parquet"],
    "Format of the rows; default: by the ending of --out, else csv; parquet needs the extra parquet.",
)
_COLUMN = flags.DEFINE_string(
    "column", "", "Column of the images, or of their paths, of Parquet files; default: the only one."
)
_WORKERS = flags.DEFINE_integer(
    "workers",
    0,
    "Processes that decode crops, for hosts with many cores; 0: threads.",
    lower_bound=0,
    upper_bound=256,
)
_ANNOTATE = flags.DEFINE_string("annotate", None, "Folder for images with the predictions drawn on them.")
_EVERY = flags.DEFINE_string(
    "every",
    None,
    "Frames of videos: 10 for every tenth, 0.5s for two per second; default: 1s, with --track 0.1s.",
)
_TRACK = flags.DEFINE_bool(
    "track", False, "Follow the faces of videos, and smooth the answers of each over its frames."
)
_HALF_LIFE = flags.DEFINE_float(
    "half_life",
    1.0,
    "track: seconds after which a frame counts half; 0: the last frame alone, inf: all alike.",
    lower_bound=0.0,
)
_GAP = flags.DEFINE_float(
    "gap",
    1.0,
    "track: seconds without a face after which it is a new one.",
    lower_bound=0.0,
    upper_bound=3600,
)
_RISK = flags.DEFINE_enum(
    "risk",
    None,
    ["0.01", "0.02", "0.05", "0.1", "0.2", "0.3"],
    "Mark answers as unsure, so that at most this share of the others is wrong, by the validation rows.",
)
_BATCH = flags.DEFINE_integer("batch", 64, "Maximum batch size per device (a power of two).")
_DEVICE = flags.DEFINE_string("device", None, "Such as cpu, gpu or gpu:1; default: all of this machine.")
_PROCESSES = command.define_processes()

_READERS = {"margin": ["--faces=detect"], "workers": ["--faces=crop"], "track": ["--faces=detect"]}
_TRACKED = {"half_life": ["--track"], "gap": ["--track"], "shards": ["no --track"]}

# What changes answers, beside the model.
_CHANGING, _SMOOTHING = ("margin", "risk"), ("every", "half_life", "gap")

_ENDINGS = {".json": "jsonl", ".jsonl": "jsonl", ".parquet": "parquet"}


def main(argv: Sequence[str]) -> int:
    command.refuse_ignored(f"--faces={_FACES.value}", _READERS)
    command.refuse_ignored("--track" if _TRACK.value else "no --track", _TRACKED)
    _PROCESSES.refuse_ignored()
    if len(argv) < 2:
        raise app.UsageError("name at least one input: predict.py --model=RUN INPUT [INPUT ...]")
    _check_flags(argv[1:])
    import jax

    from softbio_jax.data.faces import Mtcnn
    from softbio_jax.inference import bundle, certainty, crops, predictor
    from softbio_jax.inference.bulk import inputs, shards
    from softbio_jax.inference.bulk.parquet import open_table
    from softbio_jax.inference.bulk.stream import Counts, Follow, Stream
    from softbio_jax.inference.bulk.videos import Pace
    from softbio_jax.inference.tracking import Tracks
    from softbio_jax.inference.tracking.tracker import TrackerConfig
    from softbio_jax.runs import parallel

    start = time.monotonic()
    if _PROCESSES.multihost.value:
        parallel.start_distributed(**_PROCESSES.described())
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names need not be UTF-8
    pace = Pace.parse(_EVERY.value or ("0.1s" if _TRACK.value else "1s"))
    finder = Mtcnn() if _FACES.value == "detect" else None  # before the model, which takes longer
    model = predictor.load(_MODEL.value, device=_DEVICE.value, max_batch=_BATCH.value)
    form = _FORMAT.value or _ENDINGS.get(pathlib.Path(_OUT.value or "").suffix, "csv")
    console = Console(out=sys.stderr)
    for note in (notes := coverage.notes(model.bundle.training_images)):
        console.say(f"warning: {note}: such answers are marked in the column untrained")
    sure = certainty.of_bundle(model.bundle, _RISK.value) if _RISK.value else None
    for note in sure.notes() if sure else ():
        console.say(f"warning: {note}")
    margin = crops.chosen(_MARGIN.value, model.bundle.crops, console) if finder else 0.0
    left_out, counts = inputs.LeftOut(console), Counts()
    names: Iterable[str] = inputs.expand(argv[1:], stdin=sys.stdin, leave_out=left_out, column=_COLUMN.value)
    parts: list[tuple[str | pathlib.Path | None, Iterable[str]]] = [(_OUT.value, names)]
    if inputs.STDIN not in argv[1:]:
        parts = [(_OUT.value, list(names))]
    if _SHARDS.value:
        folder, processes = pathlib.Path(_OUT.value), jax.process_count()
        paths = shards.tables(folder, shards=_SHARDS.value, form=form, processes=processes)
        own = slice(jax.process_index(), None, processes)
        shares = shards.divided(list(parts[0][1]), shards=_SHARDS.value, every=_BATCH.value)
        parts = list(zip(paths[own], shares[own], strict=True))
    for path, part in parts:
        chosen: dict[str, Any] = {
            "form": form,
            "tasks": model.bundle.tasks,
            "model": " ".join([bundle.label(model.bundle), *_settings()]),
            "marks": bool(notes),
            "unsure": sure is not None,
        }
        kind: Kind = "followed" if _TRACK.value else "faces"
        table, follow = open_table(path, stream=sys.stdout, kind=kind, **chosen), None
        if _TRACK.value:
            follow = Follow(
                begin=lambda: Tracks(
                    model.bundle, half_life=_HALF_LIFE.value, config=TrackerConfig(gap=_GAP.value)
                ),
                tracks=open_table(_beside(path), stream=io.StringIO(), kind="tracks", **chosen),
            )
        stream = Stream(
            model=model,
            table=table,
            faces=_FACES.value,
            finder=finder,
            margin=margin,
            pace=pace,
            annotated=_ANNOTATE.value,
            certainty=sure,
            follow=follow,
            workers=_WORKERS.value,
            console=console,
        )
        try:
            counts += stream.run(part)
            for rows in (table, *([follow.tracks] if follow else ())):
                rows.finish()
        except BrokenPipeError:  # the reader of stdout, such as head, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        finally:
            console.close()
            for rows in (table, *([follow.tracks] if follow else ())):
                rows.close()
    console.say(
        f"{counts.images:,} images, {counts.faces:,} faces, {counts.done:,} done before, "
        f"{counts.skipped:,} skipped, "
        + (f"{left_out.count:,} left out, " if left_out.count else "")
        + (f"{counts.untrained:,} with a class without training images, " if counts.untrained else "")
        + f"in {duration(time.monotonic() - start)}"
    )
    return 1 if counts.skipped else 0


def _settings() -> list[str]:
    """Returns the flags that change answers, as margin=0.3: a table continues with the same ones alone."""
    names = (*_CHANGING, *(_SMOOTHING if _TRACK.value else ()))
    return [
        f"{name}={flags.FLAGS[name].value}"
        for name in names
        if flags.FLAGS[name].value not in (None, flags.FLAGS[name].default)
    ]


def _beside(path: str | pathlib.Path | None) -> pathlib.Path | None:
    """Returns the file of the tracks beside that of the frames, rows.tracks.csv; none beside stdout."""
    return None if path is None else pathlib.Path(path).with_suffix(f".tracks{pathlib.Path(path).suffix}")


def _check_flags(given: Sequence[str]) -> None:
    """Refuses flags that nothing reads, and processes that would write to one file or read one stdin."""
    several = _PROCESSES.multihost.value
    if _WORKERS.value and _ANNOTATE.value:
        what, fix = "workers decode crops alone", "omit --workers, or --annotate"
        raise UserError(what, where="--workers", expected="no --annotate", found=_ANNOTATE.value, fix=fix)
    if _COLUMN.value:
        from softbio_jax.inference.bulk.parquet import SUFFIXES

        if not any(name == "-" or name.lower().endswith(SUFFIXES) for name in given):
            what, fix = "a column without a table", "name a Parquet file, or omit --column"
            raise UserError(what, where="--column", expected="a Parquet file", found=" ".join(given), fix=fix)
    if several and not _SHARDS.value:
        what, fix = "several processes and one table", "pass --shards=N and a folder as --out"
        raise UserError(what, where="--multihost", expected="--shards", found="none", fix=fix)
    for flag in (_OUT, _ANNOTATE):
        if flag.value:
            files.local(flag.value, what=f"--{flag.name}")
    if _OUT.value and not _SHARDS.value and os.path.isdir(_OUT.value):
        fix = "name a file in it, or pass --shards=N for a folder of tables"
        raise UserError("the output is a folder", where="--out", expected="a file", found=_OUT.value, fix=fix)
    if _SHARDS.value and not _OUT.value:
        what, fix = "shards without a folder", "pass --out=FOLDER"
        raise UserError(what, where="--shards", expected="--out", found="none", fix=fix)
    if _SHARDS.value and "-" in given:
        what, fix = "a listing that can be read only once", "name files, folders or patterns"
        raise UserError(
            what, where="--shards", expected="inputs that a restart reads again", found="-", fix=fix
        )
    if _ANNOTATE.value:
        from softbio_jax.inference.annotate import Places

        Places(_ANNOTATE.value).check_apart(given)


if __name__ == "__main__":
    huge_pages.restart()
    command.run(main, arguments=True)
