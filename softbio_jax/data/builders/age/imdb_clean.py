"""IMDB-clean: age and gender of actors, faces cut out by the annotation's boxes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from softbio_jax.data.builders.age.person import person
from softbio_jax.data.labels import require_class
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, either, with_columns
from softbio_jax.data.prepare.rows import Outcome

_BOX = ("x_min", "y_min", "x_max", "y_max")
_COLUMNS = ("filename", "age", "gender", *_BOX)
_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_TABLES = ("csvs/imdb_{}_new_1024.csv", "imdb_{}_new_1024.csv")
_IMAGES = ("data/imdb-clean-1024", "imdb-clean-1024", "images")


@BUILDERS.register("imdb_clean")
class ImdbClean(FaceBuilder):
    """Reads `csvs/imdb_{train,valid,test}_new_1024.csv` and `data/imdb-clean-1024/`.

    The tables and the folder of images may also be beside each other.

    Source: the layout of the release; its split "valid" is called "val" here.
    """

    name = "imdb_clean"
    TITLE = "IMDB-clean"
    BOXED = True
    TASKS = ("age", "gender")
    COLUMNS = ("years",)
    LAYOUTS = (
        Layout(
            "tables",
            "csvs/imdb_{train,valid,test}_new_1024.csv and data/imdb-clean-1024/",
            either(*(with_columns(name.format("*"), *_COLUMNS) for name in _TABLES)),
        ),
    )

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.place.path(*_IMAGES), what="no images")
        return tuple(split for split in _SPLITS if self._table(split).is_file())

    def rows(self, split: str) -> Iterator[Outcome]:
        images = locate.Images(self.place.path(*_IMAGES))
        for where, row in tables.read_csv(self._table(split), columns=_COLUMNS):
            yield person(
                row["filename"],
                images.path(row["filename"], where=where),
                years=tables.parse_number(row["age"], where=where, column="age"),
                gender=require_class("gender", row["gender"], where=where),
                box=tables.parse_box(row, _BOX, where=where),
                where=where,
            )

    def _table(self, split: str) -> pathlib.Path:
        return self.place.path(*(name.format(_SPLITS[split]) for name in _TABLES))
