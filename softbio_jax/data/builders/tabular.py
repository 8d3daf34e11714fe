"""What the readers of tables have in common: roles of columns, labels, subjects and audit columns."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softbio_jax.data.builders import columns as columns_lib
from softbio_jax.data.builders import words
from softbio_jax.data.builders.words import LabelReader, Read, Years
from softbio_jax.data.partial.own_columns import Agreement, OwnLabels
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, TASKS

IDENTITY = "identity"


class Tabular(FaceBuilder):
    """The base of the readers of tables: a subclass finds the rows, this class reads their labels.

    Args:
      columns: role -> column; see `columns.resolve`.
      values: "{task}:{word in the table}" -> class, for words that the vocabulary lacks; an empty
        class leaves the rows of that word out.
      age_values: "years" bins the ages, "class" reads them as words such as 20-29, "range" also keeps
        ranges over several classes, such as 4-19, in the column age_range.
      identity: a regular expression that finds the subject in the path of an image: its group, or
        all of it. Without one, a column of the role identity has the subjects.
      header: the names of the columns.
      samples: column -> some of its words.
      table: the table's name, for messages.
      images: the column that holds the images, where the table shows that.
      **kwargs: see FaceBuilder.
    """

    OWN_IMAGES = True

    def __init__(
        self,
        *,
        columns: Mapping[str, str] | None,
        values: Mapping[str, str] | None,
        age_values: str = "class",
        identity: str | None = None,
        header: Sequence[str],
        samples: Callable[[str], Sequence[str]],
        table: str,
        images: str = "",
        **kwargs: Any,
    ):
        self.columns = columns_lib.resolve(
            columns or {}, header, samples=samples, values=values, where=table, images=images
        )
        self.TASKS = tuple(task for task in TASKS if task in self.columns)
        self.labels = LabelReader(self.TASKS, values=values, age_values=age_values)
        for task in self.TASKS:
            self.labels.add_words(task, columns_lib.yes_or_no(self.columns[task]))
        self.COLUMNS = tuple(role for role in self.columns if role not in columns_lib.ROLES)
        adds = {"years": words.YEARS, words.RANGES: words.AGE_RANGE}.get(age_values, "")
        self._adds_age = adds if AGE.name in self.TASKS else ""
        self._own_labels = OwnLabels({role: self.columns[role] for role in self.COLUMNS})
        self._subject = Subject(identity)
        if identity and IDENTITY in self.COLUMNS:
            raise UserError(
                "two sources of the subjects", where="--identity", fix="omit it, or the column identity"
            )
        if self._adds_age and self._adds_age not in self.COLUMNS:
            self.COLUMNS += (self._adds_age,)
        self.COLUMNS += (IDENTITY,) * bool(identity)
        super().__init__(**kwargs)

    def protocol(self) -> dict[str, str]:
        columns = {f"column_{role}": column for role, column in self.columns.items()}
        return columns | {"age_values": self.labels.age_values} | self._subject.protocol()

    def outcome(
        self, texts: Mapping[str, str], *, row_id: str, image: Any, where: str, tally: Tally
    ) -> Outcome:
        """Returns the outcome of one row.

        Args:
          texts: role -> the row's text.
          row_id: the id of its image.
          image: the image, as a Row has it.
          where: the table and the row.
          tally: counts the ages in years and the votes.

        Raises:
          UserError: a label that is none.
        """
        of_tasks, voted = {task: texts[task] for task in self.TASKS}, self._own_labels.voted(texts)
        read = self.labels.read(of_tasks, row_id=row_id, where=where, voted=voted)
        if not isinstance(read, Read):
            return read
        self._own_labels.check(texts, read.labels, where=where, agreement=tally.votes)
        if read.years:
            tally.add(float(read.years))
        subject = self._subject.of(row_id, where=where)
        if isinstance(subject, Rejection):
            return subject
        columns = {role: texts[role] for role in self.COLUMNS if role in texts} | subject
        if self._adds_age:
            columns[self._adds_age] = read.years or read.age_range or columns.get(self._adds_age, "")
        return Row(
            id=row_id, image=image, labels=read.labels, columns=columns, masked=read.masked, where=where
        )

    def check_all(self, tally: Tally, table: str) -> None:
        """Raises UserError if the ages in years of a table are numbers of classes, or its votes misplaced."""
        if AGE.name in self.TASKS:
            tally.check(where=f"{table} column {self.columns[AGE.name]!r}")
        self._own_labels.check_all(tally.votes, table=table)


class Tally(Years):
    """What can be told only of many rows: of ages in years, see `Years`, and of votes."""

    def __init__(self) -> None:
        super().__init__()
        self.votes = Agreement()


class Files:
    """The images that the paths in tables name.

    Args:
      root: the folder that the paths start at; an absolute path may lie in it too.
    """

    def __init__(self, root: pathlib.Path):
        self._root, self._images = root, locate.Images(root)

    def find(self, name: str, *, where: str) -> tuple[str, pathlib.Path]:
        """Returns the path inside the root, and the file: if need be in other case or with a suffix.

        Raises:
          UserError: the path leaves the root, or two files fit it.
        """
        start = f"{self._root.absolute().as_posix().rstrip('/')}/"
        name = name.replace("\\", "/").removeprefix(start)
        fix = "pass --images, the folder that holds all of them, or write the path relative to it"
        path = tables.inside(self._root, name, where=where, fix=fix)
        return name, path if os.path.exists(path) else self._images.path(name, where=where)


class Subject:
    """Finds the subject of an image in its path, by a regular expression."""

    def __init__(self, pattern: str | None):
        try:
            self._pattern = re.compile(pattern) if pattern else None
        except re.error as error:
            expected, fix = "a regular expression", "for example --identity='([^/_]+)_[^/]*$'"
            found = f"{pattern!r}: {error}"
            raise UserError(
                "not a pattern", where="--identity", expected=expected, found=found, fix=fix
            ) from error

    def of(self, path: str, *, where: str = "") -> dict[str, str] | Rejection:
        """Returns the audit column of an image, none without a pattern; rejects a path that does not fit."""
        if self._pattern is None:
            return {}
        match = self._pattern.search(path)
        subject = "" if match is None else match[1] if match.groups() else match[0]
        if not subject:
            expected, fix = self._pattern.pattern, "correct --identity"
            return Rejection(path, "no subject in its path", where=where, expected=expected, fix=fix)
        return {IDENTITY: subject}

    def protocol(self) -> dict[str, str]:
        """Returns the choice, for the report."""
        return {IDENTITY: self._pattern.pattern} if self._pattern else {}
