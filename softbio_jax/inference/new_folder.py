"""A folder that has its name only once everything in it is written."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from softbio_jax.errors import UserError


@contextlib.contextmanager
def new_folder(directory: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, which gets its name once everything in it is written.

    Raises:
      UserError: the folder exists.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        raise UserError("the destination exists", where=str(directory), expected="a new name",
                        found="something there", fix="remove it or name another")  # fmt: skip
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
