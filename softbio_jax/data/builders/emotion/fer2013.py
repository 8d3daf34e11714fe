"""FER2013: emotion, of images whose pixels are in a table or in folders of classes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.builders import pixels
from softbio_jax.data.builders.class_folders import ClassFolders, emotions
from softbio_jax.data.builders.emotion import votes
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.locate import Layout, either, has, with_columns
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip
from softbio_jax.errors import UserError

TABLES = ("fer2013.csv", "icml_face_data.csv")
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
_COLUMNS = ("emotion", "pixels")


@BUILDERS.register("fer2013")
class Fer2013(ClassFolders):
    """Reads `fer2013.csv` or `icml_face_data.csv` (emotion, pixels, Usage), or folders of classes.

    The splits of the tables are train, val and test. The challenge's `train.csv` (emotion, pixels) is
    train alone: its test.csv has no labels. Copies as images have `{train,test}/{angry,...}/`.

    Args:
      ferplus: the FER+ table `fer2013new.csv`; its votes replace the labels of a table. A row is used
        if one of the seven emotions has more votes than anything else.
      **kwargs: see FaceBuilder. The source is the folder of the table, or one above it.

    Source: the challenge's description, 0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral.
    """

    name = "fer2013"
    TITLE = "FER2013"
    TASKS = ("emotion",)
    VOCABULARY = emotions("angry disgust fear happy sad surprise neutral")
    LAYOUTS: tuple[Layout, ...] = (
        Layout(name="table", shown=" or ".join(TABLES), fits=either(*map(has, TABLES))),
        Layout(
            name="challenge", shown="train.csv (emotion, pixels)", fits=with_columns("train.csv", *_COLUMNS)
        ),
        *VOCABULARY.layouts("{angry,disgust,...}"),
    )

    def __init__(self, *, ferplus: str | None = None, **kwargs: Any) -> None:
        self.ferplus = ferplus
        self.COLUMNS = (votes.COLUMN,) if ferplus else self.COLUMNS
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        in_table = {"table": tuple(USAGES), "challenge": ("train",)}
        if self.ferplus and self.place.layout.name not in in_table:
            what, fix = "votes without a table of pixels", "omit --ferplus, or see --dataset=ferplus"
            raise UserError(what, where=str(self.place.root), expected=" or ".join(TABLES), fix=fix)
        return in_table.get(self.place.layout.name) or super().splits()

    def protocol(self) -> dict[str, str]:
        return {"labels": "ferplus" if self.ferplus else "fer2013", **super().protocol()}

    def rows(self, split: str) -> Iterator[Outcome]:
        if self.place.layout.name not in ("table", "challenge"):
            yield from super().rows(split)
            return
        table = self._table
        columns = [*_COLUMNS] + ["Usage"] * (self.place.layout.name == "table")
        counted = self._votes(pathlib.Path(self.ferplus), table) if self.ferplus else None
        for index, (where, row) in enumerate(tables.read_csv(table, columns=columns)):
            usage, known = row.get("Usage", USAGES["train"]), USAGES.values()
            if usage not in known:
                raise tables.bad_value("unknown usage", usage, where=where, expected=", ".join(known))
            if usage != USAGES[split]:
                continue
            row_id = f"fer{index:07d}.png"
            word, kept = (row["emotion"], {}) if counted is None else counted[index]
            made = self.VOCABULARY.row(row_id, pixels.image(row["pixels"]), word, columns=kept, where=where)
            bad = pixels.problem(row["pixels"]) if isinstance(made, Row) else ""
            yield Rejection(row_id, bad, where=where) if bad else made

    @property
    def _table(self) -> pathlib.Path:
        if self.place.layout.name == "challenge":
            return self.place.path("train.csv")
        return self.place.path(*TABLES)

    def _votes(self, path: pathlib.Path, table: pathlib.Path) -> list[tuple[int | Skip, dict[str, str]]]:
        # The tables are matched row by row: FER+ names no image for rows that it discarded.
        counted = [(label, columns) for _, _, label, columns in votes.read(path)]
        rows = sum(1 for _ in tables.read_csv(table, columns=("emotion",)))
        if len(counted) != rows:
            what, expected = "the votes belong to another table", f"{rows} rows, as in {table.name}"
            fix = "download both tables again, or omit --ferplus"
            raise UserError(what, where=str(path), expected=expected, found=str(len(counted)), fix=fix)
        return counted
