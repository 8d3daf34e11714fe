"""ExpW: emotions of faces cut out of photographs by the list's boxes."""

from __future__ import annotations

from collections.abc import Iterator

from softbio_jax.data.builders.class_folders import ClassFolders, emotions
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.locate import Layout, either, has
from softbio_jax.data.prepare.rows import Outcome, Rejection

_LISTS = ("label/label.lst", "label.lst", "data/label/label.lst")
_IMAGES = ("image/origin", "data/image/origin", "origin", "image", "images")
_WORDS = ("image", "face", "top", "left", "right", "bottom", "confidence", "expression")


@BUILDERS.register("expw")
class ExpW(ClassFolders):
    """Reads `label/label.lst` and `image/origin/`, or folders of classes.

    A line has an image, the number of the face in it, its box (top, left, right, bottom), the detector's
    confidence and the expression. The photograph is kept: faces of one are not independent.

    Source: the release's readme, 0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral.
    """

    name = "expw"
    TITLE = "ExpW"
    BOXED = True
    TASKS = ("emotion",)
    COLUMNS = ("photograph",)
    VOCABULARY = emotions("angry disgust fear happy sad surprise neutral")
    LAYOUTS = (
        Layout(name="list", shown="label/label.lst and image/origin/", fits=either(*map(has, _LISTS))),
        *VOCABULARY.layouts("{angry,...}"),
    )

    def splits(self) -> tuple[str, ...]:
        if self.place.layout.name != "list":
            return super().splits()
        tables.require_folder(self.place.path(*_IMAGES), what="no photographs")
        return ("train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        return self._listed_rows() if self.place.layout.name == "list" else super().rows(split)

    def _listed_rows(self) -> Iterator[Outcome]:
        images = locate.Images(self.place.path(*_IMAGES))
        for where, words in tables.read_words(self.place.path(*_LISTS), count=len(_WORDS)):
            row = dict(zip(_WORDS, words, strict=True))
            row_id = f"{row['image']}_face{row['face']}"
            box = tables.parse_box(row, ("left", "top", "right", "bottom"), where=where)
            if box[0] >= box[2] or box[1] >= box[3]:
                yield Rejection(row_id, f"an empty face box {box}", where=where)
                continue
            image = images.path(row["image"], where=where)
            columns = {"photograph": row["image"]}
            yield self.VOCABULARY.row(row_id, image, row["expression"], columns=columns, box=box, where=where)
