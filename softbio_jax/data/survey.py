"""What a look at the labels of a split finds, before any picture is read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

from softbio_jax.data.rows import Outcome, Row

_TOLD = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSurvey:
    """The rows of a split and what is missing.

    Args:
      rows: all rows, those that will be left out or rejected included.
      missing: rows whose picture file is not there; 0 if that was not looked up.
      first_missing: the first few of them.
    """

    rows: int
    missing: int = 0
    first_missing: tuple[str, ...] = ()


def survey(rows: Iterable[Outcome], *, files: bool) -> SplitSurvey:
    """Goes through the rows of a split, which checks their labels.

    Args:
      rows: what a builder yields.
      files: whether to look for the picture files, too.
    """
    count, missing = 0, 0
    first: list[str] = []
    for row in rows:
        count += 1
        if not files or not isinstance(row, Row) or not isinstance(row.image, pathlib.Path):
            continue
        if not row.image.is_file():
            missing += 1
            if len(first) < _TOLD:
                first.append(str(row.image))
    return SplitSurvey(rows=count, missing=missing, first_missing=tuple(first))
