"""RAF-DB basic: emotion and gender; its age groups straddle the classes and are masked."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from softbio_jax.data.prepare import tables
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
_FIX = (
    "give the folder basic/ of the official release; a copy with one folder per class has no gender: "
    "use --dataset=folder"
)


@BUILDERS.register("rafdb")
class RafDb(FaceBuilder):
    """Reads `Image/aligned/`, `EmoLabel/list_patition_label.txt` and `Annotation/manual/`.

    Args:
      raf_filter: "sure" omits the images whose gender is annotated as unsure (train 11,519, test
        2,869); "official" keeps them with gender masked (12,271 and 3,068), the protocol of
        published accuracies.
      **kwargs: see FaceBuilder. The source is the folder basic/ or its parent.

    Source: the official release. Copies with one folder per class have no gender: prepare those
    with the folder builder.
    """

    name = "rafdb"
    TASKS = ("gender", "emotion")
    COLUMNS = ("race", "age_group")

    def __init__(self, *, raf_filter: str = "sure", **kwargs: Any) -> None:
        tables.require_choice(raf_filter, FILTERS, what="unknown filter", where="--raf_filter")
        self.raf_filter = raf_filter
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        for folder in ("Image/aligned", "Annotation/manual"):
            tables.require_folder(self._root / folder, what="not a RAF-DB folder", fix=_FIX)
        return ("train", "test")

    def protocol(self) -> dict[str, str]:
        return {"raf_filter": self.raf_filter}

    def rows(self, split: str) -> Iterator[Outcome]:
        table = self._root / "EmoLabel" / "list_patition_label.txt"
        for where, (name, word) in tables.read_words(table, count=2):
            if not name.startswith(f"{split}_"):
                continue
            what, fix = "unknown emotion class", "correct the line; 1 is surprise, as in the official list"
            emotion = tables.look_up(_EMOTIONS, word, what=what, where=where, expected="1 to 7", fix=fix)
            stem = pathlib.PurePosixPath(name).stem
            gender, race, age_group = self._attributes(stem)
            labels = {"emotion": emotion}
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
                image=tables.inside(self._root / "Image" / "aligned", f"{stem}_aligned.jpg", where=where),
                labels=labels,
                columns={"race": _RACES[race], "age_group": _AGE_GROUPS[age_group]},
                masked=masked,
                where=where,
            )

    @property
    def _root(self) -> pathlib.Path:
        inner = self.source / "basic"
        return inner if inner.is_dir() else self.source

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
