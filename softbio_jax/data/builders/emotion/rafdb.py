"""RAF-DB basic: emotion and, of the complete release, gender; its age groups straddle the classes."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from softbio_jax.data.labels import class_of, known_words
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Row, Skip
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION

FILTERS = ("sure", "official")
_EMOTIONS = {str(number + 1): number for number in range(EMOTION.num_classes)}  # the same order
_RACES = ("Caucasian", "African-American", "Asian")
_AGE_GROUPS = ("0-3", "4-19", "20-39", "40-69", "70+")
_UNSURE = 2
_LANDMARKS = 5
_LISTS = ("EmoLabel/list_patition_label.txt", "list_patition_label.txt", "list_partition_label.txt")
_ALIGNED = ("Image/aligned", "aligned")
_FIX = (
    "give the folder basic/ of the official release; a copy with one folder per class, 1 to 7 or by name, "
    "has no gender: give the folder that holds train/ and test/"
)


@BUILDERS.register("rafdb")
class RafDb(FaceBuilder):
    """Reads `Image/aligned/`, `EmoLabel/list_patition_label.txt` and `Annotation/manual/`.

    Copies without `Annotation/manual/`, and those with the images in `{train,test}/{1..7}/` or in
    `{train,test}/{surprise,...}/`, have emotions alone; all their images are kept.

    Args:
      raf_filter: "sure" omits the images whose gender is annotated as unsure (train 11,519, test
        2,869); "official" keeps them with gender masked (12,271 and 3,068), the protocol of
        published accuracies.
      source: the folder basic/, train/ and test/ or the label list, or its parent.
      **kwargs: see FaceBuilder.

    Source: the official release, and its numbering in folders: 1 is surprise.
    """

    name = "rafdb"
    TASKS: tuple[str, ...] = ("gender", "emotion")
    COLUMNS: tuple[str, ...] = ("race", "age_group")

    def __init__(self, *, source: str, raf_filter: str = "sure", **kwargs: Any) -> None:
        tables.require_choice(raf_filter, FILTERS, what="unknown filter", where="--raf_filter")
        self.layout, self._root = _layout(pathlib.Path(source))
        self.raf_filter = raf_filter
        if self.layout != "official":
            self.TASKS, self.COLUMNS, self.raf_filter = ("emotion",), (), "official"
        super().__init__(source=source, **kwargs)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        if self.layout == "class folders":
            return tuple(locate.split_folders(self._root))
        if self.layout == "official":
            for folder in ("Image/aligned", "Annotation/manual"):
                tables.require_folder(self._root / folder, what="not a RAF-DB folder", fix=_FIX)
        return ("train", "test")

    def protocol(self) -> dict[str, str]:
        protocol = {"raf_filter": self.raf_filter}
        return protocol if self.layout == "official" else protocol | {"layout": self.layout}

    def rows(self, split: str) -> Iterator[Outcome]:
        return self._folder_rows(split) if self.layout == "class folders" else self._listed_rows(split)

    def _folder_rows(self, split: str) -> Iterator[Outcome]:
        for folder in locate.subfolders(locate.split_folders(self._root)[split]):
            label = _class_of_folder(folder.name)
            if label is None:
                expected, fix = f"1 to 7, or {known_words('emotion')}", "rename the folder or move it away"
                what, found = "unknown emotion class", repr(folder.name)
                raise UserError(what, where=str(folder), expected=expected, found=found, fix=fix)
            for path in locate.images_in(folder):
                row_id = path.relative_to(self._root).as_posix()
                yield Row(id=row_id, image=path, labels={"emotion": label})

    def _listed_rows(self, split: str) -> Iterator[Outcome]:
        table = _first(self._root, _LISTS) or self._root / _LISTS[0]
        images = _first(self._root, _ALIGNED) or self._root / _ALIGNED[0]
        for where, (name, word) in tables.read_words(table, count=2):
            if not name.startswith(f"{split}_"):
                continue
            what, fix = "unknown emotion class", "correct the line; 1 is surprise, as in the official list"
            emotion = tables.look_up(_EMOTIONS, word, what=what, where=where, expected="1 to 7", fix=fix)
            stem = pathlib.PurePosixPath(name).stem
            image = tables.inside(images, f"{stem}_aligned.jpg", where=where)
            labels = {"emotion": emotion}
            if self.layout != "official":
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
        path = self._root / "Annotation" / "manual" / f"{stem}_manu_attri.txt"
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


def _layout(source: pathlib.Path) -> tuple[str, pathlib.Path]:
    """Returns the layout of a copy and the folder that it starts at; official, unless another is there."""
    basic = source / "basic"
    root = basic if basic.is_dir() else source
    if not (root / "Annotation" / "manual").is_dir():
        if _first(root, _LISTS) and _first(root, _ALIGNED):
            return "label list", root
        for folder in (source, source / "DATASET", basic):
            # Numbers mean RAF-DB's classes only where there are seven of them.
            names = [
                {inner.name for inner in locate.subfolders(path)}
                for path in locate.split_folders(folder).values()
            ]
            if any(
                _EMOTIONS.keys() <= found or any(class_of("emotion", name) is not None for name in found)
                for found in names
            ):
                return "class folders", folder
    return "official", root


def _class_of_folder(name: str) -> int | None:
    return _EMOTIONS[name] if name in _EMOTIONS else class_of("emotion", name)


def _first(root: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
    return next((root / name for name in names if (root / name).exists()), None)
