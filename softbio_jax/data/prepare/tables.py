"""Label tables and the files they name, read with errors that point at the row."""

import csv
import pathlib
from collections.abc import Iterator, Sequence

from softbio_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# What people take for pictures and is none that is read: films, and what needs other decoders.
FOREIGN_SUFFIXES = (
    *(".gif", ".heic", ".heif", ".avif", ".svg", ".pdf"),
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
)


def require_folder(path: pathlib.Path, *, what: str = "no such folder", fix: str = "") -> None:
    """Checks that `path` is a folder.

    Args:
      path: what is looked for.
      what: what is wrong where it is none.
      fix: what to do then.

    Raises:
      UserError: it is none.
    """
    if not path.is_dir():
        raise UserError(
            what,
            where=str(path),
            expected="a folder",
            found="a file" if path.exists() else "nothing",
            fix=fix or "check --source",
        )


def read_csv(
    path: pathlib.Path, *, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads a table with a header row by row, spaces around names and values removed.

    Args:
      path: a UTF-8 text file, with or without a byte order mark.
      columns: the columns that must be there.
      delimiter: what separates two values.

    Yields:
      (row number as an editor shows it, column -> value).

    Raises:
      UserError: no such file, not UTF-8, a missing column, a row with too few values.
    """
    _require_file(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                _require_delimiter(header, missing, where=f"{path} row 1", delimiter=delimiter)
                raise UserError(
                    "a column is missing",
                    where=f"{path} row 1",
                    expected=", ".join(columns),
                    found=", ".join(header) or "an empty file",
                    fix=f"add or rename the column {missing[0]!r}",
                )
            for values in reader:
                if not any(values):
                    continue
                if len(values) < len(header):
                    raise UserError(
                        "a row is too short",
                        where=f"{path} row {reader.line_num}",
                        expected=f"{len(header)} values",
                        found=str(len(values)),
                        fix="complete or delete the row",
                    )
                row = {name: value.strip() for name, value in zip(header, values, strict=False)}
                yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise UserError(
                "a label file has another encoding",
                where=f"{path} byte {error.start}",
                expected="UTF-8",
                found=f"byte 0x{error.object[error.start]:02x}",
                fix=f"save it as UTF-8: iconv -f {_encoding(path)} -t utf-8 {path.name}",
            ) from error
        except csv.Error as error:
            raise UserError(
                "a label file is not a table",
                where=f"{path} row {reader.line_num}",
                found=str(error),
                fix="save it as CSV again",
            ) from error


def inside(root: pathlib.Path, name: str, *, where: str) -> pathlib.Path:
    """Joins a path from a label file to its folder and refuses to leave that folder.

    Args:
      root: the folder.
      name: a relative path; backslashes count as slashes.
      where: the file and row that hold the path, for the error.

    Returns:
      The path; whether it exists is not checked.

    Raises:
      UserError: the path is absolute, empty or climbs out of the folder.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    absolute = name[:1] in ("/", "\\") or ":" in name[:3]
    if absolute or not parts or ".." in parts:
        raise UserError(
            "a path leaves the data folder",
            where=where,
            expected=f"a path inside {root}",
            found=repr(name),
            fix="write the path relative to the data folder",
        )
    return root.joinpath(*parts)


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the pictures of a folder by name, hidden files and other suffixes left out."""
    return _ending(folder, IMAGE_SUFFIXES)


def foreign_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the films and pictures of a folder that cannot be read, by name."""
    return _ending(folder, FOREIGN_SUFFIXES)


def read_values(path: pathlib.Path, *, count: int, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Reads a table without a header, `count` values a row, as (row number, values).

    Raises:
      UserError: no such file, or a row with another number of values.
    """
    _require_file(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        for values in reader:
            if len(values) != count:
                raise UserError(
                    "not a row of the table",
                    where=f"{path} row {reader.line_num}",
                    expected=f"{count} values",
                    found=str(len(values)),
                    fix="correct or delete the row",
                )
            yield reader.line_num, [value.strip() for value in values]


def read_words(path: pathlib.Path, *, count: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Reads a text file as (line number, words), empty lines left out.

    Args:
      path: the file.
      count: the number of words that every line must have; 0 accepts any.

    Raises:
      UserError: no such file, or a line with another number of words.
    """
    _require_file(path)
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if count and words and len(words) != count:
                raise UserError(
                    "not a line of the list",
                    where=f"{path} line {number}",
                    expected=f"{count} words",
                    found=repr(line.strip()[:80]),
                    fix="correct or delete the line",
                )
            if words:
                yield number, words


def parse_number(value: str, *, where: str, column: str) -> float:
    """Reads a number.

    Raises:
      UserError: something else, told with its file and row `where`.
    """
    try:
        return float(value)
    except ValueError:
        raise UserError(
            f"not a number in column {column!r}", where=where, found=repr(value), fix="correct the row"
        ) from None


def parse_box(
    row: dict[str, str], columns: Sequence[str], *, where: str
) -> tuple[float, float, float, float]:
    """Reads four numbers of a row as a box."""
    a, b, c, d = (parse_number(row[name], where=where, column=name) for name in columns)
    return a, b, c, d


def _ending(folder: pathlib.Path, suffixes: Sequence[str]) -> list[pathlib.Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _require_delimiter(header: Sequence[str], missing: Sequence[str], *, where: str, delimiter: str) -> None:
    names = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
    for other, name in names.items():
        if other == delimiter or not any(other in text for text in header):
            continue
        parts = [part.strip().strip('"') for text in header for part in text.split(other)]
        if set(missing) <= set(parts):
            raise UserError(
                f"a table separated by {name}",
                where=where,
                expected=names[delimiter],
                found=delimiter.join(header)[:80],
                fix=f"save it with {names[delimiter]} between the values",
            )


def _encoding(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "cp1252"


def _require_file(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError("no such label file", where=str(path), fix="put it there or check --source")
