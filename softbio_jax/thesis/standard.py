"""The laboratory's "standard labels": one labels.csv a split, in the thesis' own numbering."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.builders import table
from softbio_jax.data.labels import age_class, class_of
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row, Skip
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
    OWN_PICTURES = True
    TASKS = tuple(TASKS)
    COLUMNS = ("ethnicity", "identity")

    def __init__(self, *, age_values: str = "class", **kwargs: Any) -> None:
        if age_values not in AGE_VALUES:
            raise UserError(
                "unknown kind of ages",
                where="--age_values",
                expected=" or ".join(AGE_VALUES),
                found=repr(age_values),
                fix="take one of them",
            )
        self.age_values = age_values
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        splits = ("train", "val", "test")
        found = tuple(s for s in splits if (self.source / s / "labels.csv").is_file())
        if not found:
            raise UserError(
                "no label files",
                where=str(self.source),
                expected="train/labels.csv, ...",
                found="none",
                fix="check --source",
            )
        return found

    def protocol(self) -> dict[str, str]:
        return {"age_values": self.age_values}

    def rows(self, split: str) -> Iterator[Outcome]:
        path = self.source / split / "labels.csv"
        years = table.Years()
        for number, row in tables.read_csv(path, columns=_COLUMNS):
            where = f"{path} row {number}"
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

    def _label(self, task: str, value: str, path: pathlib.Path, where: str, years: table.Years) -> int:
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
            raise table.out_of_range(task, value, column, where=where)
        return int(number)

    def _image(self, name: str, where: str) -> pathlib.Path:
        # The paths start at a folder above the source: as many of their parts are dropped as it
        # takes to find the file, none when there is no such file at all.
        whole = tables.inside(self.source, name, where=where)
        if not whole.suffix:
            whole = whole.with_name(f"{whole.name}.jpg")
        parts = whole.relative_to(self.source).parts
        for first in range(len(parts)):
            path = self.source.joinpath(*parts[first:])
            if path.is_file():
                return path
        return whole


def _ethnicity(value: str) -> str:
    if value in _MISSING:
        return ""
    number = value.removesuffix(".0")
    known = number.isdigit() and int(number) < len(_ETHNICITIES)
    return _ETHNICITIES[int(number)] if known else value
