"""Parquet tables: images as the rows of one, and predictions as another (the extra `parquet`)."""

from __future__ import annotations

import bisect
import io
import itertools
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

from softbio_jax import files
from softbio_jax.data.builders.arrow import ParquetFile, pyarrow
from softbio_jax.data.prepare.rows import Rejection
from softbio_jax.errors import UserError
from softbio_jax.escaping import json_text
from softbio_jax.inference.bulk.table import (
    BOX,
    MARKS,
    UNSURE,
    Kind,
    PredictionTable,
    columns,
    other,
    time_text,
)
from softbio_jax.tasks import TaskSpec

SUFFIXES = (".parquet", ".parq", ".pq")
_PATHS = ("path", "file", "file_name", "filename", "image", "image_path", "input")  # columns of paths
_SECONDS = "seconds"
_ROWS = 1 << 16  # of predictions that are in memory at a time


class TableImage(str):
    """The name of an image inside a table, `TABLE#ROW`, with the place to read it from."""

    path: str
    column: str
    row: int

    def __new__(cls, path: str, column: str, row: int) -> TableImage:
        name = super().__new__(cls, f"{path}#{row}")
        name.path, name.column, name.row = path, column, row
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        return TableImage, (self.path, self.column, self.row)


def images(path: str, *, column: str = "") -> Iterator[str]:
    """Yields the images of a table: files for a column of paths, `TableImage`s for encoded images.

    Args:
      path: a Parquet file; relative paths in it start at its folder.
      column: the column of the images or paths; by default the only one of images, or the first of the
        usual names of a path.

    Raises:
      UserError: no complete Parquet file, or no such column.
    """
    file = ParquetFile(pathlib.Path(path))
    encoded = file.image_columns
    if not column:
        named = [name for name in _PATHS if name in file.columns]
        if len(encoded) != 1 and not (named and not encoded):
            found, fix = ", ".join(file.columns) or "no columns", "name one with --column"
            raise UserError("no column of images", where=path, expected="one", found=found, fix=fix)
        column = encoded[0] if encoded else named[0]
    file.require([column])
    if column in encoded:
        rows = range(sum(map(file.rows_of, range(file.num_groups))))
        yield from (TableImage(path, column, row) for row in rows)
        return
    folder = os.path.dirname(path)
    for row, (name,) in enumerate(file.texts([column])):
        # Without a path it has a name all the same, and is reported and skipped like an unreadable file.
        yield os.path.join(folder, files.home(name)) if name else TableImage(path, column, row)


