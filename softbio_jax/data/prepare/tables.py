"""Label tables and the files they name, read with errors that point at the row."""

import collections
import contextlib
import csv
import gzip
import itertools
import pathlib
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TextIO, TypeVar

from softbio_jax.errors import UserError
from softbio_jax.escaping import uncell

T = TypeVar("T")

_MOST_PIXELS = 1_000_000  # of a side; a box beyond is a mistake
_AS_CSV = "export it as CSV, with the images as files"
_FORMATS = {  # the first bytes -> what it is, and the fix
    b"PAR1": ("a Parquet file", "pass --dataset=parquet for a table of your own"),
    b"PK\x03\x04": ("a spreadsheet or archive", _AS_CSV),
    b"SQLi": ("a database", _AS_CSV),
}
_GZIP = b"\x1f\x8b"
_DELIMITERS = ",;\t|"

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Mistaken for readable images: videos, and formats that need other decoders.
FOREIGN_SUFFIXES = (
    *(".gif", ".heic", ".heif", ".avif", ".svg", ".pdf"),
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
)


class MissingSource(UserError):
    """A file or folder that the layout of a data set needs and the source lacks; see `layouts.explain`."""

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", fix: str = ""):
        super().__init__(what, where=where, expected=expected, found=found, fix=fix)
        self.what, self.where, self.expected, self.found, self.fix = what, where, expected, found, fix


def bad_value(what: str, value: str, *, where: str, expected: str, fix: str = "correct the row") -> UserError:
    """Returns the error of a value in a label file or a flag."""
    return UserError(what, where=where, expected=expected, found=repr(value), fix=fix)


def require_folder(path: pathlib.Path, *, what: str = "no such folder", fix: str = "check --source") -> None:
    """Raises UserError, which says `what` is wrong and its `fix`, unless `path` is a folder."""
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise MissingSource(what, where=str(path), expected="a folder", found=found, fix=fix)


def require_choice(value: str, choices: Collection[str], *, what: str, where: str) -> None:
    """Raises UserError, which says `what` is wrong with the flag `where`, for an unknown value."""
    if value not in choices:
        raise bad_value(what, value, where=where, expected=" or ".join(choices), fix="take one of them")


def existing_splits(
    paths: Mapping[str, pathlib.Path], *, source: pathlib.Path, what: str, expected: str
) -> tuple[str, ...]:
    """Returns the splits whose label file or folder exists; raises UserError if none of them does."""
    require_folder(source)
    found = tuple(split for split, path in paths.items() if path.exists())
    if not found:
        raise MissingSource(what, where=str(source), expected=expected, fix="check --source")
    return found


def read_csv(
    path: pathlib.Path, *, columns: Sequence[str], delimiter: str = "", free: str = ""
) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a table with a header row by row, without the spaces around names and values.

    An apostrophe before a formula, as our own tables have it, is taken away.

    Args:
      path: a UTF-8 text file, with or without a byte order mark, also compressed by gzip.
      columns: the required columns.
      delimiter: separates two values; without one, the comma, semicolon, tab or bar that separates
        these columns in the header.
      free: a column whose values may contain the delimiter without quotes.

    Yields:
      (the file and row number, as error messages quote them; column -> value).

    Raises:
      UserError: no such file, not UTF-8, a column that is missing or there twice, a row with too few or too
        many values; empty ones at its end do not count, and those below a header without a name do.
    """
    delimiter = delimiter or _delimiter(path, columns)
    rows = _csv_rows(path, delimiter)
    start, header = next(rows, (f"{path} row 1", []))
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            "a column is missing",
            where=start,
            expected=", ".join(columns),
            found=", ".join(header) or "an empty file",
            fix=f"add or rename the column {missing[0]!r}",
        )
    for name in columns:
        if header.count(name) > 1:
            fix = "delete one of them, or give it another name"
            found = f"{header.count(name)} of this name"
            raise UserError(f"the column {name!r} is ambiguous", where=start, found=found, fix=fix)
    while header and not header[-1]:
        header.pop()
    for where, values in rows:
        if len(values) < len(header):
            expected, fix = f"{len(header)} values", "complete or delete the row"
            raise UserError(
                "a row is too short", where=where, expected=expected, found=str(len(values)), fix=fix
            )
        while len(values) > len(header) and not values[-1]:
            values.pop()
        if len(values) > len(header) and free:
            first, last = header.index(free), len(values) - len(header) + header.index(free) + 1
            values[first:last] = [delimiter.join(values[first:last])]
        if len(values) > len(header):
            raise _too_long(values, header, where=where, delimiter=delimiter)
        yield where, dict(zip(header, values, strict=True))


def read_drop(path: pathlib.Path, *, name: str) -> dict[str, set[str]]:
    """Reads the images of a prepared set to leave out, as split -> ids.

    Args:
      path: the table of `audit_data.py --drop`, with the columns split (NAME/SPLIT) and id.
      name: of the set; the images of others are not its.

    Raises:
      UserError: see `read_csv`, or no image of this set.
    """
    found = collections.defaultdict[str, set[str]](set)
    names = set()
    for _, values in read_csv(path, columns=("split", "id")):
        owner, _, split = values["split"].rpartition("/")
        names.add(owner)
        if owner == name:
            found[split].add(values["id"])
    if not found:
        raise UserError(
            "no image to leave out",
            where=f"--drop: {path}",
            expected=f"images of {name}, the name of --out",
            found=f"images of {', '.join(sorted(names)) or 'no set'}",
            fix="give --out the audited set's name, or omit --drop",
        )
    return dict(found)


def read_values(path: pathlib.Path, *, count: int, delimiter: str = ",") -> Iterator[tuple[str, list[str]]]:
    """Reads a table without a header, as (file and row number, `count` values).

    Raises:
      UserError: see `read_csv`, or a row with another number of values.
    """
    for where, values in _csv_rows(path, delimiter):
        if len(values) != count:
            expected, fix = f"{count} values", "correct or delete the row"
            raise UserError(
                "not a row of the table", where=where, expected=expected, found=str(len(values)), fix=fix
            )
        yield where, values


def _csv_rows(path: pathlib.Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (file and row number, stripped values), without empty rows."""
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            for values in reader:
                if any(values):
                    yield f"{path} row {reader.line_num}", [uncell(value.strip()) for value in values]
        except csv.Error as error:
            where, fix = f"{path} row {reader.line_num}", "save it as CSV again"
            raise UserError("a label file is not a table", where=where, found=str(error), fix=fix) from error


