"""Files of a run directory, on a disk or in an object store such as gs://.

An object store can neither append nor rename, but an object appears whole or not at all. So
what a disk appends to is kept in memory and written anew there.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence

from etils import epath

from softbio_jax.errors import UserError

EVERY = 60.0  # seconds between two writings of an object that grows


def is_local(path: epath.PathLike) -> bool:
    """Returns whether a path is on a disk."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path that does not depend on the current folder; epath's own breaks gs://."""
    return epath.Path(os.path.abspath(path) if is_local(path) else path)


def directory(path: epath.PathLike) -> epath.Path:
    """Returns a run's directory, which may not exist yet.

    Raises:
      UserError: it is in a store that cannot be reached.
    """
    folder = epath.Path(path)
    if not is_local(folder):
        try:
            folder.exists()
        except (ImportError, OSError) as error:
            missing = isinstance(error, ImportError)
            raise UserError(
                "directory cannot be reached",
                where=os.fspath(path),
                found=str(error),
                fix="pip install gcsfs" if missing else "check the name, network and credentials",
            ) from error
    return folder


def local(path: epath.PathLike, *, what: str, fix: str) -> pathlib.Path:
    """Returns a path that has to be on a disk.

    Raises:
      UserError: it is not.
    """
    if not is_local(path):
        raise UserError(f"{what} has to be on a disk", where=os.fspath(path), fix=fix)
    return pathlib.Path(path)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a UTF-8 text file that appears only once complete, and missing folders above it."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_local(path):
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    else:
        target.write_text(text)


def upload(folder: pathlib.Path, target: epath.Path, *, last: str = "") -> None:
    """Copies a folder to an object store in place of what is there.

    Args:
      folder: on a disk.
      target: where to.
      last: the file by which the whole is known: first to go, last to come.
    """
    if last:
        (target / last).unlink(missing_ok=True)
    target.rmtree(missing_ok=True)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in sorted(found, key=lambda path: path == folder / last):
        goal = target / path.relative_to(folder).as_posix()
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_bytes(path.read_bytes())


@contextlib.contextmanager
def staged(directory: epath.PathLike, *, name: str, last: str) -> Iterator[pathlib.Path]:
    """Yields a folder on a disk whose subfolder `name` ends up in a directory, local or not.

    For what writes with the disk's own means; `last` is that of `upload`.
    """
    if is_local(directory):
        yield pathlib.Path(directory)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield pathlib.Path(scratch)
        upload(pathlib.Path(scratch) / name, epath.Path(directory) / name, last=last)


class LineFile:
    """A text file that grows by lines.

    On a disk every line is there at once; an object is written anew every minute and by `flush`.

    Args:
      path: the file.
      lines: what it holds at first, in place of what it held; None: that.
    """

    def __init__(self, path: epath.PathLike, lines: Sequence[str] | None = None):
        self._path, self._local = epath.Path(path), is_local(path)
        if lines is not None:
            write_text(self._path, "".join(f"{line}\n" for line in lines))
        if self._local:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a")
        else:
            self._text = [self._path.read_text()] if self._path.exists() else []
            self._written, self._fresh = time.monotonic(), False

    def write(self, line: str) -> None:
        """Adds a line."""
        if self._local:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        self._text.append(f"{line}\n")
        self._fresh = True
        if time.monotonic() - self._written >= EVERY:
            self.flush()

    def flush(self) -> None:
        """Makes sure that every line so far outlives the process."""
        if not self._local and self._fresh:
            write_text(self._path, "".join(self._text))
            self._written, self._fresh = time.monotonic(), False

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._local:
            self._file.close()


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, whose file takes the place of `path` at the end.

    Where the block does not end well, `path` is as it was and nothing else is left.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with whole(folder / "table.csv") as temporary:
    ...     _ = temporary.write_text("id,age\\n")
    ...     assert not (folder / "table.csv").exists()
    >>> (folder / "table.csv").read_text()
    'id,age\\n'
    >>> len(list(folder.iterdir()))
    1

    Args:
      path: a file on a disk, in a folder that exists.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(directory: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to, which gets its name once everything in it is written.

    Raises:
      UserError: the folder exists.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        raise UserError(
            "the destination exists",
            where=str(directory),
            expected="a new name",
            found="something there",
            fix="remove it or name another",
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
