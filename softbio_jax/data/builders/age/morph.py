"""MORPH: age, gender and identity, from the table of the release or the names of the files."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

from softbio_jax.data.builders.age.person import any_named, named_rows, person
from softbio_jax.data.labels import class_of, require_class
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, has, with_columns
from softbio_jax.data.prepare.rows import Outcome

_TABLE = "morph_*.csv"
_COLUMNS = ("id_num", "race", "gender", "age", "photo")
_NAME = re.compile(r"(?P<identity>\d+)_\d+(?P<gender>[MF])(?P<years>\d{1,3})\.", re.IGNORECASE)
_RACES = {"W": "White", "B": "Black", "A": "Asian", "H": "Hispanic", "O": "Other"}
_INDICES = {"train": "Index/Train.csv", "val": "Index/Validation.csv", "test": "Index/Test.csv"}


@BUILDERS.register("morph")
class Morph(FaceBuilder):
    """Reads `morph_2008_nonCommercial.csv`, `Index/` with `Images/`, or the names of the images alone.

    A name such as `009055_1M54.JPG` has the person, a number, the gender and the age. The numbers of
    genders in `Index/{Train,Validation,Test}.csv` (age, gender, filepath) are explained nowhere: the
    letter in the name counts, and without it the gender is masked.

    Source: the columns of the release's table (id_num, race, gender, age, photo) and its naming rule.
    """

    name = "morph"
    TITLE = "MORPH"
    TASKS = ("age", "gender")
    COLUMNS = ("identity", "years", "race")
    LAYOUTS = (
        Layout(name="table", shown="morph_2008_nonCommercial.csv", fits=with_columns(_TABLE, *_COLUMNS)),
        Layout(
            name="index",
            shown="Index/{Train,Validation,Test}.csv and Images/",
            fits=lambda root: has("Images")(root) and with_columns("Index/*.csv", "age", "filepath")(root),
        ),
        Layout(
            name="splits",
            shown="{train,val,test}/009055_1M54.JPG",
            fits=lambda root: any(any_named(path, _NAME) for path in locate.split_folders(root).values()),
        ),
        Layout(name="names", shown="009055_1M54.JPG", fits=lambda root: any_named(root, _NAME)),
    )

    def splits(self) -> tuple[str, ...]:
        if self.place.layout.name == "index":
            return tuple(split for split, path in _INDICES.items() if self.place.path(path).is_file())
        return tuple(self._folders())

    def rows(self, split: str) -> Iterator[Outcome]:
        if self.place.layout.name == "table":
            yield from self._table_rows()
        elif self.place.layout.name == "index":
            yield from self._index_rows(split)
        else:
            images = tables.images_in(self._folders()[split])
            yield from named_rows(images, _NAME, root=self.place.root, lacks="the person, gender or age")

    def _folders(self) -> dict[str, pathlib.Path]:
        root = self.place.root
        if self.place.layout.name == "splits":
            return locate.split_folders(root)
        return {locate.split_of(root.name) or "train": root}

    def _table_rows(self) -> Iterator[Outcome]:
        images = locate.Images(self.place.root)
        for where, row in tables.read_csv(self.place.path(_TABLE), columns=_COLUMNS):
            yield person(
                row["photo"].replace("\\", "/"),
                images.path(row["photo"], where=where),
                years=tables.parse_number(row["age"], where=where, column="age"),
                gender=require_class("gender", row["gender"], where=where),
                columns={"identity": row["id_num"], "race": _RACES.get(row["race"], row["race"])},
                where=where,
            )

    def _index_rows(self, split: str) -> Iterator[Outcome]:
        images = locate.Images(self.place.path("Images"))
        for where, row in tables.read_csv(self.place.path(_INDICES[split]), columns=("age", "filepath")):
            # The paths are absolute, on the machine where the index was made.
            name = row["filepath"].replace("\\", "/").rpartition("Images/")[2]
            match = _NAME.match(name.rpartition("/")[2])
            gender = class_of("gender", match["gender"] if match else row.get("gender", ""))
            yield person(
                name,
                images.path(name, where=where),
                years=tables.parse_number(row["age"], where=where, column="age"),
                gender=gender,
                columns={"identity": match["identity"]} if match else {},
                masked={} if gender is not None else {"gender": "a number without a meaning"},
                where=where,
            )
