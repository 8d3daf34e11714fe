"""Parquet files of labelled images, such as the copies of data sets on Hugging Face."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from softbio_jax import files
from softbio_jax.data import listing
from softbio_jax.data.builders import arrow
from softbio_jax.data.builders.arrow import ParquetFile
from softbio_jax.data.builders.columns import splits_of
from softbio_jax.data.builders.tabular import Files, Tabular, Tally
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.layouts import Proposal
from softbio_jax.data.prepare.rows import Outcome, Rejection
from softbio_jax.data.prepare.survey import SplitSurvey
from softbio_jax.errors import UserError

_SUFFIXES = (".parquet", ".parq", ".pq")
_NUMBERED = re.compile(r"(.+?)-(\d{5})-of-(\d{5})(?:-.*)?")  # train-00000-of-00003
_DEPTH, _MOST = 4, 500  # folders in each other, and all that are looked into
_SAMPLES = 1000  # words of a column
_SIZED = 64  # images of a file whose sizes a survey looks at


@BUILDERS.register("parquet")
class Parquet(Tabular):
    """Reads a Parquet file, several with commas between them, or all in a folder.

    The split of a file is in its name (`train-00000-of-00003.parquet`) or its folder's, otherwise
    "train". Images are structs of bytes and path, binary columns, lists of bytes or paths. Numbers are
    classes only by the names that the file has for them, or by `values`. The id of an image is its
    path where all paths of a split are different, otherwise `file#row`.

    Args:
      source: the file, files or folder.
      columns: role -> column; a field of a struct is `column.field`. See `columns.resolve`.
      values: "{task}:{word in the table}" -> class, for words that the vocabulary lacks; an empty
        class leaves the rows of that word out.
      images: the folder that paths start at; by default the folder of each file.
      **kwargs: see Tabular and FaceBuilder.
    """

    name = "parquet"

    def __init__(
        self,
        *,
        source: str,
        columns: Mapping[str, str] | None = None,
        values: Mapping[str, str] | None = None,
        images: str | None = None,
        **kwargs: Any,
    ):
        self.images = pathlib.Path(images) if images else None
        self._shards = _shards(source)
        self._reads_images = True
        first = ParquetFile(next(iter(self._shards.values()))[0])
        first.require(tuple((columns or {}).values()))
        holding = first.image_columns
        super().__init__(
            columns=columns,
            values=values,
            header=[name for name in first.columns if name.rpartition(".")[0] not in holding],
            samples=lambda column: arrow.some(first, column, _SAMPLES),
            table=str(first.path),
            images=holding[0] if len(holding) == 1 else "",
            source=source,
            **kwargs,
        )
        for task in self.TASKS:
            self._check_names(first, task, values or {})

    @classmethod
    def recognise(cls, folder: pathlib.Path) -> Iterator[Proposal]:
        try:
            found = _shards(str(folder))
        except UserError:
            return
        yield Proposal(f"Parquet files of {' and '.join(found)}", str(folder))

    def splits(self) -> tuple[str, ...]:
        column = self.columns.get("split")
        if column is None:
            return tuple(self._shards)
        paths = [path for paths in self._shards.values() for path in paths]
        words = {word for path in paths for (word,) in ParquetFile(path).texts([column])}
        return splits_of(words, where=f"{self.source} column {column!r}")

    def survey(self, split: str, *, files: bool = False) -> SplitSurvey:
        self._reads_images = False
        try:
            return super().survey(split, files=files)
        finally:
            self._reads_images = True

    def rows(self, split: str) -> Iterator[Outcome]:
        tally = Tally()
        for name, paths in self._shards.items():
            if name == split or "split" in self.columns:
                for path in paths:
                    yield from self._file_rows(path, split, tally, by_path=self._has_own_paths(name))
                self.check_all(tally, str(paths[0]))

    def _file_rows(self, path: pathlib.Path, split: str, tally: Tally, *, by_path: bool) -> Iterator[Outcome]:
        file, image = ParquetFile(path), self.columns["path"]
        roles = [role for role in self.columns if role != "path"]
        columns, paths = [self.columns[role] for role in roles], file.path_column(image)
        file.require((image, *columns))
        shard = path.relative_to(self.source).as_posix() if self.source.is_dir() else path.name
        numbers, images = itertools.count(), Files(self.images or path.parent)
        for group in range(file.num_groups):
            texts = file.texts([*columns, *([paths] if paths else [])], group=group)
            for row, value in zip(texts, self._images(file, image, group), strict=False):
                where = f"{path} row {(number := next(numbers)) + 1}"
                named = dict(zip(roles, row, strict=False))
                if "split" in self.columns and named["split"] != split:
                    continue
                row_id = row[-1] if by_path and paths else f"{shard}#{number}"
                if isinstance(value, str):
                    row_id, value = images.find(value, where=where)
                if isinstance(value, Rejection):
                    yield dataclasses.replace(value, path=row_id, where=where)
                    continue
                yield self.outcome(named, row_id=row_id, image=value, where=where, tally=tally)

    def _images(self, file: ParquetFile, column: str, group: int) -> Iterator[Any]:
        """Yields the bytes, path or rejection of every image of a group; a function for those not read."""
        has_bytes = column in file.image_columns or column.endswith(".bytes")
        found = file.images(column, group=group)
        if self._reads_images or not has_bytes or file.has_nulls(column, group=group):
            return found
        return itertools.chain(itertools.islice(found, 0 if group else _SIZED), itertools.repeat(_unread))

    @functools.cache  # noqa: B019 (a builder lives as long as its process)
    def _has_own_paths(self, split: str) -> bool:
        """Returns whether the images of a split's files have paths that are all different."""
        seen: set[int] = set()
        for path in self._shards[split]:
            file = ParquetFile(path)
            paths = file.path_column(self.columns["path"])
            if not paths:
                return False
            for (name,) in file.texts([paths]):
                if not name or hash(name) in seen:
                    return False
                seen.add(hash(name))
        return True

    def _check_names(self, file: ParquetFile, task: str, values: Mapping[str, str]) -> None:
        """Raises UserError for a class without a label, before a row is read, and for words of no class."""
        names = file.class_names.get(self.columns[task], [])
        for name in names:
            where = f"{file.path} column {self.columns[task]!r}"
            if not self.labels.knows(task, name):
                raise self.labels.unknown(task, name, where=where)
        known = {name.lower() for name in names}
        for key in values:
            word = key.partition(":")[2]
            if known and key.startswith(f"{task}:") and word.lower() not in known:
                expected, fix = ", ".join(names), "name the class by its word"
                what = "the file has names for its classes"
                raise UserError(what, where=f"--values={key}", expected=expected, found=repr(word), fix=fix)


