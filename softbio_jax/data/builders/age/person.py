"""Rows with an age in years and a gender, also those whose labels are in the names of the files."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from softbio_jax.data.labels import age_class
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, impossible_age

GENDERS = {"m": 0, "f": 1, "0": 0, "1": 1}  # in names of files, in lower case


def person(
    row_id: str,
    image: pathlib.Path | Callable[[], bytes],
    *,
    years: float,
    gender: int | None,
    columns: Mapping[str, str] | None = None,
    masked: Mapping[str, str] | None = None,
    box: tuple[float, float, float, float] | None = None,
    where: str = "",
) -> Row | Rejection:
    """Returns the row of a person of this age, or its rejection for an age that cannot be right.

    The age is kept in the column `years`.
    """
    if rejection := impossible_age(row_id, years, where=where):
        return rejection
    labels = {"age": age_class(years)} | ({} if gender is None else {"gender": gender})
    kept = {"years": f"{years:g}"} | dict(columns or {})
    return Row(id=row_id, image=image, labels=labels, columns=kept, masked=masked or {}, box=box, where=where)


def named_rows(
    images: Iterable[pathlib.Path],
    pattern: re.Pattern[str],
    *,
    root: pathlib.Path,
    lacks: str,
    races: Mapping[str, str] = {},
) -> Iterator[Outcome]:
    """Yields the rows of images whose names have the labels; other names are rejected.

    Args:
      images: the files.
      pattern: matches the start of a name, with the groups years and gender, and perhaps identity and race.
      root: the folder that ids start at.
      lacks: what other names lack, for messages.
      races: the group race -> its name.
    """
    for path in images:
        row_id = path.relative_to(root).as_posix()
        match = pattern.match(path.name)
        if match is None:
            yield Rejection(row_id, f"the name lacks {lacks}")
            continue
        values = match.groupdict()
        columns: dict[str, str] = {name: values[name] for name in ("identity", "race") if name in values}
        if "race" in columns:
            columns["race"] = races.get(columns["race"], columns["race"])
        gender = GENDERS[values["gender"].lower()]
        yield person(row_id, path, years=float(values["years"]), gender=gender, columns=columns)


def any_named(folder: pathlib.Path, pattern: re.Pattern[str]) -> bool:
    """Returns whether an image in a folder has such a name."""
    return any(pattern.match(path.name) for path in tables.images_in(folder))
