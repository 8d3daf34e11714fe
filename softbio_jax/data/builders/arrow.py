"""Parquet files, read in pieces: labels as text, and images in the forms in which tables hold them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from softbio_jax.data import listing
from softbio_jax.data.prepare.rows import Rejection
from softbio_jax.errors import UserError

_TEXTS, _IMAGES = 4096, 16  # rows that are in memory at a time
_BUFFER = 1 << 20  # bytes that are read at a time
_DAMAGED = "copy or download it again"


class ParquetFile:
    """A Parquet file.

    Args:
      path: the file.

    Raises:
      UserError: pyarrow is not installed, or the file is no Parquet file, also while it is read.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        parquet = pyarrow("parquet")
        with self._damaged():
            self._file = parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
            self._schema = self._file.schema_arrow

    @functools.cached_property
    def columns(self) -> dict[str, Any]:
        """Name -> type of every column, and of the fields of structs as `column.field`."""
        types = pyarrow("types")
        found: dict[str, Any] = {}
        fields = [(field.name, field.type) for field in self._schema]
        while fields:
            name, kind = fields.pop(0)
            found[name] = kind
            if types.is_struct(kind):
                fields += [(f"{name}.{inner.name}", inner.type) for inner in kind]
        return found

    @functools.cached_property
    def class_names(self) -> dict[str, list[str]]:
        """Column -> the names of its classes, where the file has Hugging Face's description of them."""
        about = (self._schema.metadata or {}).get(b"huggingface", b"{}")
        with contextlib.suppress(ValueError, AttributeError):
            features = json.loads(about).get("info", {}).get("features", {})
            return dict(_named_classes(features))
        return {}

    @functools.cached_property
    def image_columns(self) -> list[str]:
        """The columns of encoded images: structs with bytes, binary columns, lists of bytes."""
        found = [name for name, kind in self.columns.items() if _holds_images(kind)]
        outer = [name for name in found if name.rpartition(".")[0] not in found]
        return [name for name in outer if not _is_binary(self.columns[name]) or self._starts_with_image(name)]

    def path_column(self, image: str) -> str:
        """Returns the column of the paths that belong to a column of images; empty without one."""
        outer = image.removesuffix(".bytes")
        return f"{outer}.path" if f"{outer}.path" in self.columns else ""

    def require(self, columns: Sequence[str]) -> None:
        """Raises UserError unless the file has these columns, each once."""
        top = [field.name for field in self._schema]
        for name in columns:
            if name not in self.columns:
                expected, found = name, ", ".join(top)
                what, fix = "a column is missing", "correct its name in --columns"
                raise UserError(what, where=str(self.path), expected=expected, found=found, fix=fix)
            if top.count(name) > 1:
                what, fix = f"the column {name!r} is ambiguous", "write the table with one of them"
                raise UserError(what, where=str(self.path), found=f"{top.count(name)} of this name", fix=fix)

    def texts(self, columns: Sequence[str], *, group: int | None = None) -> Iterator[tuple[str, ...]]:
        """Yields the texts of these columns row by row: empty for null, the name of a class for its number.

        Args:
          columns: the columns.
          group: the row group; None for all.
        """
        for batch in self._batches(columns, _TEXTS, group):
            parts = [self._column_texts(name, _column(batch, name).to_pylist()) for name in columns]
            yield from zip(*parts, strict=True) if parts else [()] * batch.num_rows

    def images(self, column: str, *, group: int) -> Iterator[bytes | str | Rejection]:
        """Yields the images of a row group: encoded, as a path, or why there is none."""
        for batch in self._batches([column], _IMAGES, group):
            yield from map(_image, _column(batch, column).to_pylist())

    def has_nulls(self, column: str, *, group: int) -> bool:
        """Returns whether a row group may lack some image of a column."""
        names = {column, f"{column}.bytes"}
        row_group = self._file.metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            if chunk.path_in_schema in names:
                statistics = chunk.statistics
                return statistics is None or not statistics.has_null_count or statistics.null_count > 0
        return True

    def _starts_with_image(self, column: str) -> bool:
        """Returns whether the first value of a binary column, which may hold text, is an image."""
        values = (
            value
            for batch in self._batches([column], 1, None)
            for value in _column(batch, column).to_pylist()
        )
        first = next((value for value in values if value), None)
        return first is None or listing.starts_like_image(first[:32])

    @property
    def num_groups(self) -> int:
        return self._file.metadata.num_row_groups

    def rows_of(self, group: int) -> int:
        """Returns the number of rows of a row group."""
        return self._file.metadata.row_group(group).num_rows

    def _batches(self, columns: Sequence[str], size: int, group: int | None) -> Iterator[Any]:
        groups = None if group is None else [group]
        with self._damaged():
            yield from self._file.iter_batches(batch_size=size, columns=list(columns), row_groups=groups)

    def _column_texts(self, column: str, values: list[Any]) -> list[str]:
        names = self.class_names.get(column)
        return [_text(value) if names is None else self._class_name(column, names, value) for value in values]

    def _class_name(self, column: str, names: list[str], value: Any) -> str:
        if value is None or value == -1:
            return ""
        if isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        expected, fix = f"0 to {len(names) - 1}", _DAMAGED
        what = f"no class of the column {column!r}"
        raise UserError(what, where=str(self.path), expected=expected, found=repr(value), fix=fix)

    @contextlib.contextmanager
    def _damaged(self) -> Iterator[None]:
        errors = pyarrow("lib").ArrowException, OSError  # now: a generator can end with the interpreter
        try:
            yield
        except errors as error:
            found = str(error).splitlines()[0]
            raise UserError(
                "not a complete Parquet file", where=str(self.path), found=found, fix=_DAMAGED
            ) from error


