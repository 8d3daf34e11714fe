"""CK+, the extended Cohn-Kanade set: emotion at the peak of a posed expression, with the subject."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator

from softbio_jax.data.builders import pixels
from softbio_jax.data.builders.class_folders import ClassFolders, emotions
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.locate import Layout, either, has, with_columns
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip

_IMAGES = ("*cohn-kanade-images/cohn-kanade-images", "cohn-kanade-images")
_EMOTIONS = ("Emotion*/Emotion", "Emotion*")
_TABLE = "ckextended.csv"
_USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_SUBJECT = re.compile(r"(S\d{3})_\d{3}_\d+", re.IGNORECASE)
# The table numbers as FER2013 does.
_IN_TABLE = emotions("angry disgust fear happy sad surprise neutral contempt")


@BUILDERS.register("ck_plus")
class CkPlus(ClassFolders):
    """Reads `cohn-kanade-images/` with `Emotion/`, `CK+48/{anger,...}/`, or `ckextended.csv`.

    Of the release, the last frame of every sequence with an emotion is read; the others are omitted.
    Contempt has no class here. The subject is the first part of an image's name; the table has none.

    Source: the release's readme, 0 neutral, 1 anger, 2 contempt, 3 disgust, 4 fear, 5 happy, 6 sadness,
    7 surprise; the table's, 0 anger, 1 disgust, 2 fear, 3 happiness, 4 sadness, 5 surprise, 6 neutral,
    7 contempt.
    """

    name = "ck_plus"
    TITLE = "CK+"
    TASKS = ("emotion",)
    COLUMNS = ("identity",)
    VOCABULARY = emotions("neutral anger contempt disgust fear happy sadness surprise")
    LAYOUTS = (
        Layout(
            name="sequences",
            shown="cohn-kanade-images/ and Emotion/",
            fits=lambda root: (
                either(*(has(f"{path}/S*/*/*") for path in _IMAGES))(root)
                and either(*(has(f"{path}/S*") for path in _EMOTIONS))(root)
            ),
        ),
        Layout(name="table", shown=_TABLE, fits=with_columns(_TABLE, "emotion", "pixels", "Usage")),
        Layout(
            name="class folders without splits",
            shown="{anger,...}/S010_004_00000017.png",
            fits=has("anger/S???_???_*", "surprise/S???_???_*"),
        ),
        *emotions().layouts("{anger,contempt,...}"),
    )

    def splits(self) -> tuple[str, ...]:
        if self.place.layout.name == "sequences":
            return ("train",)
        return tuple(self._in_table()) if self.place.layout.name == "table" else super().splits()

    def rows(self, split: str) -> Iterator[Outcome]:
        if self.place.layout.name == "sequences":
            yield from self._sequences()
        elif self.place.layout.name == "table":
            yield from self._in_table()[split]
        else:
            for row in emotions().rows(self.split_folders()[split], root=self.place.root):
                yield dataclasses.replace(row, columns=_subject(row.id)) if isinstance(row, Row) else row

    def _sequences(self) -> Iterator[Outcome]:
        images, notes = self.place.path(*_IMAGES), self.place.path(*_EMOTIONS)
        for subject in locate.subfolders(images):
            for sequence in locate.subfolders(subject):
                name = f"{subject.name}/{sequence.name}"
                frames, labels = (
                    tables.images_in(sequence),
                    list(locate.matches(notes, f"{name}/*_emotion.txt")),
                )
                if not labels:
                    yield Skip("a sequence without an emotion")
                elif len(labels) > 1 or not frames:
                    yield Rejection(name, f"{len(labels)} emotions and {len(frames)} frames")
                else:
                    yield self._peak(name, frames[-1], labels[0])

    def _peak(self, name: str, frame: pathlib.Path, note: pathlib.Path) -> Outcome:
        where, word = next(((where, words[0]) for where, words in tables.read_words(note)), (str(note), ""))
        number, row_id = tables.parse_number(word, where=where, column="emotion"), f"{name}/{frame.name}"
        return self.VOCABULARY.row(row_id, frame, f"{number:g}", columns=_subject(row_id), where=where)

    def _in_table(self) -> dict[str, list[Outcome]]:
        found: dict[str, list[Outcome]] = {split: [] for split in _USAGES.values()}
        rows = tables.read_csv(self.place.path(_TABLE), columns=("emotion", "pixels", "Usage"))
        for number, (where, row) in enumerate(rows):
            expected, what, row_id = ", ".join(_USAGES), "unknown usage", f"ck{number:04d}.png"
            split = tables.look_up(_USAGES, row["Usage"], what=what, where=where, expected=expected)
            made = _IN_TABLE.row(row_id, pixels.image(row["pixels"]), row["emotion"], where=where)
            bad = pixels.problem(row["pixels"])
            found[split].append(Rejection(row_id, bad, where=where) if bad else made)
        return {split: outcomes for split, outcomes in found.items() if outcomes}


def _subject(name: str) -> dict[str, str]:
    match = _SUBJECT.search(name)
    return {"identity": match[1].upper()} if match else {}