def _unread() -> bytes:
    raise AssertionError("a survey reads no image")


def _shards(source: str) -> dict[str, list[pathlib.Path]]:
    """Returns split -> its files in order.

    Raises:
      UserError: no file, one of several is missing, or two versions of the data.
    """
    root = pathlib.Path(source)
    if root.is_dir():
        paths = list(_below(root))
    else:
        paths = [
            pathlib.Path(files.home(name)) for name in ([source] if root.exists() else source.split(","))
        ]
    for path in paths:
        if not path.is_file():
            raise tables.MissingSource("no such file", where=str(path), fix="check --source")
    if not paths:
        expected, fix = "a file such as train-00000-of-00001.parquet", "check --source"
        raise tables.MissingSource("no Parquet file", where=source, expected=expected, fix=fix)
    found: dict[str, dict[str, list[pathlib.Path]]] = collections.defaultdict(dict)
    for path in sorted(paths):
        version, split = _place(path, root)
        found[version].setdefault(split, []).append(path)
    if len(found) > 1:
        shown = " and ".join(f"{version or '.'}/" for version in sorted(found)[:3])
        fix = f"give one of them: --source={root / max(found)}"
        raise UserError("several versions of the data", where=source, found=shown, fix=fix)
    (splits,) = found.values()
    for shards in splits.values():
        _require_all(shards)
    return splits


def _below(root: pathlib.Path) -> Iterator[pathlib.Path]:
    folders, looked = [(root, 0)], 0
    while folders and looked < _MOST:
        folder, depth = folders.pop(0)
        looked += 1
        for path in sorted(folder.iterdir()):
            if listing.is_hidden(path.name):
                continue
            if path.suffix.lower() in _SUFFIXES:
                yield path
            elif depth < _DEPTH and path.is_dir():
                folders.append((path, depth + 1))


def _place(path: pathlib.Path, root: pathlib.Path) -> tuple[str, str]:
    """Returns the version of the data and the split that a file belongs to."""
    parents = list(path.relative_to(root).parts[:-1]) if root.is_dir() else []
    version = "/".join(name for name in parents if name.lower() not in (*locate.SPLIT_OF, "data", "default"))
    match = _NUMBERED.fullmatch(path.stem)
    words = [match[1]] if match else re.split("[^A-Za-z]+", path.stem)
    known = [
        locate.SPLIT_OF[word.lower()]
        for word in (*words, *reversed(parents))
        if word.lower() in locate.SPLIT_OF
    ]
    split = known[0] if known else match[1] if match else "train"
    return version, re.sub(r"\W+", "_", split)


def _require_all(paths: list[pathlib.Path]) -> None:
    for path in paths:
        if match := _NUMBERED.fullmatch(path.stem):
            total = int(match[3])
            if len(paths) != total:
                what, expected = "some of the files are missing", f"{total} like {path.name}"
                fix = "download the others, or check --source"
                raise UserError(
                    what, where=str(path.parent), expected=expected, found=str(len(paths)), fix=fix
                )