def _image(value: Any) -> bytes | str | Rejection:
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
        return _image(value[0])
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, list):
        try:
            value = bytes(value)
        except (TypeError, ValueError):  # several images, or numbers that are no bytes
            return Rejection("", "not one image", expected="its bytes", fix="delete the row")
    return value or Rejection("", "no image", fix="delete the row")


def pyarrow(module: str) -> Any:
    """Returns a module of pyarrow; the extra `parquet` has it."""
    try:
        import pyarrow
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as error:
        fix = "pip install 'softbio-jax[parquet]'"
        what, where = "Parquet needs pyarrow", "the extra parquet"
        raise UserError(what, where=where, found=str(error), fix=fix) from error
    return getattr(pyarrow, module)


def _holds_images(kind: Any) -> bool:
    types = pyarrow("types")
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_type
        return types.is_uint8(inner) or _is_binary(inner) or (types.is_struct(inner) and _holds_images(inner))
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    types = pyarrow("types")
    return types.is_binary(kind) or types.is_large_binary(kind)


def _named_classes(features: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    for name, feature in features.items():
        if not isinstance(feature, dict):
            continue
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and names:
            numbered = isinstance(names, dict)
            ordered = [names[key] for key in sorted(names, key=int)] if numbered else names
            yield f"{prefix}{name}", list(map(str, ordered))
        elif "_type" not in feature:
            yield from _named_classes(feature, f"{prefix}{name}.")


def _column(batch: Any, name: str) -> Any:
    """Returns a column of a batch, or a field of a struct, null where the struct is."""
    if name in batch.schema.names:
        return batch.column(name)
    parts = name.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    head = next(head for head in heads if head in batch.schema.names)
    import pyarrow.compute

    return pyarrow.compute.struct_field(batch.column(head), name[len(head) + 1 :].split("."))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    return str(value).strip()


def some(file: ParquetFile, column: str, count: int) -> list[str]:
    """Returns the first texts of a column, or the names of its classes."""
    if column in file.class_names:
        return file.class_names[column]
    return [text for (text,) in itertools.islice(file.texts([column]), count)]
