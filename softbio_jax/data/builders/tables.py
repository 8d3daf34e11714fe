"""Label tables and the files they name, read with errors that point at the row."""

import csv
import pathlib
from collections.abc import Iterator, Sequence

from softbio_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def require_folder(path: pathlib.Path, *, what: str = "no such folder", fix: str = "") -> None:
    """Stops with one line unless `path` is a folder."""
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
    if not path.is_file():
        raise UserError("no such label file", where=str(path), fix="put it there or check --source")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
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
                fix=f"iconv -f cp1252 -t utf-8 {path.name}",
            ) from error
        except csv.Error as error:
            raise UserError(
                "a label file is not a table", where=f"{path} row {reader.line_num}: {error}"
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
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
