"""A growing file of rows, CSV or JSON lines, that an interrupted command goes on with."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Literal

from softbio_jax.errors import UserError
from softbio_jax.inference.predictor import Prediction
from softbio_jax.tasks import AGE, TaskSpec

Row = dict[str, str | int | float | None]
Key = tuple[str, str]  # input, and seconds as written


def columns(tasks: Sequence[TaskSpec]) -> list[str]:
    """Returns the names of the columns, in their order."""
    names = ["input", "seconds", "face", "faces", "x0", "y0", "x1", "y1", "confidence"]
    for task in tasks:
        names += [task.name, *(f"{task.name}_{name}" for name in task.classes)]
        names += ["expected_age"] if task.name == AGE.name else []
    return [*names, "model"]


def rows(
    name: str,
    seconds: float | None,
    predictions: Sequence[Prediction],
    *,
    model: str,
    tasks: Sequence[TaskSpec],
) -> list[Row]:
    """Returns the rows of one picture or frame, one a face."""
    names, result = columns(tasks), []
    for number, prediction in enumerate(predictions):
        row: Row = dict.fromkeys(names) | {"input": name, "seconds": time_text(seconds)}
        if (face := prediction.face) is not None:
            row |= {"face": number, "faces": len(predictions)}
            row |= {key: round(side) for key, side in zip(names[4:8], face.box, strict=True)}
            row["confidence"] = _short(face.confidence)
        for task in tasks:
            row[task.name] = prediction.classes[task.name]
            for label, value in prediction.probabilities[task.name].items():
                row[f"{task.name}_{label}"] = _short(value)
        if prediction.expected_age is not None:
            row["expected_age"] = round(prediction.expected_age, 2)
        result.append(row | {"model": model})
    return result


def time_text(seconds: float | None) -> str | None:
    """Returns seconds as rows have them, to the millisecond."""
    return None if seconds is None else f"{seconds:.3f}"


def _short(value: float) -> float:
    return float(f"{value:.6g}")


Format = Literal["csv", "jsonl"]
_BUFFER = 1 << 16


class Table:
    """Rows under fixed columns. What was written for a picture is on disk as a whole or undone.

    Opening a file that exists keeps its rows, but cuts off a torn last line and the rows of a
    last picture some of whose faces are missing.

    Args:
      path: the file, made with its folder if need be; None: `stream`.
      stream: where to write without a path.
      form: CSV with a header, or one JSON object a line.
      columns: their names.
      model: what the column `model` holds.

    Raises:
      UserError: the file holds something else, or another model's rows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        stream: IO[str],
        form: Format,
        columns: Sequence[str],
        model: str,
    ):
        self._form, self._columns = form, list(columns)
        self._stream: IO[str] = stream
        self._done: set[Key] = set()
        self._last: dict[str, float] = {}
        self._owned = path is not None
        fresh = True
        if path is not None:
            path = pathlib.Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not self._repair(path, model)
            self._stream = path.open("a", encoding="utf-8", newline="", buffering=_BUFFER)
        if fresh and form == "csv":
            self._stream.write(self._line(dict(zip(self._columns, self._columns, strict=True))))
            self._stream.flush()

    def done(self, name: str, seconds: str | None = None) -> bool:
        """Tells whether the rows of a picture, or of a video's frame, are there."""
        return (name, seconds or "") in self._done

    def last_seconds(self, name: str) -> float | None:
        """Returns the time of the last frame of a video that has rows."""
        return self._last.get(name)

    def write(self, rows: Sequence[Row]) -> None:
        """Adds rows, which are on their way to the disk when this returns."""
        self._stream.write("".join(map(self._line, rows)))
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._owned:
            self._stream.close()

    def _line(self, row: Mapping[str, object]) -> str:
        if self._form == "jsonl":
            known = {key: value for key, value in row.items() if value is not None}
            return json.dumps(known, ensure_ascii=False) + "\n"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([row[name] for name in self._columns])
        return text.getvalue()

    def _repair(self, path: pathlib.Path, model: str) -> bool:
        """Cuts off what is not whole and notes what is; tells whether anything is left."""
        if not path.exists() or path.stat().st_size == 0:
            return False
        *lines, _torn = path.read_bytes().split(b"\n")  # no row has a line break inside
        header = 0
        if self._form == "csv":
            if not lines:
                os.truncate(path, 0)
                return False
            header = 1
            if lines[0].decode(errors="replace") != self._line(
                dict(zip(self._columns, self._columns, strict=True))
            ).rstrip("\n"):
                raise _other(path, "the columns of this model", lines[0].decode(errors="replace"))
        rows = [self._parsed(line, path) for line in lines[header:]]
        for row in rows:
            if row["model"] != model:
                raise _other(path, f"rows of {model}", str(row["model"]))
        if rows:
            key, faces = _key(rows[-1]), int(rows[-1].get("faces") or 1)
            present = sum(1 for row in rows[-faces:] if _key(row) == key)
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
                row = dict(zip(self._columns, next(csv.reader([text])), strict=True))
            return {"input": row["input"], "model": row["model"]} | row
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise _other(path, "rows of this program", line[:80].decode(errors="replace")) from error


def _key(row: Mapping[str, str]) -> Key:
    return row["input"], row.get("seconds") or ""


def _other(path: pathlib.Path, expected: str, found: str) -> UserError:
    shown = found if len(found) <= 80 else found[:77] + "..."
    return UserError(
        "the output holds something else",
        where=str(path),
        expected=expected,
        found=shown,
        fix="name another --out, or remove it",
    )
