"""Published sets with a folder per class: their words and numbers for classes, layouts and rows."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import ClassVar

from softbio_jax.data import listing
from softbio_jax.data.builders import numbered
from softbio_jax.data.labels import class_of, known_words
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import FaceBuilder
from softbio_jax.data.prepare.locate import Layout
from softbio_jax.data.prepare.rows import Outcome, Row, Skip

SPLIT = "class folders"  # the names of the two layouts
UNSPLIT = "class folders without splits"
_FIX = "rename the folder or move it away"
_SYNONYMS = {"contemptuous": "contempt", "non-face": "no-face", "noface": "no-face", "not-face": "no-face"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What the words and numbers of one data set mean.

    Args:
      task: the task that they are classes of.
      numbers: number -> name; numbers are understood only by this table.
      others: annotations of the set that are no class of the task, whose images are omitted by name.
    """

    task: str
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()

    def label(self, word: str, *, where: str, fix: str = "correct the row") -> int | Skip:
        """Returns the label of a name or number, or why its image is omitted.

        Raises:
          UserError: another word, in the row `where`.
        """
        name = self._name(word)
        label = class_of(self.task, name)
        if label is not None:
            return label
        if name in self.others:
            return Skip(f"expression {name}")
        listed = ", ".join(f"{number} {meaning}" for number, meaning in self.numbers.items())
        names = known_words(self.task) + "".join(f", {other}" for other in self.others)
        expected = f"{listed}; or {names}" if listed else names
        raise tables.bad_value(f"unknown {self.task} class", word, where=where, expected=expected, fix=fix)

    def row(
        self,
        row_id: str,
        image: pathlib.Path | Callable[[], bytes],
        word: str | int | Skip,
        *,
        where: str,
        columns: Mapping[str, str] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Row | Skip:
        """Returns the row of an image with this word, number or label, or why it is omitted; see `label`."""
        label = self.label(word, where=where) if isinstance(word, str) else word
        if isinstance(label, Skip):
            return label
        return Row(
            id=row_id, image=image, labels={self.task: label}, columns=columns or {}, box=box, where=where
        )

    def known(self, names: Collection[str]) -> bool:
        """Returns whether one of the names of folders is a class, or all numbers of classes are there.

        Fewer numbers may count something else.
        """
        numbers = {number for number, name in self.numbers.items() if class_of(self.task, name) is not None}
        return any(class_of(self.task, name) is not None for name in names) or (
            bool(numbers) and numbers <= set(names)
        )

    def layouts(self, shown: str) -> tuple[Layout, ...]:
        """Returns the two layouts, `shown` being the names of the folders: {0..7} or {angry,...}."""

        def unsplit(folder: pathlib.Path) -> bool:
            return self.known([inner.name for inner in locate.subfolders(folder)])

        # Many sets have such folders.
        return (
            Layout(SPLIT, f"{{train,val,test}}/{shown}/", locate.in_splits(self.known), distinct=False),
            Layout(UNSPLIT, f"{shown}/", unsplit, distinct=False),
        )

    def rows(self, folder: pathlib.Path, *, root: pathlib.Path) -> Iterator[Row | Skip]:
        """Yields the images in the class folders of a folder, at any depth; other files are omitted by name.

        Ids are paths from `root`.
        """
        for inner in locate.subfolders(folder):
            label = self.label(inner.name, where=str(inner), fix=_FIX)
            for found in listing.walk(inner):
                path = pathlib.Path(found.path)
                name = path.relative_to(root).as_posix()
                if found.kind != "image":
                    yield Skip(found.reason or "a video", listing.shown(name))
                elif isinstance(label, Skip):
                    yield label
                else:
                    yield Row(id=name, image=path, labels={self.task: label})

    def _name(self, word: str) -> str:
        name = self.numbers.get(word, word).strip().lower().replace(" ", "-").replace("_", "-")
        return _SYNONYMS.get(name, name)


def emotions(numbers: str = "", *, first: int = 0) -> Vocabulary:
    """Returns the vocabulary of a set of emotions whose numbers count these names, from `first`."""
    numbered = {str(number): name for number, name in enumerate(numbers.split(), first)}
    others = ("contempt", "none", "uncertain", "no-face", "unknown", "nf")
    return Vocabulary("emotion", numbered, others)


class ClassFolders(FaceBuilder):
    """A published set of which copies have a folder per class.

    A subclass sets the vocabulary and adds the layouts, splits and rows of its other copies.
    """

    VOCABULARY: ClassVar[Vocabulary]

    def splits(self) -> tuple[str, ...]:
        return tuple(self._checked_folders)

    @functools.cached_property
    def _checked_folders(self) -> Mapping[str, pathlib.Path]:
        folders = self.split_folders()
        numbered.check(self.name, folders.values())  # reads images: once, though TFDS asks again and again
        return folders

    def rows(self, split: str) -> Iterator[Outcome]:
        yield from self.VOCABULARY.rows(self.split_folders()[split], root=self.place.root)

    def protocol(self) -> dict[str, str]:
        return {"layout": self.place.layout.name}

    def split_folders(self) -> dict[str, pathlib.Path]:
        """Returns split -> its folder; without splits the whole is one, called as the folder or train."""
        root = self.place.root
        if self.place.layout.name != UNSPLIT:
            return locate.split_folders(root)
        return {locate.split_of(root.name) or "train": root}
