"""FER+: FER2013 with the votes of ten annotators."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from softbio_jax.data.builders.class_folders import emotions
from softbio_jax.data.builders.emotion import votes
from softbio_jax.data.builders.emotion.fer2013 import TABLES, USAGES, Fer2013
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.locate import Layout, either, has
from softbio_jax.data.prepare.rows import Outcome, Row, Skip

_FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
_VOTES = "fer2013new.csv"
_AROUND = ("", "data/", "images/")  # folders around those of the images


@BUILDERS.register("ferplus")
class FerPlus(Fer2013):
    """Reads `fer2013new.csv` with `FER2013{Train,Valid,Test}/` or with a table of FER2013.

    The folders may have a `label.csv` each instead. A row is used if one of the seven emotions has more
    votes than anything else. Copies in folders of classes have `{train,validation,test}/{angry,...}/`.

    Source: the files of the FER+ repository and those that its script writes: `label.csv` has an image,
    a box and the ten numbers of votes.
    """

    name = "ferplus"
    TITLE = "FER+"
    COLUMNS = (votes.COLUMN,)
    VOCABULARY = emotions("neutral happiness surprise sadness anger disgust fear contempt")
    LAYOUTS = (
        Layout(
            name="votes and images",
            shown=f"{_VOTES} and FER2013Train/",
            fits=lambda root: (
                has(_VOTES)(root) and either(*(has(f"{f}FER2013*/fer*") for f in _AROUND))(root)
            ),
        ),
        Layout(
            name="votes in folders",
            shown="FER2013Train/label.csv",
            fits=either(*(has(f"{folder}/label.csv") for folder in _FOLDERS.values())),
        ),
        Layout(
            name="table",
            shown=f"{_VOTES} and {TABLES[0]}",
            fits=lambda root: has(_VOTES)(root) and either(*map(has, TABLES))(root),
        ),
        *VOCABULARY.layouts("{angry,disgust,...,contempt}"),
    )

    def __init__(self, *, ferplus: str | None = None, **kwargs: Any) -> None:
        super().__init__(ferplus=ferplus, **kwargs)
        if self.place.layout.name == "table" and ferplus is None:
            self.ferplus = str(self.place.path(_VOTES))

    def splits(self) -> tuple[str, ...]:
        if self.place.layout.name not in ("votes and images", "votes in folders"):
            return super().splits()
        return tuple(split for split in _FOLDERS if self._folder(split) is not None)

    def protocol(self) -> dict[str, str]:
        return super().protocol() | {"labels": "ferplus"}

    def rows(self, split: str) -> Iterator[Outcome]:
        readers = {"votes and images": self._listed_rows, "votes in folders": self._folder_rows}
        return readers.get(self.place.layout.name, super().rows)(split)

    def _folder(self, split: str) -> pathlib.Path | None:
        paths = (locate.entry(self.place.root, f"{around}{_FOLDERS[split]}") for around in _AROUND)
        return next((path for path in paths if path is not None), None)

    def _listed_rows(self, split: str) -> Iterator[Outcome]:
        images = locate.Images(self._folder(split) or self.place.root)
        for where, row, label, counted in votes.read(self.place.path(_VOTES)):
            if row["Usage"] == USAGES[split]:
                yield self._row(images, split, row["Image name"], label, counted, where=where)

    def _folder_rows(self, split: str) -> Iterator[Outcome]:
        folder = self._folder(split) or self.place.root
        images, table = locate.Images(folder), locate.entry(folder, "label.csv") or folder / "label.csv"
        for where, (name, _, *counts) in tables.read_values(table, count=2 + len(votes.NAMES)):
            label, counted = votes.majority(counts, where=where), votes.columns(counts)
            yield self._row(images, split, name, label, counted, where=where)

    def _row(
        self,
        images: locate.Images,
        split: str,
        name: str,
        label: int | Skip,
        columns: Mapping[str, str],
        *,
        where: str,
    ) -> Row | Skip:
        if not name:
            return label if isinstance(label, Skip) else Skip("votes without an image")
        row_id = f"{_FOLDERS[split]}/{name}"
        image = images.path(name, where=where)
        return self.VOCABULARY.row(row_id, image, label, columns=columns, where=where)
