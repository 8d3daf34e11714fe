"""Predictions as a CSV table with one row per example.

Columns:
  id                 a unique string, the first column.
  {task}_label       the true class's name (`20-29`, `female`, `happy`), empty where unknown.
  {task}_{class}     the class's probability; all classes of the task in the vocabulary's order.
  all others         audit columns of strings (`race`, ...), which no model predicts.

A task has all its columns or none of them. `load(..., labels="optional")` also accepts a table
without label columns, such as a third party's predictions.
"""

import csv
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from softbio_jax import files
from softbio_jax.data.partial.years import COLUMNS as AGE_COLUMNS
from softbio_jax.errors import UserError
from softbio_jax.escaping import csv_line, csv_rows
from softbio_jax.evaluation.predictions import Predictions, rows_text
from softbio_jax.tasks import MISSING, TASKS, TaskSpec

FIRST_DATA_ROW = 2  # row 1 of a table is its header


def save(predictions: Predictions, path: str | os.PathLike) -> pathlib.Path:
    """Writes `predictions` to the CSV file `path`; nine digits keep float32 exactly."""
    path = pathlib.Path(path)
    header, columns = ["id"], [predictions.ids.tolist()]
    for task in (TASKS[name] for name in TASKS if name in predictions.labels):
        names = (*task.classes, "")  # MISSING = -1 picks the last
        header.append(f"{task.name}_label")
        columns.append([names[label] for label in predictions.labels[task.name]])
        header += [f"{task.name}_{name}" for name in task.classes]
        for column in predictions.probabilities[task.name].T.tolist():
            columns.append([format(value, ".9g") for value in column])
    header += predictions.audit
    columns += [values.tolist() for values in predictions.audit.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_line(header))
        file.writelines(map(csv_line, zip(*columns, strict=True)))
    return path


def load(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    synthetic_labels: Sequence[str] = (),
    labels: str = "required",
) -> Predictions:
    """Reads predictions; a task without a label column has only MISSING labels.

    Args:
      path: the CSV file; its stem is the default of `name`.
      name, synthetic_labels: see `Predictions`.
      labels: "required", or "optional" where labels come from elsewhere.

    Raises:
      UserError: a missing file, an unknown, missing or misplaced column, an unknown class, a
        value that is not a number, or anything that `Predictions` rejects. Row 1 is the header.
    """
    path = pathlib.Path(path)
    header, rows = _read(path)
    if not rows:
        expected, fix = "at least one row", "provide a table with rows"
        raise UserError("empty test set", where=str(path), expected=expected, found="none", fix=fix)
    tasks = [task for task in TASKS.values() if _has_task(header, task, path, labels)]
    if not tasks:
        raise UserError(
            "no task in predictions",
            where=str(path),
            expected="columns such as gender_label, gender_male, gender_female",
            found=", ".join(header),
            fix="rename the columns accordingly",
        )
    taken = {"id"}
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    label_values, probabilities = {}, {}
    for task in tasks:
        names = [f"{task.name}_{c}" for c in task.classes]
        taken |= {f"{task.name}_label", *names}
        label_values[task.name] = _labels(columns.get(f"{task.name}_label"), task, path, len(rows))
        probabilities[task.name] = np.stack([_numbers(columns[c], c, path) for c in names], axis=1)
    try:
        return Predictions(
            name=path.stem if name is None else name,
            ids=np.array(columns["id"], dtype=str),
            labels=label_values,
            probabilities=probabilities,
            audit={c: np.array(columns[c], dtype=str) for c in header if c not in taken},
            synthetic_labels=tuple(synthetic_labels),
        )
    except UserError as error:
        raise UserError(f"{path} (rows without the header): {error}") from None


def _read(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv_rows(file) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fix = "check the path, and save it as UTF-8 CSV"
        raise UserError("cannot read predictions", where=str(path), found=str(error), fix=fix) from None
    if "id" not in header or len(set(header)) != len(header):
        where, expected = f"{path} row 1", "a column `id` and every column once"
        fix = "correct the first row"
        raise UserError("bad header", where=where, expected=expected, found=", ".join(header), fix=fix)
    odd = [i for i, row in enumerate(rows) if len(row) != len(header)]
    if odd:
        expected, found = f"{len(header)} values", str(len(rows[odd[0]]))
        fix = "complete or delete the rows"
        raise UserError(
            "row of another length", where=_rows(path, odd), expected=expected, found=found, fix=fix
        )
    return header, rows


def _has_task(header: list[str], task: TaskSpec, path: pathlib.Path, labels: str) -> bool:
    others = {f"{task.name}_label", *AGE_COLUMNS}  # age_group, ... of the sets that have them
    found = [c for c in header if c.startswith(f"{task.name}_") and c not in others]
    expected = [f"{task.name}_{c}" for c in task.classes]
    if not found and f"{task.name}_label" not in header:
        return False
    if found != expected:
        same = sorted(found) == sorted(expected)
        raise UserError(
            f"{task.name} classes in another order" if same else f"other {task.name} classes",
            where=f"{path} row 1",
            expected=", ".join(expected),
            found=", ".join(found) or "none",
            fix="write the probability columns in the expected order",
        )
    if labels == "required" and f"{task.name}_label" not in header:
        where, column = f"{path} row 1", f"a column {task.name}_label"
        fix = "add it, empty where a label is unknown"
        raise UserError("missing column", where=where, expected=column, found="none", fix=fix)
    return True


def _labels(values: Sequence[str] | None, task: TaskSpec, path: pathlib.Path, n: int) -> np.ndarray:
    if values is None:
        return np.full(n, MISSING, np.int32)
    index = {name: i for i, name in enumerate(task.classes)} | {"": MISSING}
    unknown = [i for i, value in enumerate(values) if value not in index]
    if unknown:
        raise UserError(
            f"unknown {task.name} class",
            where=_rows(path, unknown),
            expected=", ".join(task.classes) + " or an empty cell",
            found=repr(values[unknown[0]]),
            fix="correct the rows",
        )
    return np.array([index[value] for value in values], np.int32)


def _numbers(values: Sequence[str], column: str, path: pathlib.Path) -> np.ndarray:
    numbers, bad = np.empty(len(values)), []
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except ValueError:
            bad.append(row)
    if bad:
        where, found = f"{_rows(path, bad)} column {column}", repr(values[bad[0]])
        fix = "write a number"
        raise UserError("not a probability", where=where, expected="0 to 1", found=found, fix=fix)
    return numbers.astype(np.float32)


def _rows(path: pathlib.Path, rows: Sequence[int]) -> str:
    return f"{path} {rows_text(rows, first_row=FIRST_DATA_ROW)}"
