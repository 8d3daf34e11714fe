"""Ages as intervals of completed years, from what the columns of a data set say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np

from softbio_jax.data.labels import OLDEST
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, AGE_SPANS, MISSING

# The columns that builders keep ages in, the finest first.
COLUMNS = ("years", "age_range", "age_group", "age_text")

UNKNOWN = (0, OLDEST + 1)  # every age is possible
_NONE = ("", "-1", "none", "nan")
_NUMBER = re.compile(r"\d{1,3}(?:\.\d+)?")
_OPEN = re.compile(r"(?:more than |over )?(\d{1,3})\+?")
_RANGE = re.compile(r"([(\[]?)\s*(-?\d{1,4})\s*(?:-|–|,|_|to)\s*(-?\d{1,4})\s*([)\]]?)")
_EXPECTED = f"years or a range of 0 to {OLDEST} such as 25, 4-19, [4, 20) or 70+"


def interval(text: str, *, where: str) -> tuple[int, int]:
    """Returns the completed years [first, end) that an age allows: (25, 26) for "25".

    A range includes both of its ends, "4-19" and "(4, 19)" are (4, 20), unless it is written half-open:
    "[4, 20)". "70+" has no upper end. Fractions are rounded half up, as `labels.age_class` does. An empty
    word, -1 and None are `UNKNOWN`.

    Raises:
      UserError: another word, or an interval that is empty, reversed or outside 0 to 120, in `where`.
    """
    word = text.strip().lower()
    if word in _NONE:
        return UNKNOWN
    if _NUMBER.fullmatch(word):
        first = int(float(word) + 0.5)
        return _checked(first, first + 1, text, where)
    if (found := _OPEN.fullmatch(word)) is not None:
        return _checked(int(found[1]), OLDEST + 1, text, where)
    match = _RANGE.fullmatch(word)
    if match is None:
        raise _mistake("not an age or a range of ages", text, where)
    first, last = int(match[2]), int(match[3])
    if last < first:
        raise _mistake("a reversed age range", text, where, fix=f"write {last}-{first}, or correct the row")
    half_open = (match[1], match[4]) == ("[", ")")
    return _checked(first, last if half_open else last + 1, text, where)


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
