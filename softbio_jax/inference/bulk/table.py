"""Tables of predictions, CSV or JSON lines, that an interrupted command resumes."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal

from softbio_jax.errors import UserError
from softbio_jax.escaping import csv_line, csv_rows, json_text, printable
from softbio_jax.inference.predictor import Prediction
from softbio_jax.tasks import AGE, TaskSpec

Format = Literal["csv", "jsonl"]
Key = tuple[str, str]  # input, and seconds as in the table
Kind = Literal["faces", "followed", "tracks"]
MARKS = "untrained"  # tasks whose class had no training image
UNSURE = "unsure"  # tasks whose class is less probable than its threshold
BOX = ("x0", "y0", "x1", "y1")
TIMES = ("first", "last")  # seconds of a track's first and last frame


def columns(
    tasks: Sequence[TaskSpec], *, marks: bool = False, unsure: bool = False, kind: Kind = "faces"
) -> list[str]:
    """Returns the names of the columns, in their order; the arguments are those of `PredictionTable`."""
    names = ["input", "track", "tracks", *TIMES, "frames"]
    if kind != "tracks":
        names = ["input", "seconds", "face", "faces", *(["track"] if kind == "followed" else []), *BOX]
        names.append("confidence")
    for task in tasks:
        names += [task.name, *(f"{task.name}_{name}" for name in task.classes)]
        names += ["expected_age"] if task.name == AGE.name else []
    return [*names, *([UNSURE] if unsure else ()), *([MARKS] if marks else ()), "model"]


def time_text(seconds: float | None) -> str | None:
    """Returns seconds as the table has them, in milliseconds."""
    return None if seconds is None else f"{seconds:.3f}"


class PredictionTable:
    """Rows of predictions, one per face; the rows of an image are on disk together or not at all.

    Opening an existing file keeps its rows, but removes an incomplete last line, and the rows of a
    last image some of whose faces are missing.

    Args:
      path: the file, created with its folders if missing; None: rows go to `stream`.
      form: CSV with a header, or one JSON object per line.
      model: contents of the column `model`.
      marks: whether the model has classes without training images. The column `untrained` then names
        the tasks whose class is one of them: separated by spaces, or a list in JSON.
      unsure: whether answers may be unsure, which a column `unsure` then names in the same way.
      kind: rows are faces of images and frames, the same with the number of their track, or tracks of
        videos.

    Raises:
      UserError: the file holds something else, or another model's rows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        stream: IO[str],
        form: Format,
        tasks: Sequence[TaskSpec],
        model: str,
        marks: bool = False,
        unsure: bool = False,
        kind: Kind = "faces",
    ):
        self._form, self._tasks, self._model = form, tasks, model
        self._columns = columns(tasks, marks=marks, unsure=unsure, kind=kind)
        self._number = "tracks" if kind == "tracks" else "faces"  # column of the rows of one input
        self._stream, self._owned = stream, path is not None
        self._done: set[Key] = set()
        self._last: dict[str, float] = {}
        fresh = True
        if path is not None:
            path = pathlib.Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self._repair(path)
            # A large buffer, so that `write` passes all rows of an image to the system at once.
            self._stream = path.open("a", encoding="utf-8", newline="", buffering=1 << 16)
        if fresh and form == "csv":
            self._stream.write(csv_line(self._columns))
            self._stream.flush()

    def done(self, name: str, seconds: float | None = None) -> bool:
        """Returns whether the table has the rows of an image, or of a frame of a video."""
        return (printable(name), time_text(seconds) or "") in self._done

    def last_seconds(self, name: str) -> float | None:
        """Returns the time of the last frame of a video that has rows."""
        return self._last.get(printable(name))

    def write(self, name: str, seconds: float | None, predictions: Sequence[Prediction]) -> None:
        """Adds the rows of an image or a frame, and flushes them."""
        rows = (self._row(name, seconds, predictions, number) for number in range(len(predictions)))
        self._stream.write("".join(map(self._line, rows)))
        self._stream.flush()

    def finish(self) -> None:
        """Completes the table, once every input is in it."""
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._owned:
            self._stream.close()

    def _row(
        self, name: str, seconds: float | None, predictions: Sequence[Prediction], number: int
    ) -> dict[str, Any]:
        prediction = predictions[number]
        row: dict[str, Any] = {"input": printable(name), "seconds": time_text(seconds), "model": self._model}
        row |= {MARKS: list(prediction.untrained), UNSURE: list(prediction.unsure)}
        if (track := prediction.track) is not None:
            row |= {"track": track.number, "tracks": len(predictions), "frames": track.frames}
            row |= dict(zip(TIMES, (round(track.first, 3), round(track.last, 3)), strict=True))
        if (face := prediction.face) is not None:
            row |= {"face": number, "faces": len(predictions), "confidence": _short(face.confidence)}
            row |= {key: round(side) for key, side in zip(BOX, face.box, strict=True)}
        for task in self._tasks:
            row[task.name] = prediction.classes[task.name]
            for label, value in prediction.probabilities[task.name].items():
                row[f"{task.name}_{label}"] = _short(value)
        if prediction.expected_age is not None:
            row["expected_age"] = round(prediction.expected_age, 2)
        return {column: row[column] for column in self._columns if row.get(column) is not None}

    def _line(self, row: Mapping[str, Any]) -> str:
        if self._form == "jsonl":
            return json_text(row) + "\n"
        cells = dict(row) | {name: " ".join(row.get(name, ())) for name in (MARKS, UNSURE)}
        return csv_line([cells.get(name) for name in self._columns])

    def _repair(self, path: pathlib.Path) -> bool:
        """Removes incomplete rows, records the others, and returns whether the file has any line left."""
        if not path.exists() or path.stat().st_size == 0:
            return False
        *lines, _incomplete = path.read_bytes().split(b"\n")  # no row has a line break inside
        header = int(self._form == "csv" and bool(lines))
        if header:
            found = lines[0].decode(errors="replace")
            if found != csv_line(self._columns).rstrip("\n"):
                raise other(path, "the columns of this model", found)
        rows = [self._parsed(line, path) for line in lines[header:]]
        for row in rows:
            if row["model"] != self._model:
                raise other(path, f"rows of {self._model}", str(row["model"]))
        if rows:
            key, faces = _key(rows[-1]), int(rows[-1].get(self._number) or 1)
            present = sum(_key(row) == key for row in rows[-faces:])
            if present < faces:
                del rows[len(rows) - present :]
        kept = lines[: header + len(rows)]
        os.truncate(path, sum(len(line) + 1 for line in kept))
        for row in rows:
            name, seconds = key = _key(row)
            self._done.add(key)
            if seconds:
                self._last[name] = float(seconds)
        return bool(kept)

    def _parsed(self, line: bytes, path: pathlib.Path) -> dict[str, str]:
        try:
            text = line.decode()
            if self._form == "jsonl":
                row = json.loads(text)
            else:
                row = dict(zip(self._columns, csv_rows([text])[0], strict=True))
            return {"input": row["input"], "model": row["model"]} | row
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise other(path, "rows of this program", line[:80].decode(errors="replace")) from error


def _key(row: Mapping[str, str]) -> Key:
    return row["input"], row.get("seconds") or ""


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def other(path: pathlib.Path, expected: str, found: str) -> UserError:
    """Returns the error of an output that is not a table of this model."""
    return UserError(
        "the output holds something else",
        where=str(path),
        expected=expected,
        found=found if len(found) <= 80 else found[:77] + "...",
        fix="name another --out, or remove it",
    )
