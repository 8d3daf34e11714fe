"""A folder per class: `{split}/{class}/image`, at any depth below the class, for one task."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from softbio_jax.data import listing
from softbio_jax.data.labels import class_of, known_words, require_class
from softbio_jax.data.prepare import tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip
from softbio_jax.errors import UserError, nearest
from softbio_jax.tasks import TASKS


@BUILDERS.register("folder")
class Folder(FaceBuilder):
    """Reads images sorted into one folder per class, the class folders into one folder per split.

    Args:
      task: the task that the folder names are classes of.
      **kwargs: see FaceBuilder.
    """

    name = "folder"
    OWN_IMAGES = True

    def __init__(self, *, task: str, **kwargs: Any) -> None:
        if task not in TASKS:
            fix = nearest(task, TASKS, otherwise="take one of them")
            raise tables.bad_value("unknown task", task, where="--task", expected=", ".join(TASKS), fix=fix)
        self.task = task
        self.TASKS = (task,)
        super().__init__(**kwargs)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        names = [path.name for path in _folders(self.source)]
        if not names:
            raise UserError(
                "no splits",
                where=str(self.source),
                expected="folders such as train/happy and test/happy",
                found="no folder",
                fix="sort the images into such folders, or name a table with --dataset=csv",
            )
        if all(class_of(self.task, name) is not None for name in names):
            raise UserError(
                "the folder of one split was given",
                where=str(self.source),
                expected="{split}/{class}/image",
                found="{class}/image",
                fix="put the class folders into a folder train/ (and test/) and give its parent",
            )
        for name in names:
            self._classes(name)
        return tuple(names)

    def protocol(self) -> dict[str, str]:
        return {"task": self.task}

    def rows(self, split: str) -> Iterator[Outcome]:
        for folder, label in self._classes(split):
            inner = self.source / split / folder
            others: list[Outcome] = []
            for found in listing.walk(inner):
                path = pathlib.Path(found.path)
                name = path.relative_to(self.source).as_posix()
                if found.kind == "image":
                    yield Row(id=name, image=path, labels={self.task: label})
                else:
                    others.append(_other(listing.shown(name), path.suffix, found))
            yield from others
        for path in sorted((self.source / split).iterdir()):
            if not path.is_dir() or listing.is_hidden(path.name):
                name = listing.shown(path.relative_to(self.source).as_posix())
                reason = "hidden" if listing.is_hidden(path.name) else "not in the folder of a class"
                yield Skip(reason, name)

    def _classes(self, split: str) -> list[tuple[str, int]]:
        fix = "rename the folder to one of them, or move it away"
        classes = [
            (path.name, require_class(self.task, path.name, where=str(path), fix=fix))
            for path in _folders(self.source / split)
        ]
        if not classes:
            where, expected = str(self.source / split), known_words(self.task)
            fix = "make a folder for each class in it, or move it away"
            raise UserError("no classes", where=where, expected=expected, found="no folder", fix=fix)
        return classes


def _other(name: str, suffix: str, found: listing.Listed) -> Rejection | Skip:
    if suffix.lower() not in tables.FOREIGN_SUFFIXES or found.reason not in ("", listing.UNKNOWN):
        return Skip(found.reason or "a video", name)
    return Rejection(
        name,
        "not a supported image format",
        expected=" ".join(tables.IMAGE_SUFFIXES),
        found=suffix,
        fix="convert it (a video: extract frames) or move it away",
    )


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(inner for inner in path.iterdir() if inner.is_dir() and not listing.is_hidden(inner.name))
