"""APPA-REAL: the real age, or what annotators thought it is."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.builders.age.person import person
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, with_columns
from softbio_jax.data.prepare.rows import Outcome

AGES = {"real": "real_age", "apparent": "apparent_age_avg"}
_SPLITS = {"train": "train", "val": "valid", "test": "test"}


@BUILDERS.register("appa_real")
class AppaReal(FaceBuilder):
    """Reads `gt_avg_{train,valid,test}.csv` and the cropped faces `{split}/000000.jpg_face.jpg`.

    Copies with faces alone call them `000000.jpg`.

    Args:
      appa_age: "real" or "apparent", the mean of the annotators; the other one is an audit column.
      **kwargs: see FaceBuilder.

    Source: the release's readme.
    """

    name = "appa_real"
    TITLE = "APPA-REAL"
    TASKS = ("age",)
    COLUMNS = ("years", "real_age", "apparent_age")
    LAYOUTS = (
        Layout(
            name="tables",
            shown="gt_avg_{train,valid,test}.csv",
            fits=with_columns("gt_avg_*.csv", "file_name", *AGES.values()),
        ),
    )

    def __init__(self, *, appa_age: str = "real", **kwargs: Any) -> None:
        tables.require_choice(appa_age, AGES, what="unknown kind of ages", where="--appa_age")
        self.appa_age = appa_age
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in _SPLITS if self._table(split).is_file())

    def protocol(self) -> dict[str, str]:
        return {"appa_age": self.appa_age}

    def rows(self, split: str) -> Iterator[Outcome]:
        folder = self.place.path(_SPLITS[split])
        images = locate.Images(folder)
        ending = "_face.jpg" if any("_face." in path.name for path in tables.images_in(folder)) else ""
        for where, row in tables.read_csv(self._table(split), columns=("file_name", *AGES.values())):
            name, column = row["file_name"], AGES[self.appa_age]
            yield person(
                f"{folder.name}/{name}",
                images.path(f"{name}{ending}", where=where),
                years=tables.parse_number(row[column], where=where, column=column),
                gender=None,
                columns={"real_age": row["real_age"], "apparent_age": row["apparent_age_avg"]},
                where=where,
            )

    def _table(self, split: str) -> pathlib.Path:
        return self.place.path(f"gt_avg_{_SPLITS[split]}.csv")
