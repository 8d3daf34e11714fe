"""Tables as JSON: an object in each line, or one list of objects."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from softbio_jax.data.prepare import tables
from softbio_jax.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json")


def read_json(path: pathlib.Path, *, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a table row by row, as `tables.read_csv` does.

    Inner objects become columns such as `image.path`; a key that a row lacks, and null, are empty.

    Args:
      path: a UTF-8 file, also compressed by gzip.
      columns: keys that some row has.

    Raises:
      UserError: no such file, not JSON, a key that no row has, or one that is in an object twice.
    """
    missing = set(columns)
    for where, row in _objects(path):
        missing -= row.keys()
        yield where, {name: "" for name in columns} | row
    if missing:
        name = min(missing)
        fix = f"correct the name of {name!r} in --columns"
        raise UserError("a column is missing", where=str(path), expected=name, found="none", fix=fix)


def _objects(path: pathlib.Path) -> Iterator[tuple[str, dict[str, str]]]:
    with tables.open_text(path) as file:
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        file.seek(0)
        if first == "[":
            for number, value in enumerate(_parsed(file.read(), where=str(path)), 1):
                yield _row(value, where=f"{path} object {number}")
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path} line {number}"
                yield _row(_parsed(line, where=where), where=where)


def _parsed(text: str, *, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            fix = "delete one of them, or give it another name"
            raise UserError(f"the key {twice!r} is ambiguous", where=where, found="it twice", fix=fix)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        expected, fix = "an object per line, or a list of objects", "correct the line"
        raise UserError("not JSON", where=where, expected=expected, found=str(error), fix=fix) from error


def _row(value: Any, *, where: str) -> tuple[str, dict[str, str]]:
    if not isinstance(value, dict):
        expected, fix = "an object with a key per column", "correct the row"
        raise UserError("not a row", where=where, expected=expected, found=f"{value!r:.60}", fix=fix)
    return where, dict(_flat(value))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.")
        elif inner is None:
            yield f"{prefix}{name}", ""
        else:
            yield f"{prefix}{name}", inner.strip() if isinstance(inner, str) else str(inner)
