"""A folder per class: `{split}/{class}/image` or `{class}/image`, for one task; or images without labels."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from softbio_jax.data import listing
from softbio_jax.data.builders import words
from softbio_jax.data.builders.tabular import IDENTITY, Subject
from softbio_jax.data.builders.words import AGE_VALUES, LabelReader, Read
from softbio_jax.data.labels import OLDEST, known_words
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS, FaceBuilder
from softbio_jax.data.prepare.layouts import Proposal
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip
from softbio_jax.errors import UserError, nearest
from softbio_jax.tasks import AGE, EMOTION, GENDER, MISSING, TASKS

_LISTED = 8  # names in a message
# The task whose classes a number of folders may be, which are only known to whoever numbered them.
_NUMBERED = {GENDER.num_classes: GENDER.name} | dict.fromkeys((6, 7, 8), EMOTION.name)
_MANY = 20  # numbers, more than a data set has classes


@BUILDERS.register("folder")
class Folder(FaceBuilder):
    """Reads images sorted into a folder per class, at any depth below it, and those into one per split.

    Without folders of splits, `split` divides the images.

    Args:
      task: the task that the folder names are classes of.
      values: "{task}:{folder}" -> class, for names that the vocabulary lacks; an empty class leaves
        the folder out.
      age_values: "years" reads names such as 026 as ages in years, "class" such as 20-29 as classes.
      identity: a regular expression that finds the subject in the path of an image: its group, or
        all of it.
      **kwargs: see FaceBuilder.
    """

    name = "folder"
    OWN_IMAGES = True

    def __init__(
        self,
        *,
        task: str,
        values: Mapping[str, str] | None = None,
        age_values: str = "class",
        identity: str | None = None,
        **kwargs: Any,
    ) -> None:
        if task not in TASKS:
            fix = nearest(task, TASKS, otherwise="take one of them")
            raise tables.bad_value("unknown task", task, where="--task", expected=", ".join(TASKS), fix=fix)
        self.task = task
        self.TASKS = (task,)
        tables.require_choice(age_values, AGE_VALUES, what="unknown kind of ages", where="--age_values")
        self.labels = LabelReader(self.TASKS, values=values, age_values=age_values)
        self._subject = Subject(identity)
        adds_years = task == AGE.name and age_values == "years"
        self.COLUMNS = (words.YEARS,) * adds_years + (IDENTITY,) * bool(identity)
        super().__init__(**kwargs)

    @classmethod
    def recognise(cls, folder: pathlib.Path) -> Iterator[Proposal]:
        if cls is not Folder:
            yield from super().recognise(folder)
            return
        names = [path.name for path in locate.subfolders(folder)]
        inner = [locate.subfolders(path) for path in locate.split_folders(folder).values()]
        for task in TASKS:
            reader = LabelReader((task,), values=None, age_values="class")
            if _known(reader, task, names):
                yield Proposal(f"a folder per class of {task}", str(folder), f"--task={task} --split=0.8")
            elif any(_known(reader, task, [path.name for path in paths]) for paths in inner):
                yield Proposal(f"a folder per split and class of {task}", str(folder), f"--task={task}")
        flags = f"--task={AGE.name} --age_values=years"
        if _years(names):
            yield Proposal("a folder per year of age", str(folder), f"{flags} --split=0.8")
        elif any(_years([path.name for path in paths]) for paths in inner):
            yield Proposal("a folder per split and year of age", str(folder), flags)
        for shown, paths in (("", locate.subfolders(folder)), *(("split and ", found) for found in inner)):
            numbers = [path.name for path in paths if path.name.isdecimal()]
            if len(numbers) == len(paths) in _NUMBERED:
                task = _NUMBERED[len(paths)]
                values = ",".join(f"{task}:{number}=CLASS" for number in numbers)
                flags = f"--task={task} --values={values}{'' if shown else ' --split=0.8'}"
                yield Proposal(f"a folder per {shown}number of {task}", str(folder), flags)

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        names = [path.name for path in _folders(self.source)]
        if not names:
            raise tables.MissingSource(
                "no splits",
                where=str(self.source),
                expected="folders such as train/happy and test/happy",
                fix="sort the images into such folders, or name a table with --dataset=csv",
            )
        if self._holds_classes(names):
            self._classes(self.source)
            if self.split is None:
                raise UserError(
                    "the folder of one split was given",
                    where=str(self.source),
                    expected="{split}/{class}/image",
                    found="{class}/image",
                    fix="pass --split=0.8 for a train and a test part, or give the folder of all splits",
                )
            return ("train",)
        for name in names:
            self._classes(self.source / name)
        return tuple(names)

    def protocol(self) -> dict[str, str]:
        return {"task": self.task} | self.labels.protocol() | self._subject.protocol()

    def rows(self, split: str) -> Iterator[Outcome]:
        root = self.source
        if not self._holds_classes([path.name for path in _folders(root)]):
            root /= split
        for folder, label in self._classes(root):
            others: list[Outcome] = []
            for found in listing.walk(folder):
                path = pathlib.Path(found.path)
                name = path.relative_to(self.source).as_posix()
                if found.kind == "image":
                    yield self._row(name, path, label)
                else:
                    others.append(_other(listing.shown(name), path.suffix, found))
            yield from others
        for path in sorted(root.iterdir()):
            if not path.is_dir() or listing.is_hidden(path.name):
                name = listing.shown(path.relative_to(self.source).as_posix())
                reason = "hidden" if listing.is_hidden(path.name) else "not in the folder of a class"
                yield Skip(reason, name)

    def _row(self, name: str, path: pathlib.Path, label: Read | Skip) -> Outcome:
        if isinstance(label, Skip):
            return label
        columns = self._subject.of(name)
        if isinstance(columns, Rejection):
            return columns
        if words.YEARS in self.COLUMNS:
            columns[words.YEARS] = label.years
        return Row(id=name, image=path, labels=label.labels, columns=columns)

    def _holds_classes(self, names: list[str]) -> bool:
        """Returns whether these folders of the source are classes, not splits."""
        if any(name.lower() in locate.SPLIT_OF for name in names):
            return False
        if any(self.labels.label(self.task, name) is not None for name in names):
            return True
        if any(self.labels.left_out(self.task, name) for name in names):
            return True
        return not any(_has_folders(self.source / name) for name in names)

    def _classes(self, folder: pathlib.Path) -> list[tuple[pathlib.Path, Read | Skip]]:
        classes = [(path, self._label(path)) for path in _folders(folder)]
        if not classes:
            where, expected = str(folder), known_words(self.task)
            fix = "make a folder for each class in it, or move it away"
            raise UserError("no classes", where=where, expected=expected, found="no folder", fix=fix)
        return classes

    def _label(self, folder: pathlib.Path) -> Read | Skip:
        try:
            read = self.labels.read({self.task: folder.name}, row_id=folder.name, where=str(folder))
        except UserError as error:
            others = [path.name for path in _folders(folder.parent)]
            raise _unknown(self.task, folder, others, self.labels) from error
        if isinstance(read, Rejection):
            raise UserError(
                read.reason,
                where=str(folder),
                expected=read.expected,
                found=read.found,
                fix="correct its name",
            )
        return read


@BUILDERS.register("images")
class Images(FaceBuilder):
    """Reads every image of a folder, at any depth, without labels: to learn from a teacher, or to predict."""

    name = "images"
    OWN_IMAGES = True

    def splits(self) -> tuple[str, ...]:
        tables.require_folder(self.source)
        return ("train",)

    def rows(self, split: str) -> Iterator[Outcome]:
        for found in listing.walk(self.source):
            path = pathlib.Path(found.path)
            name = path.relative_to(self.source).as_posix()
            if found.kind == "image":
                yield Row(id=name, image=path, labels={})
            else:
                yield _other(listing.shown(name), path.suffix, found)


def _unknown(task: str, folder: pathlib.Path, names: list[str], labels: LabelReader) -> UserError:
    """Returns the error of a folder that is no class, with the names that `--values` has to map."""
    unknown = [name for name in names if labels.label(task, name) is None and not labels.left_out(task, name)]
    numbers = all(name.isdecimal() for name in unknown)
    more = ",..." * (len(unknown) > _LISTED)
    fix = f"name its class with {words.value_flag(task, *unknown[:_LISTED])}{more}"
    fix += f", or leave it out with {words.value_flag(task, folder.name, name='')}"
    if numbers and task == AGE.name:
        fix = f"pass --age_values=years if the names are years, or {fix}"
    elif numbers:
        fix += "; data sets count classes in different orders: for a copy of one, pass its --dataset"
    what, found = f"unknown {task} class", repr(folder.name)
    error = tables.MissingSource if len(unknown) == len(names) else UserError  # another layout
    return error(what, where=str(folder), expected=known_words(task), found=found, fix=fix)


def _known(reader: LabelReader, task: str, names: list[str]) -> bool:
    """Returns whether some of the names are different classes of a task."""
    return len({reader.label(task, name) for name in names} - {None, MISSING}) > 1


def _years(names: list[str]) -> bool:
    """Returns whether the names can only be years: numbers up to 120, many or of three digits."""
    numbers = all(name.isdecimal() and int(name) <= OLDEST for name in names)
    return numbers and bool(names) and (len(names) > _MANY or all(len(name) == 3 for name in names))


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


def _has_folders(path: pathlib.Path) -> bool:
    with os.scandir(path) as entries:
        return any(entry.is_dir() and not listing.is_hidden(entry.name) for entry in entries)
