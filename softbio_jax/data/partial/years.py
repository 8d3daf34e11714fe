"""Ages as intervals of completed years, from what the columns of a data set say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np

from softbio_jax.data.labels import OLDEST, age_range, open_age, without_unit
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, AGE_SPANS, MISSING

# The columns that builders keep ages in, the finest first.
COLUMNS = ("years", "age_range", "age_group", "age_text")

UNKNOWN = (0, OLDEST + 1)  # every age is possible
_NONE = ("", "-1", "none", "nan")
_NUMBER = re.compile(r"\d{1,3}(?:\.\d+)?")
_EXPECTED = f"years or a range of 0 to {OLDEST} such as 25, 4-19, [4, 20) or 70+"


def interval(text: str, *, where: str) -> tuple[int, int]:
    """Returns the completed years [first, end) that an age allows: (25, 26) for "25".

    A range includes both of its ends, "4-19" and "(4, 19)" are (4, 20), unless it is written half-open:
    "[4, 20)" or "(3, 19]". "70+" has no upper end. Fractions are rounded half up, as `labels.age_class`
    does. An empty word, -1 and None are `UNKNOWN`.

    Raises:
      UserError: another word, or an interval that is empty, reversed or outside 0 to 120, in `where`.
    """
    word = without_unit(text)
    if word in _NONE:
        return UNKNOWN
    if _NUMBER.fullmatch(word):
        first = int(float(word) + 0.5)
        return _checked(first, first + 1, text, where)
    if (oldest := open_age(word)) is not None:
        return _checked(oldest, OLDEST + 1, text, where)
    if (found := age_range(word)) is None:
        raise _mistake("not an age or a range of ages", text, where)
    if found.high < found.low:
        raise _mistake(
            "a reversed age range", text, where, fix=f"write {found.high}-{found.low}, or correct the row"
        )
    return _checked(found.first, found.end, text, where)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The labels and columns of N examples; `where` is what their ids stand in, for messages."""

    labels: Mapping[str, np.ndarray]  # task -> (N,), MISSING where unknown
    columns: Mapping[str, np.ndarray]  # (N,) str each
    ids: np.ndarray  # (N,) str
    where: str

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, task: str) -> np.ndarray:
        """Returns a task's labels (N,), all MISSING where there are none."""
        return self.labels.get(task, np.full(len(self), MISSING))

    def words(self, column: str) -> Iterator[tuple[str, str, np.ndarray]]:
        """Yields the different words of a column, where each stands first, and which rows (N,) have it."""
        if column in self.columns:
            found, first, which = np.unique(self.columns[column], return_index=True, return_inverse=True)
            for number, (word, row) in enumerate(zip(found.tolist(), first, strict=True)):
                yield word, f"{self.where}:{self.ids[row]} {column}", which == number


def intervals(rows: Rows) -> np.ndarray:
    """Returns the years [first, end) of every example, (N, 2) int16; `UNKNOWN` where nothing is known.

    The first of `COLUMNS` that says something counts, without one the label: the years of its class.

    Raises:
      UserError: a cell that is no age; names the first such row.
    """
    labels = rows.of(AGE.name)
    found = np.tile(np.array(UNKNOWN, np.int16), (len(rows), 1))
    for label, (first, end) in enumerate(AGE_SPANS):
        found[labels == label] = (first, UNKNOWN[1] if label == AGE.num_classes - 1 else end)
    for column in reversed(COLUMNS):  # the finest is the last to overwrite
        for word, where, which in rows.words(column):
            if (years := interval(word, where=where)) != UNKNOWN:
                found[which] = years
    return found


def _checked(first: int, end: int, text: str, where: str) -> tuple[int, int]:
    if first >= end:
        raise _mistake("an empty age range", text, where)
    if first < 0 or end > OLDEST + 1:
        raise _mistake("an impossible age", text, where)
    return first, end


def _mistake(what: str, text: str, where: str, *, fix: str = "correct or empty the cell") -> UserError:
    return UserError(what, where=where, expected=_EXPECTED, found=repr(text), fix=fix)