class TableReader:
    """Reads the images of tables, fast where their rows are asked for in order; safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table = ("", "")  # path and column
        self._starts: list[int] = []  # the first row of every row group
        self._group = self._next = -1  # the place of the next value of `_values`
        self._values: Iterator[bytes | str | Rejection] = iter(())

    def read(self, image: TableImage) -> bytes | str:
        """Returns an encoded image, or the path of a file that the table has in its place.

        Raises:
          UserError: the table is damaged, or the row has no image.
        """
        with self._lock:
            if self._table != (image.path, image.column):
                self._file = ParquetFile(pathlib.Path(image.path))
                lengths = map(self._file.rows_of, range(self._file.num_groups))
                self._starts = list(itertools.accumulate(lengths, initial=0))[:-1]
                self._table, self._group = (image.path, image.column), -1
            group = bisect.bisect(self._starts, image.row) - 1
            if group != self._group or image.row < self._next:
                self._values = self._file.images(image.column, group=group)
                self._group, self._next = group, self._starts[group]
            value = next(itertools.islice(self._values, image.row - self._next, None))
            self._next = image.row + 1
        if isinstance(value, Rejection):
            raise UserError(value.reason, where=str(image), expected=value.expected, fix=value.fix)
        if isinstance(value, str):
            return os.path.join(os.path.dirname(image.path), files.home(value))
        return value


class ParquetTable(PredictionTable):
    """Predictions as a Parquet file, which appears when every input is in it.

    Until then rows are in a journal of JSON lines beside it, `NAME.jsonl`, from which an interrupted
    command resumes. A complete file is unpacked to a journal again, so that further inputs can be added.

    Args:
      path: the Parquet file.
      tasks: the model's tasks.
      model: contents of the column `model`.
      marks, unsure, kind: see `PredictionTable`.

    Raises:
      UserError: pyarrow is not installed, or the file holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tasks: Sequence[TaskSpec],
        model: str,
        marks: bool,
        unsure: bool = False,
        kind: Kind = "faces",
    ):
        self._path = pathlib.Path(path)
        self._journal = self._path.with_name(f"{self._path.name}.jsonl")
        chosen: dict[str, Any] = {"marks": marks, "unsure": unsure, "kind": kind}
        self._schema = _schema(tasks, columns(tasks, **chosen))
        if self._path.exists() and not self._journal.exists():
            self._unpack()
        nowhere = io.StringIO()
        super().__init__(self._journal, stream=nowhere, form="jsonl", tasks=tasks, model=model, **chosen)

    def finish(self) -> None:
        """Writes the Parquet file and removes the journal."""
        self.close()
        pq, pa = pyarrow("parquet"), pyarrow("lib")
        with (
            files.atomic_file(self._path) as temporary,
            pq.ParquetWriter(temporary, self._schema) as writer,
            self._journal.open(encoding="utf-8") as lines,
        ):
            while rows := [json.loads(line) for line in itertools.islice(lines, _ROWS)]:
                for row in rows if _SECONDS in self._schema.names else ():
                    row[_SECONDS] = None if row.get(_SECONDS) is None else float(row[_SECONDS])
                writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        self._journal.unlink()

    def _unpack(self) -> None:
        pq, pa = pyarrow("parquet"), pyarrow("lib")
        expected = ", ".join(self._schema.names)
        try:
            file = pq.ParquetFile(self._path)
            if file.schema_arrow.names != self._schema.names:
                raise other(self._path, expected, ", ".join(file.schema_arrow.names))
            with files.atomic_file(self._journal) as temporary, temporary.open("w") as journal:
                for batch in file.iter_batches(batch_size=_ROWS):
                    for row in batch.to_pylist():
                        row[_SECONDS] = time_text(row.get(_SECONDS))
                        known = {name: value for name, value in row.items() if value not in (None, [])}
                        journal.write(json_text(known) + "\n")
        except (pa.ArrowException, OSError) as error:
            raise other(self._path, expected, str(error)) from error


def open_table(
    path: str | os.PathLike[str] | None,
    *,
    stream: IO[str],
    form: Literal["csv", "jsonl", "parquet"],
    tasks: Sequence[TaskSpec],
    model: str,
    marks: bool = False,
    unsure: bool = False,
    kind: Kind = "faces",
) -> PredictionTable:
    """Returns the table of a format; the arguments are those of `PredictionTable`."""
    chosen: dict[str, Any] = {"tasks": tasks, "model": model, "marks": marks, "unsure": unsure, "kind": kind}
    if form != "parquet":
        return PredictionTable(path, stream=stream, form=form, **chosen)
    if path is None:
        what, fix = "a Parquet table needs a file", "pass --out=ROWS.parquet"
        raise UserError(what, where="--format=parquet", expected="--out", found="none", fix=fix)
    return ParquetTable(path, **chosen)


def _schema(tasks: Sequence[TaskSpec], names: Sequence[str]) -> Any:
    pa = pyarrow("lib")
    whole = {"face", "faces", "track", "tracks", "frames", *BOX}
    texts = {"input", "model", *(task.name for task in tasks)}
    kinds = dict.fromkeys(whole, pa.int32()) | dict.fromkeys(texts, pa.string())
    kinds |= dict.fromkeys((MARKS, UNSURE), pa.list_(pa.string()))
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
