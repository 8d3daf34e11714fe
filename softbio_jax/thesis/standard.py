"""The laboratory's "standard labels": one labels.csv per split, in the thesis' own numbering."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from softbio_jax.data.builders import words
from softbio_jax.data.labels import age_class, class_of
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row, Skip, impossible_age
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

AGE_VALUES = ("class", "years")
_FIELDS = {"age": "Age", "gender": "Gender", "emotion": "Facial Emotion"}
_COLUMNS = ("Path", "Gender", "Age", "Ethnicity", "Facial Emotion", "Identity")
_MISSING = ("", "-1", "-1.0", "-100", "-100.0", "nan", "None")
_ETHNICITIES = ("Caucasian-Latin", "Black", "East-Southeast-Asian", "Indian")


@BUILDERS.register("standard")
class Standard(FaceBuilder):
    """Reads `{train,val,test}/labels.csv`.

    Paths may be written with backslashes, without a suffix, and from any folder above the
    source (`datasets_with_standard_labels/FairFace/train/...`).

    Args:
      age_values: what a number in the column Age is, "class" 0..8 or "years"; a class name
        such as 20-29 is understood in both cases.
      **kwargs: see FaceBuilder.

    Source: the files of the thesis' laboratory; -100, -1 and an empty cell stand for unknown.
    """

    name = "standard"
    OWN_IMAGES = True
    TASKS = tuple(TASKS)
    COLUMNS = ("ethnicity", "identity")

    def __init__(self, *, age_values: str = "class", **kwargs: Any) -> None:
        tables.require_choice(age_values, AGE_VALUES, what="unknown kind of ages", where="--age_values")
        self.age_values = age_values
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        return tables.existing_splits(
            {split: self.source / split / "labels.csv" for split in ("train", "val", "test")},
            source=self.source,
            what="no label files",
            expected="train/labels.csv, ...",
        )

    def protocol(self) -> dict[str, str]:
        return {"age_values": self.age_values}

    def rows(self, split: str) -> Iterator[Outcome]:
        path = self.source / split / "labels.csv"
        years = words.Years()
        for where, row in tables.read_csv(path, columns=_COLUMNS):
            number = self._years(row["Age"], where)
            if number is not None and (rejection := impossible_age(row["Path"], number, where=where)):
                yield rejection
                continue
            labels = {
                task: self._label(task, row[name], path, where, years) for task, name in _FIELDS.items()
            }
            if set(labels.values()) == {MISSING}:
                yield Skip("no label")
                continue
            image = self._image(row["Path"], where)
            yield Row(
                id=image.relative_to(self.source).as_posix(),
                image=image,
                labels=labels,
                columns={
                    "ethnicity": _ethnicity(row["Ethnicity"]),
                    "identity": "" if row["Identity"] in _MISSING else row["Identity"],
                },
                where=where,
            )
        years.check(where=f"{path} column 'Age'")

    def _years(self, value: str, where: str) -> float | None:
        """Returns an age in years; None for a class or a missing value."""
        if self.age_values != "years" or value in _MISSING or class_of("age", value) is not None:
            return None
        return tables.parse_number(value, where=where, column="Age")

    def _label(self, task: str, value: str, path: pathlib.Path, where: str, years: words.Years) -> int:
        if value in _MISSING:
            return MISSING
        label = class_of(task, value)
        if label is not None:
            return label
        number = tables.parse_number(value, where=where, column=_FIELDS[task])
        if task == "age" and self.age_values == "years":
            years.add(number)
            return age_class(number)
        if number not in range(TASKS[task].num_classes):
            rows = (row[_FIELDS[task]] for _, row in tables.read_csv(path, columns=_COLUMNS))
            column = [text for text in rows if text not in _MISSING]
            raise _out_of_range(task, value, column, where=where)
        return int(number)

    def _image(self, name: str, where: str) -> pathlib.Path:
        # Paths start at a folder above the source: drop leading parts until the file is found.
        full = tables.inside(self.source, name, where=where)
        if not full.suffix:
            full = full.with_name(f"{full.name}.jpg")
        parts = full.relative_to(self.source).parts
        paths = (self.source.joinpath(*parts[first:]) for first in range(len(parts)))
        return next((path for path in paths if path.is_file()), full)


def _ethnicity(value: str) -> str:
    if value in _MISSING:
        return ""
    number = value.removesuffix(".0")
    known = number.isdigit() and int(number) < len(_ETHNICITIES)
    return _ETHNICITIES[int(number)] if known else value


def _out_of_range(task: str, value: str, column: Iterable[str], *, where: str) -> UserError:
    """Returns the error of a number that is not a class; its fix depends on the complete column."""
    classes = TASKS[task].num_classes
    numbers = set(map(_number, column))
    fix = "correct the row"
    if numbers <= set(range(1, classes + 1)):
        fix = f"subtract 1 from the whole column: its classes count from 1 to {classes}"
    elif task == "age":
        fix = "pass --age_values=years if they are years"
    expected = f"0 to {classes - 1}"
    return UserError(f"unknown {task} class", where=where, expected=expected, found=repr(value), fix=fix)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
