"""IMDB-clean: age and gender of actors, faces cut out by the annotation's boxes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from softbio_jax.data.labels import age_class, require_class
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row, impossible_age

_BOX = ("x_min", "y_min", "x_max", "y_max")
_SPLITS = {"train": "train", "valid": "val", "test": "test"}


@BUILDERS.register("imdb_clean")
class ImdbClean(FaceBuilder):
    """Reads `csvs/imdb_{train,valid,test}_new_1024.csv` and `data/imdb-clean-1024/`.

    Source: the layout of the release; its split "valid" is called "val" here.
    """

    name = "imdb_clean"
    TASKS = ("age", "gender")
    COLUMNS = ("years",)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        tables.require_folder(self.source / "data" / "imdb-clean-1024", what="no images")
        found = tuple(s for f, s in _SPLITS.items() if self._table(f).is_file())
        if not found:
            list(tables.read_csv(self._table("train"), columns=()))
        return found

    def rows(self, split: str) -> Iterator[Outcome]:
        path = self._table(next(f for f, s in _SPLITS.items() if s == split))
        root = self.source / "data" / "imdb-clean-1024"
        for where, row in tables.read_csv(path, columns=("filename", "age", "gender", *_BOX)):
            years = tables.parse_number(row["age"], where=where, column="age")
            gender = require_class("gender", row["gender"], where=where)
            if rejection := impossible_age(row["filename"], years, where=where):
                yield rejection
                continue
            yield Row(
                id=row["filename"],
                image=tables.inside(root, row["filename"], where=where),
                labels={"age": age_class(years), "gender": gender},
                columns={"years": row["age"]},
                box=tables.parse_box(row, _BOX, where=where),
                where=where,
            )

    def _table(self, split: str) -> pathlib.Path:
        return self.source / "csvs" / f"imdb_{split}_new_1024.csv"
