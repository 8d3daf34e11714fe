"""AgeDB: age, gender and identity from the names of the files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from softbio_jax.data.builders.age.person import any_named, named_rows
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.locate import Layout
from softbio_jax.data.prepare.rows import Outcome

_NAME = re.compile(r"\d+_(?P<identity>.+)_(?P<years>\d{1,3})_(?P<gender>[mf])\.", re.IGNORECASE)


@BUILDERS.register("agedb")
class AgeDb(FaceBuilder):
    """Reads `123_SomeName_45_m.jpg`: a number, the person, the age and the gender.

    Source: the naming rule of the release.
    """

    name = "agedb"
    TITLE = "AgeDB"
    TASKS = ("age", "gender")
    COLUMNS = ("identity", "years")
    LAYOUTS = (
        Layout(name="names", shown="0_MariaCallas_35_f.jpg", fits=lambda root: any_named(root, _NAME)),
    )

    def splits(self) -> tuple[str, ...]:
        return (locate.split_of(self.place.root.name) or "train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        root = self.place.root
        yield from named_rows(tables.images_in(root), _NAME, root=root, lacks="the person, age or gender")
