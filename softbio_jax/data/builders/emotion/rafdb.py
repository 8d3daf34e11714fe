"""RAF-DB basic: emotion and, of the complete release, gender; its age groups straddle the classes."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.builders.class_folders import SPLIT, ClassFolders, emotions
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.locate import Layout, either, has, with_columns
from softbio_jax.data.prepare.rows import Outcome, Row, Skip
from softbio_jax.errors import UserError

FILTERS = ("sure", "official")
_RACES = ("Caucasian", "African-American", "Asian")
_AGE_GROUPS = ("0-3", "4-19", "20-39", "40-69", "70+")
_UNSURE = 2
_LANDMARKS = 5
_OFFICIAL, _LIST, _TABLES = "official", "label list", "label tables"
_LISTS = tuple(
    f"{folder}list_{word}_label.txt" for folder in ("EmoLabel/", "") for word in ("patition", "partition")
)
_ALIGNED = ("Image/aligned", "aligned")


@BUILDERS.register("rafdb")
class RafDb(ClassFolders):
    """Reads `Image/aligned/`, `EmoLabel/list_patition_label.txt` and `Annotation/manual/`.

    Copies without `Annotation/manual/`, those with tables `{train,test}_labels.csv`, and those with
    the images in `{train,test}/{1..7}/` or `{train,test}/{surprise,...}/`, have emotions alone; all
    their images are kept.

    Args:
      raf_filter: "sure" omits the images whose gender is annotated as unsure (train 11,519, test
        2,869); "official" keeps them with gender masked (12,271 and 3,068), the protocol of
        published accuracies.
      source: the folder of the copy, or one above it.
      **kwargs: see FaceBuilder.

    Source: the official release, and its numbering everywhere: 1 is surprise.
    """

    name = "rafdb"
    TITLE = "RAF-DB"
    TASKS: tuple[str, ...] = ("gender", "emotion")
    COLUMNS: tuple[str, ...] = ("race", "age_group")
    VOCABULARY = emotions("surprise fear disgust happy sad angry neutral", first=1)
    LAYOUTS = (
        Layout(
            name=_OFFICIAL,
            shown="basic/ with Image/aligned/, EmoLabel/ and Annotation/manual/",
            fits=has("Annotation/manual", "EmoLabel"),
        ),
        Layout(
            name=_LIST,
            shown="list_patition_label.txt with aligned/",
            fits=lambda root: either(*map(has, _LISTS))(root) and either(*map(has, _ALIGNED))(root),
        ),
        Layout(
            name=SPLIT,
            shown="{train,val,test}/{1..7}/",
            fits=locate.in_splits(lambda names: set("1234567") == set(names)),
        ),
        *VOCABULARY.layouts("{1..7}"),
        Layout(
            name=_TABLES,
            shown="{train,test}_labels.csv with the images",
            fits=with_columns("train_labels.csv", "image", "label"),
        ),
    )

    def __init__(self, *, source: str, raf_filter: str = "sure", **kwargs: Any) -> None:
        tables.require_choice(raf_filter, FILTERS, what="unknown filter", where="--raf_filter")
        place = locate.find(pathlib.Path(source), self.LAYOUTS, what=self.TITLE)
        self.layout, self.raf_filter = place.layout.name, raf_filter
        if self.layout != _OFFICIAL:
            self.TASKS, self.COLUMNS, self.raf_filter = ("emotion",), (), "official"
        super().__init__(source=source, **kwargs)

    def splits(self) -> tuple[str, ...]:
        if self.layout == _OFFICIAL:
            tables.require_folder(self.place.path(*_ALIGNED), what="no images")
        tabled = {_OFFICIAL: ("train", "test"), _LIST: ("train", "test"), _TABLES: tuple(self._tables())}
        return tabled.get(self.layout) or super().splits()

    def protocol(self) -> dict[str, str]:
        protocol = {"raf_filter": self.raf_filter}
        return protocol if self.layout == _OFFICIAL else protocol | super().protocol()

    def rows(self, split: str) -> Iterator[Outcome]:
        if self.layout == _TABLES:
            return self._table_rows(split)
        return self._listed_rows(split) if self.layout in (_OFFICIAL, _LIST) else super().rows(split)

    def _tables(self) -> dict[str, pathlib.Path]:
        paths = {split: locate.entry(self.place.root, f"{split}_labels.csv") for split in ("train", "test")}
        return {split: path for split, path in paths.items() if path is not None}

    def _table_rows(self, split: str) -> Iterator[Outcome]:
        images = locate.Images(self.place.root)
        for where, row in tables.read_csv(self._tables()[split], columns=("image", "label")):
            folders = (f"DATASET/{split}", split, "DATASET", ".")
            inner = (f"{row['label']}/{row['image']}", row["image"])
            image = images.first([f"{one}/{name}" for one in folders for name in inner], where=where)
            yield self.VOCABULARY.row(row["image"], image, row["label"], where=where)

    def _listed_rows(self, split: str) -> Iterator[Outcome]:
        table, images = self.place.path(*_LISTS), locate.Images(self.place.path(*_ALIGNED))
        for where, (name, word) in tables.read_words(table, count=2):
            if not name.startswith(f"{split}_"):
                continue
            fix = "correct the line; 1 is surprise, as in the official list"
            emotion = self.VOCABULARY.label(word, where=where, fix=fix)
            stem = pathlib.PurePosixPath(name).stem
            if isinstance(emotion, Skip):
                yield emotion
                continue
            image = images.path(f"{stem}_aligned.jpg", where=where)
            labels = {"emotion": emotion}
            if self.layout != _OFFICIAL:
                yield Row(id=name, image=image, labels=labels, where=where)
                continue
            gender, race, age_group = self._attributes(stem)
            masked = {"age": "the age groups straddle the classes"}
            if gender != _UNSURE:
                labels["gender"] = gender
            elif self.raf_filter == "sure":
                yield Skip("gender unsure")
                continue
            else:
                masked["gender"] = "gender unsure"
            yield Row(
                id=name,
                image=image,
                labels=labels,
                columns={"race": _RACES[race], "age_group": _AGE_GROUPS[age_group]},
                masked=masked,
                where=where,
            )

    def _attributes(self, stem: str) -> tuple[int, int, int]:
        # Five landmarks, one per line, then gender, race and age group.
        path = self.place.path("Annotation/manual") / f"{stem}_manu_attri.txt"
        lines = [words for _, words in tables.read_words(path)]
        found = " ".join(word for words in lines[_LANDMARKS:] for word in words)
        values = re.fullmatch("([0-2]) ([0-2]) ([0-4])", found)
        if values is None:
            raise UserError(
                "not an attribute file",
                where=f"{path} line {_LANDMARKS + 1}",
                expected="gender 0-2, race 0-2 and age group 0-4 after five landmarks",
                found=found or "nothing",
                fix="download Annotation/manual again",
            )
        return int(values[1]), int(values[2]), int(values[3])
