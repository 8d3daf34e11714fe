"""Ages as intervals of completed years, from what the columns of a data set say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.data.labels import NO_LABEL, OLDEST, age_range, open_age, without_unit
from softbio_jax.errors import UserError
from softbio_jax.tasks import AGE, AGE_SPANS, MISSING

# The columns that builders keep ages in, the finest first.
COLUMNS = ("years", "age_range", "age_group", "age_text")

UNKNOWN = (0, OLDEST + 1)  # every age is possible
# The completed years [first, end) of each age class; the last has no upper end.
_OF_CLASSES = (*AGE_SPANS[:-1], (AGE_SPANS[-1][0], OLDEST + 1))
_NUMBER = re.compile(r"\d{1,3}(?:\.\d+)?")
_EXPECTED = f"years or a range of 0 to {OLDEST} such as 25, 4-19, [4, 20) or 70+"


def interval(text: str, *, where: str) -> tuple[int, int]:
    """Returns the completed years [first, end) that an age allows: (25, 26) for "25".

    A range includes both of its ends, "4-19" and "(4, 19)" are (4, 20), unless it is written half-open:
    "[4, 20)" or "(3, 19]". "70+" has no upper end. Fractions are rounded half up, as `labels.age_class`
    does. An empty word, -1, None and the like (`labels.NO_LABEL`) are `UNKNOWN`.

    Raises:
      UserError: another word, or an interval that is empty, reversed or outside 0 to 120, in `where`.
    """
    word = without_unit(text)
    if word in NO_LABEL:
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
      UserError: a cell that is no age, or contradicts the label; names the first such row.
    """
    labels = rows.of(AGE.name)
    of_labels = np.array([*_OF_CLASSES, UNKNOWN], np.int16)[labels]  # MISSING = -1 picks the last
    found = of_labels.copy()
    for column in reversed(COLUMNS):  # the finest is the last to overwrite
        for word, where, which in rows.words(column):
            if (years := interval(word, where=where)) == UNKNOWN:
                continue
            found[which] = years
            apart = which & ~_meet(of_labels.T, years)
            if apart.any():
                row = int(apart.argmax())
                raise _contradiction(word, labels[row], f"{rows.where}:{rows.ids[row]} {column}")
    return found


def require_fitting(text: str, label: int, *, where: str) -> None:
    """Raises UserError if a word is no age, see `interval`, or outside the class `label`, unless MISSING."""
    years = interval(text, where=where)
    if label != MISSING and not _meet(_OF_CLASSES[label], years):
        raise _contradiction(text, label, where)


def exact(rows: Rows) -> np.ndarray:
    """Returns the ages (N,) float64 of the examples whose age is known to the year, NaN for the others.

    An age in the column `years` keeps its fraction.

    Raises:
      UserError: see `intervals`.
    """
    first, end = intervals(rows).T
    found = np.where(end - first == 1, first, np.nan)
    for word, _, which in rows.words(COLUMNS[0]):
        if _NUMBER.fullmatch(plain := without_unit(word)):
            found[which] = float(plain)
    return found


def exact_of_test(rows: Rows) -> np.ndarray:
    """Returns `exact` of a test set, of the column `years` alone where another holds what is no age.

    Raises:
      UserError: a cell of the column `years` that is no age, or contradicts the label.
    """
    try:
        return exact(rows)
    except UserError:  # a table's own column age_group or the like may hold anything
        years = {name: rows.columns[name] for name in COLUMNS[:1] if name in rows.columns}
        return exact(dataclasses.replace(rows, columns=years))


def _meet(one: Sequence[Any], other: Sequence[Any]) -> Any:
    """Returns whether two intervals [first, end) have a year in common; the ends may be arrays."""
    return (one[0] < other[1]) & (other[0] < one[1])


def _contradiction(text: str, label: int, where: str) -> UserError:
    return UserError(
        "an age that contradicts the label",
        where=where,
        expected=f"years of the class {AGE.classes[label]}",
        found=repr(text),
        fix="correct or empty the cell",
    )


def _checked(first: int, end: int, text: str, where: str) -> tuple[int, int]:
    if first >= end:
        raise _mistake("an empty age range", text, where)
    if first < 0 or end > OLDEST + 1:
        raise _mistake("an impossible age", text, where)
    return first, end


def _mistake(what: str, text: str, where: str, *, fix: str = "correct or empty the cell") -> UserError:
    return UserError(what, where=where, expected=_EXPECTED, found=repr(text), fix=fix)
