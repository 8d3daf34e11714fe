"""Tables of labelled images as text: CSV, TSV, JSON lines, and folders of images with such a table."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from softbio_jax import files
from softbio_jax.data.builders.columns import looks_labelled, splits_of
from softbio_jax.data.builders.json_rows import SUFFIXES as JSON
from softbio_jax.data.builders.json_rows import read_json
from softbio_jax.data.builders.tabular import Files, Tabular, Tally
from softbio_jax.data.prepare import locate, tables
from softbio_jax.data.prepare.base import BUILDERS
from softbio_jax.data.prepare.layouts import Proposal
from softbio_jax.data.prepare.rows import Outcome
from softbio_jax.errors import UserError

_DEFAULT_SPLIT = "train"
_TEXT = (".csv", ".tsv")
_METADATA = "metadata"  # the name of the table in a folder of images
_SAMPLES = 1000


@BUILDERS.register("csv")
class CsvTable(Tabular):
    """Reads a table with a header, or one for each split.

    Values are separated by commas, semicolons, tabs or bars; JSON has an object per row. Each may be
    compressed by gzip. Without a split column, all rows of a table are the split that its name says
    (test_labels.csv), or "train"; of several tables, the folder's name counts too (test/labels.csv).

    Args:
      source: the table, several with commas between them, or a folder with `metadata.csv` or other
        tables in it or in its folders train/, val/ and test/. In a folder with `metadata.csv` alone, the
        first folder of the paths is the split if it is such a folder for all of them.
      columns: role -> column; see `columns.resolve`.
      values: "{task}:{word in the table}" -> class, for words that the vocabulary lacks; an empty
        class leaves the rows of that word out.
      images: the folder that the paths start at; by default the folder of each table.
      **kwargs: see Tabular and FaceBuilder.
    """

    name = "csv"

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
        self._tables = tables_by_split(source)
        first = next(iter(self._tables.values()))
        # Which column has which role is decided once: the other tables must have the same columns.
        beginning = list(itertools.islice(_rows(first, tuple((columns or {}).values())), _SAMPLES))
        header = list(dict.fromkeys(name for _, row in beginning for name in row))
        if not header:
            what, fix = "a table without rows", "check --source, or remove the table"
            raise UserError(what, where=str(first), expected="a header and a row per image", fix=fix)
        super().__init__(
            columns=columns,
            values=values,
            header=header,
            samples=lambda column: [row.get(column, "") for _, row in beginning],
            table=str(first),
            source=source,
            **kwargs,
        )
        self._by_folder = self._splits_in_paths()

    @classmethod
    def recognise(cls, folder: pathlib.Path) -> Iterator[Proposal]:
        try:
            found = tables_by_split(str(folder))
            header = next((list(row) for _, row in _rows(next(iter(found.values())), ())), [])
        except UserError:
            return
        if looks_labelled(header):
            shown = " and ".join(path.relative_to(folder).as_posix() for path in found.values())
            yield Proposal(f"images with {shown}", str(folder))

    def splits(self) -> tuple[str, ...]:
        for table in self._tables.values():
            tables.require_folder(self.images or table.parent)
        if self._by_folder:
            return tuple(sorted(set(self._by_folder.values())))
        column = self.columns.get("split")
        if column is None:
            return tuple(self._tables)
        found = {row[column] for split in self._tables for _, row in self._read(split)}
        return splits_of(found, where=f"{self.source} column {column!r}")

    def rows(self, split: str) -> Iterator[Outcome]:
        for table, path in self._tables.items():
            if "split" in self.columns or self._by_folder or table == split:
                yield from self._table_rows(table, split, root=self.images or path.parent)

    def _table_rows(self, table: str, split: str, *, root: pathlib.Path) -> Iterator[Outcome]:
        # Names in tables of different folders may be equal; their ids must not be.
        common = os.path.commonpath([path.parent.absolute() for path in self._tables.values()])
        inner = "." if self.images else os.path.relpath(root, common)
        prefix = "" if inner == "." else f"{inner}/"
        tally, images = Tally(), Files(root)
        for where, row in self._read(table):
            if split != self._split_of(row, table):
                continue
            name, path = images.find(row[self.columns["path"]], where=where)
            texts = {role: row[column] for role, column in self.columns.items()}
            yield self.outcome(texts, row_id=prefix + name, image=path, where=where, tally=tally)
        self.check_all(tally, str(self._tables[table]))

    def _split_of(self, row: Mapping[str, str], table: str) -> str:
        if "split" in self.columns:
            return row[self.columns["split"]]
        return self._by_folder.get(_first(row[self.columns["path"]]), "") if self._by_folder else table

    def _splits_in_paths(self) -> dict[str, str]:
        """Returns folder -> split where one table's paths all start with the folders of splits."""
        source = pathlib.Path(self.source)
        if not source.is_dir() or len(self._tables) > 1 or self.images or "split" in self.columns:
            return {}
        (table,) = self._tables
        inner = locate.split_folders(self._tables[table].parent)
        folders = {path.name: split for split, path in inner.items()}
        names = {_first(row[self.columns["path"]]) for _, row in self._read(table)}
        return {name: folders[name] for name in names} if names and names <= folders.keys() else {}

    def _read(self, table: str) -> Iterator[tuple[str, dict[str, str]]]:
        return _rows(self._tables[table], tuple(self.columns.values()))