def _delimiter(path: pathlib.Path, columns: Sequence[str]) -> str:
    """Returns what separates these columns in the header, or most columns."""
    with open_text(path) as file:
        line = next((line for line in file if line.strip()), "")
    headers = {
        mark: [name.strip() for name in next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])]
        for mark in _DELIMITERS
    }
    fitting = [mark for mark, header in headers.items() if columns and set(columns) <= set(header)]
    return fitting[0] if fitting else max(_DELIMITERS, key=lambda mark: len(headers[mark]))


@contextlib.contextmanager
def open_text(path: pathlib.Path) -> Iterator[TextIO]:
    """Opens a UTF-8 text file, also one compressed by gzip.

    Raises:
      UserError: no such file, another format or encoding, or a damaged archive, also while it is read.
    """
    if not path.is_file():
        raise MissingSource("no such label file", where=str(path), fix="put it there or check --source")
    with path.open("rb") as raw:
        start = raw.read(4)
    for magic, (name, fix) in _FORMATS.items():
        if start.startswith(magic):
            what = f"{name} instead of a text table"
            raise UserError(what, where=str(path), expected="UTF-8 text with commas", fix=fix)
    zipped = start.startswith(_GZIP)
    try:
        opener: Any = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(
            "a label file has another encoding",
            where=f"{path} byte {error.start}",
            expected="UTF-8",
            found=f"byte 0x{error.object[error.start]:02x}",
            fix="save it as UTF-8" + ("" if zipped else f": iconv -f {_encoding(path)} -t utf-8 {path.name}"),
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found, fix = str(error), "copy or download it again"
        raise UserError("a damaged gzip file", where=str(path), found=found, fix=fix) from error


def read_words(path: pathlib.Path, *, count: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Reads a text file as (file and line number, words), without empty lines.

    Raises:
      UserError: no such file, or a line without exactly `count` words; a count of 0 accepts any.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            where, words = f"{path} line {number}", line.split()
            if count and words and len(words) != count:
                text, fix = line.strip()[:80], "correct or delete the line"
                raise bad_value(
                    "not a line of the list", text, where=where, expected=f"{count} words", fix=fix
                )
            if words:
                yield where, words


def inside(
    root: pathlib.Path, name: str, *, where: str, fix: str = "write the path relative to the data folder"
) -> pathlib.Path:
    """Returns the path that a label file names inside a folder; it need not exist.

    Args:
      root: the folder.
      name: a relative path; backslashes count as slashes.
      where: the file and row that hold the path.
      fix: the correction of another path.

    Raises:
      UserError: the path is absolute, empty or leaves the folder.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name[:1] in ("/", "\\") or ":" in name[:3]
    if absolute or not parts or ".." in parts:
        expected = f"a path inside {root}"
        raise bad_value("a path leaves the data folder", name, where=where, expected=expected, fix=fix)
    return root.joinpath(*parts)


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the images of a folder by name, without hidden files and files of other suffixes."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def look_up(
    table: Mapping[str, T], value: str, *, what: str, where: str, expected: str, fix: str = "correct the row"
) -> T:
    """Returns table[value]; raises UserError of these arguments for an unknown value."""
    if value not in table:
        raise bad_value(what, value, where=where, expected=expected, fix=fix)
    return table[value]


def parse_number(value: str, *, where: str, column: str) -> float:
    """Returns a value of a column as a number; raises UserError if it is not one."""
    try:
        return float(value.replace("_", "?"))  # Python reads 2_5 as 25
    except ValueError:
        what, fix = f"not a number in column {column!r}", "correct the row"
        if re.fullmatch(r"-?\d+,\d+", value):
            fix = f"write a point for the decimal comma: {value.replace(',', '.')}"
        raise bad_value(what, value, where=where, expected="", fix=fix) from None


def parse_box(
    row: dict[str, str], columns: Sequence[str], *, where: str
) -> tuple[float, float, float, float]:
    """Returns four columns of a row as numbers of pixels."""
    for name in columns:
        if not abs(parse_number(row[name], where=where, column=name)) <= _MOST_PIXELS:
            expected = f"a number up to {_MOST_PIXELS:,}"
            raise bad_value(f"not a pixel in column {name!r}", row[name], where=where, expected=expected)
    a, b, c, d = (float(row[name]) for name in columns)
    return a, b, c, d


def _too_long(values: Sequence[str], header: Sequence[str], *, where: str, delimiter: str) -> UserError:
    fix = "put quotes around a value with a comma in it, or delete the row"
    pairs = itertools.pairwise(values)
    number = next((f"{a},{b}" for a, b in pairs if a.lstrip("-").isdigit() and b.isdigit()), None)
    if delimiter == "," and number:
        fix = f"write a point for a decimal comma ({number.replace(',', '.')}), or {fix}"
    found = f"{len(values)} ({delimiter.join(values)[:80]})"
    expected = f"{len(header)} values"
    return UserError("a row is too long", where=where, expected=expected, found=found, fix=fix)


def _encoding(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
