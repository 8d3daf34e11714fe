"""Lagenda: faces cut out of Open Images photographs by the annotation's boxes, age and gender."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from softbio_jax.data.labels import age_class, class_of
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout, with_columns
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip, impossible_age
from softbio_jax.tasks import MISSING

_BOX = ("face_x0", "face_y0", "face_x1", "face_y1")
_TABLE = "lagenda_annotation.csv"
_COLUMNS = ("img_name", "age", "gender", *_BOX)


@BUILDERS.register("lagenda")
class Lagenda(FaceBuilder):
    """Reads `lagenda_annotation.csv` and the folder lag_benchmark/ beside it.

    A person is an example if age or gender is known and the face has a box. The photograph is
    kept as an audit column: persons of one photograph are not independent.

    Source: the layout that MiVOLO's download script makes; -1 stands for unknown.
    """

    name = "lagenda"
    TITLE = "Lagenda"
    BOXED = True
    LAYOUTS = (
        Layout("table", f"{_TABLE} and lag_benchmark/", with_columns("lagenda_annotation*.csv", *_COLUMNS)),
    )
    TASKS = ("age", "gender")
    COLUMNS = ("photograph", "years")

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.place.path("lag_benchmark"), what="no photographs")
        return ("train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        path, images = self.place.path(_TABLE, "lagenda_annotation*.csv"), locate.Images(self.place.root)
        folder = self.place.path("lag_benchmark").name
        persons: collections.Counter[str] = collections.Counter()
        for where, row in tables.read_csv(path, columns=_COLUMNS):
            photograph = row["img_name"]
            row_id = f"{photograph.removesuffix('.jpg')}_face{persons[photograph]}"
            persons[photograph] += 1
            years = tables.parse_number(row["age"], where=where, column="age")
            if years != -1 and (rejection := impossible_age(row_id, years, where=where)):
                yield rejection
                continue
            labels = {"age": age_class(years), "gender": _gender(row["gender"], where)}
            if set(labels.values()) == {MISSING}:
                yield Skip("neither age nor gender")
                continue
            box = tables.parse_box(row, _BOX, where=where)
            if min(box) < 0:
                yield Skip("no face box")
            elif box[0] >= box[2] or box[1] >= box[3]:
                yield Rejection(row_id, f"an empty face box {box}", where=where)
            else:
                names = (photograph, f"{folder}/{photograph}")
                yield Row(
                    id=row_id,
                    image=images.first(names if "/" not in photograph else names[:1], where=where),
                    labels=labels,
                    columns={"photograph": photograph, "years": row["age"]},
                    box=box,
                    where=where,
                )


def _gender(word: str, where: str) -> int:
    label = MISSING if word in ("-1", "-1.0", "") else class_of("gender", word)
    if label is None:
        raise tables.bad_value("unknown gender class", word, where=where, expected="M, F or -1")
    return label
