"""Any CSV of labelled images, its columns named on the command line."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from softbio_jax.data.labels import age_class, class_of, date_like, known_words, require_class, spanned
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row, Skip, impossible_age
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, MISSING, TASKS

_ROLES = ("path", "split", *TASKS)
_MISSING = ("", "-1", "-1.0", "-100", "-100.0", "nan", "none", "null", "na", "n/a", "unknown")
_DEFAULT_SPLIT = "train"
# Words in the names of tables, such as gt_avg_valid.csv.
_SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLIT_WORDS |= {"val": "val", "valid": "val", "validation": "val"}
_MANY = 20  # ages of which none is above 8, before they are taken for classes
_DISTINCT = 5


class Years:
    """Checks that ages given in years are not the numbers of classes."""

    def __init__(self) -> None:
        self._count: collections.Counter[float] = collections.Counter()

    def add(self, years: float) -> None:
        self._count[years] += 1

    def check(self, *, where: str) -> None:
        """Raises UserError if there are many ages and all of them are integers from 0 to 8."""
        total, classes = self._count.total(), self._count.keys() <= set(range(AGE.num_classes))
        if total >= _MANY and len(self._count) > 1 and (max(self._count) <= 1 or set(self._count) == {1, 2}):
            raise UserError(
                "ages in years that look like classes of two, or fractions",
                where=where,
                expected="some age above 2",
                found=f"{total:,} ages of {min(self._count):g} to {max(self._count):g}",
                fix="check --columns; babies' ages may be written as the class 0-2, for --age_values=class",
            )
        if classes and total >= _MANY and len(self._count) >= _DISTINCT:
            raise UserError(
                "ages in years that look like classes",
                where=where,
                expected="some age above 8",
                found=f"{total:,} ages of 0 to {max(self._count):g}",
                fix="pass --age_values=class; children's years may be written as classes, 0-2 or 3-9",
            )


@BUILDERS.register("csv")
class CsvTable(FaceBuilder):
    """Reads a CSV with a header, or one for each split.

    Args:
      columns: role -> column. The roles are path, split, age, gender and emotion; any other role
        is an audit column. Without a split column all rows of one table are "train"; of several
        tables, each is the split in its name or its folder's (test_labels.csv, test/labels.csv).
      values: "{task}:{word in the table}" -> class, for words that the vocabulary lacks.
      images: the folder that the paths start at; by default the folder of each CSV.
      age_values: "years" bins the ages, "class" reads them as words such as 20-29.
      **kwargs: see FaceBuilder. The source is the CSV, or several with commas between them.
    """

    name = "csv"
    OWN_IMAGES = True

    def __init__(
        self,
        *,
        columns: Mapping[str, str],
        values: Mapping[str, str] | None = None,
        images: str | None = None,
        age_values: str = "class",
        source: str,
        **kwargs: Any,
    ):
        self.columns = dict(columns)
        self.images = pathlib.Path(images) if images else None
        self._tables = _tables_by_split(source)
        self.age_values = age_values
        self.TASKS = tuple(task for task in TASKS if task in self.columns)
        self.COLUMNS = tuple(role for role in self.columns if role not in _ROLES)
        if "path" not in self.columns or not self.TASKS:
            raise UserError(
                "the columns are not named",
                where="--columns",
                expected="path and at least one of " + ", ".join(TASKS),
                found=", ".join(self.columns) or "nothing",
                fix="for example --columns=path=file,age=age_group,gender=sex",
            )
        for role in {"id", "image"} & set(self.COLUMNS):
            raise UserError(f"the name {role!r} is taken", where="--columns", fix="give it another name")
        self._words = {task: dict[str, int]() for task in self.TASKS}
        for key, word in (values or {}).items():
            self._add_word(key, word)
        super().__init__(source=source, **kwargs)

    def splits(self) -> tuple[str, ...]:
        for table in self._tables.values():
            tables.require_folder(self.images or table.parent)
        column = self.columns.get("split")
        found = sorted(
            {row[column] if column else split for split in self._tables for _, row in self._read(split)}
        )
        for split in found:
            if not split.replace("_", "").isalnum():
                where, expected = f"{self.source} column {column!r}", "a word such as train"
                fix = "correct the rows, or name the column of the splits in --columns"
                raise tables.bad_value("not a split's name", split, where=where, expected=expected, fix=fix)
        return tuple(found) if column else tuple(self._tables)

    def protocol(self) -> dict[str, str]:
        columns = {f"column_{role}": column for role, column in self.columns.items()}
        return columns | {"age_values": self.age_values}

    def rows(self, split: str) -> Iterator[Outcome]:
        for table, path in self._tables.items():
            if "split" in self.columns or table == split:
                yield from self._table_rows(table, split, root=self.images or path.parent)

    def _table_rows(self, table: str, split: str, *, root: pathlib.Path) -> Iterator[Outcome]:
        # Names in tables of different folders may be equal; their ids must not be.
        common = os.path.commonpath([path.parent.absolute() for path in self._tables.values()])
        inner = "." if self.images else os.path.relpath(root, common)
        prefix = "" if inner == "." else f"{inner}/"
        years = Years()
        for where, row in self._read(table):
            if "split" in self.columns and row[self.columns["split"]] != split:
                continue
            name = row[self.columns["path"]]
            row_id, number = prefix + name.replace("\\", "/"), self._years(row, where)
            if number is not None and (rejection := impossible_age(row_id, number, where=where)):
                yield rejection
                continue
            labels = {task: self._label(task, row[self.columns[task]], where, years) for task in self.TASKS}
            if set(labels.values()) == {MISSING}:
                yield Skip("no label")
                continue
            yield Row(
                id=row_id,
                image=tables.inside(root, name, where=where),
                labels=labels,
                columns={role: row[self.columns[role]] for role in self.COLUMNS},
                where=where,
            )
        if "age" in self.TASKS:
            years.check(where=f"{self._tables[table]} column {self.columns['age']!r}")

    def _read(self, table: str) -> Iterator[tuple[str, dict[str, str]]]:
        return tables.read_csv(self._tables[table], columns=tuple(self.columns.values()))

    def _add_word(self, key: str, word: str) -> None:
        task, _, value = key.partition(":")
        label = class_of(task, word) if task in self._words else None
        if label is None:
            expected = known_words(task) if task in self._words else "TASK:WORD=CLASS"
            where, fix = f"--values={key}={word}", "for example --values=gender:0=male,gender:1=female"
            raise UserError("not a class to map to", where=where, expected=expected, fix=fix)
        self._words[task][value.lower()] = label

    def _years(self, row: Mapping[str, str], where: str) -> float | None:
        """Returns the age of a row that has one in years."""
        if "age" not in self.TASKS or self.age_values != "years":
            return None
        value = row[self.columns["age"]]
        if value.lower() in _MISSING or value.lower() in self._words["age"]:
            return None
        return tables.parse_number(value, where=where, column=self.columns["age"])

    def _label(self, task: str, value: str, where: str, years: Years) -> int:
        word = value.lower()
        if word in self._words[task]:
            return self._words[task][word]
        if word in _MISSING:
            return MISSING
        if task == "age" and self.age_values == "years":
            number = tables.parse_number(value, where=where, column=self.columns[task])
            years.add(number)
            return age_class(number)
        return require_class(task, value, where=where, fix=_fix(task, value))


def _tables_by_split(source: str) -> dict[str, pathlib.Path]:
    """Returns split -> table; one table is the default split, several are named by their files."""
    names = source.split(",")
    if len(names) == 1 or pathlib.Path(source).exists():
        return {_DEFAULT_SPLIT: pathlib.Path(source)}
    found: dict[str, pathlib.Path] = {}
    for path in map(pathlib.Path, names):
        words = re.split("[^a-z]+", path.stem.lower())
        known = [split for word, split in _SPLIT_WORDS.items() if word in words]
        known = known or [_SPLIT_WORDS[name] for name in (path.parent.name.lower(),) if name in _SPLIT_WORDS]
        split = known[0] if len(known) == 1 else re.sub(r"\W+", "_", path.stem)
        if split in found:
            what, fix = f"two tables of the split {split!r}", "join them, or rename one"
            raise UserError(what, where="--source", found=f"{found[split]} and {path}", fix=fix)
        found[split] = path
    return found


def _fix(task: str, value: str) -> str:
    if task == "age" and date_like(value):
        return "undo what a spreadsheet made of an age such as 3-9: use the original file"
    if task == "age" and len(classes := spanned(value)) > 1:
        spans = f"{value} spans {' and '.join(classes)}: leave such cells empty, which masks them"
        return f"{spans}, or choose one with --values={task}:{value}=CLASS"
    fix = f"correct the row or pass --values={task}:{value}=CLASS"
    return fix + (", or --age_values=years" if task == "age" else "")
