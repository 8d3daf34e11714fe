"""UTKFace: age and gender from the names of the files."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.labels import age_class
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, impossible_age
from softbio_jax.errors import UserError

VERSIONS = ("aligned", "wild")
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_")
_RACES = ("White", "Black", "Asian", "Indian", "Others")
_PARTS = ("part1", "part2", "part3")


@BUILDERS.register("utkface")
class UTKFace(FaceBuilder):
    """Reads `[age]_[gender]_[race]_[time].jpg.chip.jpg`, as one test split.

    Three names of the release lack one of the fields, and are rejected.

    Args:
      utk: "aligned" reads the folder of cropped faces UTKFace/; "wild" reads the photographs in
        part1/, part2/ and part3/, from which the storage's face finder cuts the faces.
      **kwargs: see FaceBuilder. The source is the folder of the images or its parent.

    Source: the naming rule of the release.
    """

    name = "utkface"
    TASKS = ("age", "gender")
    COLUMNS = ("race", "years")

    def __init__(self, *, utk: str = "aligned", **kwargs: Any) -> None:
        tables.require_choice(utk, VERSIONS, what="unknown version", where="--utk")
        self.utk = utk
        super().__init__(**kwargs)
        if utk == "wild" and self.storage.face_finder is None:
            raise UserError("photographs need a face finder", where="--utk=wild", fix="pass --faces")

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        if not any(locate.images_in(folder) for folder in self._folders()):
            parts = " in part1/, part2/ and part3/" if self.utk == "wild" else ""
            expected, fix = f"the {self.utk} images{parts}", "check --source and --utk"
            raise UserError("no images", where=str(self.source), expected=expected, found="none", fix=fix)
        return ("test",)

    def protocol(self) -> dict[str, str]:
        return {"utk": self.utk}

    def rows(self, split: str) -> Iterator[Outcome]:
        for folder in self._folders():
            for path in locate.images_in(folder):
                match = _NAME.match(path.name)
                if match is None:
                    yield Rejection(path.name, "the name lacks age, gender or race")
                    continue
                years, gender, race = (int(value) for value in match.groups())
                row_id = path.name if self.utk == "aligned" else f"{folder.name}/{path.name}"
                if rejection := impossible_age(row_id, years):
                    yield rejection
                    continue
                yield Row(
                    id=row_id,
                    image=path,
                    labels={"age": age_class(years), "gender": gender},
                    columns={"race": _RACES[race], "years": str(years)},
                )

    def _folders(self) -> list[pathlib.Path]:
        if self.utk == "wild":
            return [self.source / part for part in _PARTS if (self.source / part).is_dir()]
        inner = self.source / "UTKFace"
        return [inner if inner.is_dir() else self.source]