def tables_by_split(source: str) -> dict[str, pathlib.Path]:
    """Returns split -> table: of a file, of several with commas between them, or of a folder.

    Raises:
      UserError: no table in the folder, or two of one split.
    """
    if pathlib.Path(source).is_dir():
        return _in_folder(pathlib.Path(source))
    names = source.split(",")
    if len(names) == 1 or pathlib.Path(source).exists():
        path = pathlib.Path(source)
        return {_split_in(path.name) or _DEFAULT_SPLIT: path}
    return _named([pathlib.Path(files.home(name)) for name in names])


def _in_folder(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    if found := _texts(folder):
        own = [path for path in found if _stem(path) == _METADATA] or found
        if len(own) == 1:
            return {_split_in(own[0].name) or _DEFAULT_SPLIT: own[0]}
        if all(_split_in(path.name) for path in own):
            return _named(own)
        named = ",".join(map(str, own[:2]))
        fix = f"name those to read: --source={own[0]}, or --source={named} with a table per split"
        raise UserError("several tables", where=str(folder), found=locate.lying(folder), fix=fix)
    inner = {split: _texts(path) for split, path in locate.split_folders(folder).items()}
    for split, paths in inner.items():
        own = [path for path in paths if _stem(path) == _METADATA]
        inner[split] = own if len(own) == 1 else paths
    if not any(inner.values()) or any(len(paths) > 1 for paths in inner.values()):
        raise tables.MissingSource(
            "no table of labels",
            where=str(folder),
            expected="metadata.csv, or another table here or in each of train/, val/ and test/",
            fix="give the table itself as --source",
        )
    return {split: paths[0] for split, paths in inner.items() if paths}


def _named(paths: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns split -> table by the names of the files, or of their folders."""
    found: dict[str, pathlib.Path] = {}
    for path in paths:
        folder = path.parent.name if path.parent.name.lower() in locate.SPLIT_OF else ""
        split = _split_in(path.name) or _split_in(folder) or re.sub(r"\W+", "_", _stem(path))
        if split in found:
            what, fix = f"two tables of the split {split!r}", "join them, or rename one"
            raise UserError(what, where="--source", found=f"{found[split]} and {path}", fix=fix)
        found[split] = path
    return found


def _split_in(name: str) -> str:
    """Returns the split whose word is in a name, such as gt_avg_valid.csv; empty for none or two."""
    words = re.split("[^a-z]+", name.lower())
    known = {locate.SPLIT_OF[word] for word in words if word in locate.SPLIT_OF}
    return known.pop() if len(known) == 1 else ""


def _texts(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and path.is_file()
        and pathlib.Path(path.name.lower().removesuffix(".gz")).suffix in (*_TEXT, *JSON)
    )


def _rows(path: pathlib.Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    is_json = pathlib.Path(path.name.lower().removesuffix(".gz")).suffix in JSON
    return read_json(path, columns=columns) if is_json else tables.read_csv(path, columns=columns)


def _stem(path: pathlib.Path) -> str:
    return path.name.partition(".")[0]


def _first(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./").partition("/")[0]
