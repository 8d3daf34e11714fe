"""FER2013, whose pixels are in a table, and the FER+ votes on the same images."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.labels import class_of
from softbio_jax.data.prepare import storage, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip
from softbio_jax.errors import UserError

_TABLES = ("fer2013.csv", "icml_face_data.csv", "fer2013/fer2013.csv", "train.csv")
_SPLITS = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
_LABELS = {"0": 5, "1": 2, "2": 1, "3": 3, "4": 4, "5": 0, "6": 6}  # angry, disgust, fear, ...
_SIDE = 48
_VOTES = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "NF"),
)


@BUILDERS.register("fer2013")
class Fer2013(FaceBuilder):
    """Reads `fer2013.csv` or `icml_face_data.csv` (emotion, pixels, Usage).

    The splits are train, val and test. The challenge's `train.csv` (emotion, pixels) is train alone:
    its test.csv has no labels.

    Args:
      ferplus: the FER+ table `fer2013new.csv`; its votes replace the labels. A row is used if one
        of the seven emotions has more votes than anything else.
      **kwargs: see FaceBuilder. The source is the folder of the table.
    """

    name = "fer2013"
    TASKS = ("emotion",)

    def __init__(self, *, ferplus: str | None = None, **kwargs: Any) -> None:
        self.ferplus = ferplus
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        if not self._table.is_file():
            fix = "put it there or check --source"
            if (self.source / "train").is_dir():
                fix = "there is a folder train/: for a folder per class pass --dataset=folder --task=emotion"
            what, expected = "no such label file", " or ".join(_TABLES[:2])
            raise UserError(what, where=str(self._table), expected=expected, fix=fix)
        return ("train",) if self._table.name == "train.csv" else tuple(_SPLITS)

    def protocol(self) -> dict[str, str]:
        return {"labels": "ferplus" if self.ferplus else "fer2013"}

    def rows(self, split: str) -> Iterator[Outcome]:
        path = self._table
        votes = self._votes(path)
        columns = ["emotion", "pixels"] + ["Usage"] * (path.name != "train.csv")
        for index, (where, row) in enumerate(tables.read_csv(path, columns=columns)):
            usage, known = row.get("Usage", _SPLITS["train"]), _SPLITS.values()
            if usage not in known:
                raise tables.bad_value("unknown usage", usage, where=where, expected=", ".join(known))
            if usage != _SPLITS[split]:
                continue
            label = votes[index] if votes is not None else _label(row["emotion"], where)
            row_id = f"fer{index:07d}.png"
            pixels = row["pixels"].split()
            if isinstance(label, Skip):
                yield label
            elif len(pixels) != _SIDE * _SIDE or not all(p.isdigit() for p in pixels):
                yield Rejection(row_id, f"{len(pixels)} pixels instead of {_SIDE * _SIDE}", where=where)
            else:
                image = functools.partial(_png, row["pixels"])
                yield Row(id=row_id, image=image, labels={"emotion": label}, where=where)

    @property
    def _table(self) -> pathlib.Path:
        paths = [self.source / name for name in _TABLES]
        return next((path for path in paths if path.is_file()), paths[0])

    def _votes(self, labels: pathlib.Path) -> list[int | Skip] | None:
        # The tables are matched row by row: FER+ names no image for rows that it discarded.
        if self.ferplus is None:
            return None
        path = pathlib.Path(self.ferplus)
        votes = [
            _majority([_count(row[name], name, where) for name in _VOTES])
            for where, row in tables.read_csv(path, columns=("Usage", *_VOTES))
        ]
        rows = sum(1 for _ in tables.read_csv(labels, columns=("emotion",)))
        if len(votes) != rows:
            what, expected = "the votes belong to another table", f"{rows} rows, as in {labels.name}"
            fix = "download both tables again, or omit --ferplus"
            raise UserError(what, where=str(path), expected=expected, found=str(len(votes)), fix=fix)
        return votes


def _label(value: str, where: str) -> int:
    return tables.look_up(_LABELS, value, what="unknown emotion class", where=where, expected="0 to 6")


def _count(value: str, column: str, where: str) -> int:
    if not (value or "0").isdecimal():
        raise tables.bad_value(f"not a number of votes in {column!r}", value, where=where, expected="0 to 10")
    return int(value or 0)


def _majority(votes: list[int]) -> int | Skip:
    winners = [name for name, count in zip(_VOTES, votes, strict=True) if count == max(votes)]
    if len(winners) > 1:
        return Skip("votes without a winner")
    label = class_of("emotion", winners[0])
    return Skip(f"most votes for {winners[0]}") if label is None else label


def _png(pixels: str) -> bytes:
    try:
        values = np.array(pixels.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise decode.UndecodableImage("a pixel is not a number") from error
    if values.max() > 255:
        raise decode.UndecodableImage("a pixel above 255")
    grey = values.astype(np.uint8).reshape(_SIDE, _SIDE, 1)
    return storage.encode(np.repeat(grey, 3, axis=2), "png")
